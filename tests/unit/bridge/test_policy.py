"""The policy table, row by row, in its order; and each row against both kinds of driver: in a tailnet, and in none."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lopower.bridge.policy import Decision, IPAddress, PolicyTable, Protocol, Via
from lopower.devices.device import Device
from lopower.devices.policy import Rule
from tests.support.bridge_devices import GATEWAY, make_device

HOST_LAN = ip_address("192.168.7.2")
HOST_PUBLIC = ip_address("198.51.100.7")
HOST_TAILNET = ip_address("100.101.102.103")
SUBNET_ROUTE = ip_network("192.168.55.0/24")
EVERYTHING = ("0.0.0.0/0", "::/0", "internet", "lan")


def no_tailnet(address: IPAddress) -> bool:
    return False


def in_tailnet(address: IPAddress) -> bool:
    """A tailnet that has routes to its own ranges and to one subnet."""
    return any(
        address in network
        for network in (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"), SUBNET_ROUTE)
        if network.version == address.version
    )


@pytest.fixture(params=[no_tailnet, in_tailnet], ids=["host in no tailnet", "host in a tailnet"])
def tailnet(request: pytest.FixtureRequest) -> Callable[[IPAddress], bool]:
    routes: Callable[[IPAddress], bool] = request.param
    return routes


class Table:
    """A policy table with two devices, and short ways to ask it."""

    def __init__(self, tailnet: Callable[[IPAddress], bool], *, rules: tuple[str, ...] = (), own: tuple[str, ...] = ()):
        self.device = make_device(2, name="kitchen", rules=own)
        self.other = make_device(3, name="cellar")
        by_address = {
            address.packed: device
            for device in (self.device, self.other)
            for address in (device.ipv4, device.ipv6)
            if address is not None
        }
        self.policy = PolicyTable(
            gateway=GATEWAY,
            ranges=(ip_network("10.90.0.0/24"), ip_network("fd7a:115c:a1e0:9909::/64")),
            rules=tuple(map(Rule.parse, rules)),
            offers=lambda protocol, port: (protocol, port) in {("tcp", 80), ("udp", 53)},
            device_at=by_address.get,
            tailnet_routes=tailnet,
        )
        self.policy.set_host(
            {address.packed for address in (HOST_LAN, HOST_PUBLIC, HOST_TAILNET)},
            (ip_network("192.168.7.0/24"), ip_network("fd12:3456::/64")),
        )

    def decide(
        self,
        destination: str | IPAddress,
        port: int | None = 443,
        protocol: Protocol = "tcp",
        device: Device | None = None,
    ) -> Decision:
        return self.policy.decide(device or self.device, ip_address(destination).packed, protocol, port)

    def via(self, destination: str | IPAddress, port: int | None = 443, protocol: Protocol = "tcp") -> Via:
        return self.decide(destination, port, protocol).via

    def reason(self, destination: str | IPAddress, port: int | None = 443, protocol: Protocol = "tcp") -> str:
        decision = self.decide(destination, port, protocol)
        assert decision.message or decision.via not in (Via.REFUSED, Via.UNREACHABLE, Via.CLOSED)
        return decision.reason


Routes = Callable[[IPAddress], bool]


# Row 1: gateway services.


@pytest.mark.parametrize("gateway", GATEWAY)
def test_gateway_services_are_open_to_everybody(tailnet: Routes, gateway: IPAddress) -> None:
    table = Table(tailnet, own=("deny 0.0.0.0/0", "deny ::/0"))
    assert table.via(gateway, 80) is Via.GATEWAY
    assert table.via(gateway, 53, "udp") is Via.GATEWAY
    assert table.via(gateway, None, "icmp") is Via.GATEWAY


@pytest.mark.parametrize("gateway", GATEWAY)
def test_the_gateways_other_ports_are_closed_whatever_the_rules(tailnet: Routes, gateway: IPAddress) -> None:
    table = Table(tailnet, own=EVERYTHING)
    assert table.via(gateway, 22) is Via.CLOSED
    assert table.via(gateway, 53, "tcp") is Via.CLOSED


# Row 2: our own ranges.


@pytest.mark.parametrize("address", ["10.90.0.3", "fd7a:115c:a1e0:9909::3"])
def test_device_to_device_needs_a_rule_that_names_it(tailnet: Routes, address: str) -> None:
    assert Table(tailnet).reason(address) == "refused_device_to_device"
    assert Table(tailnet, own=EVERYTHING).reason(address) == "refused_device_to_device"
    for table in (Table(tailnet, own=("device:cellar",)), Table(tailnet, rules=("device:cellar",))):
        decision = table.decide(address)
        assert decision.via is Via.DEVICE
        assert decision.device is table.other


def test_device_rules_know_ports(tailnet: Routes) -> None:
    table = Table(tailnet, own=("device:cellar:1883/tcp",))
    assert table.via("10.90.0.3", 1883) is Via.DEVICE
    assert table.via("10.90.0.3", 1884) is Via.REFUSED
    assert table.via("10.90.0.3", 1883, "udp") is Via.REFUSED
    assert table.via("10.90.0.3", None, "icmp") is Via.REFUSED


def test_deny_beats_allow_and_the_devices_own_rules_beat_the_global_ones(tailnet: Routes) -> None:
    assert Table(tailnet, own=("device:cellar", "deny device:cellar")).via("10.90.0.3") is Via.REFUSED
    assert Table(tailnet, own=("device:cellar",), rules=("deny device:cellar",)).via("10.90.0.3") is Via.DEVICE
    assert Table(tailnet, own=("deny device:cellar",), rules=("device:cellar",)).via("10.90.0.3") is Via.REFUSED


def test_an_address_of_ours_without_a_device_is_unreachable(tailnet: Routes) -> None:
    table = Table(tailnet, own=EVERYTHING)
    assert table.via("10.90.0.77") is Via.UNREACHABLE
    assert table.via("fd7a:115c:a1e0:9909::77") is Via.UNREACHABLE, "inside the tailnet's range, and ours"


def test_a_device_does_not_reach_itself_through_the_proxy(tailnet: Routes) -> None:
    assert Table(tailnet, own=("device:kitchen",)).reason("10.90.0.2") == "refused_own_address"


# Row 3: always refused.


@pytest.mark.parametrize("rules", [EVERYTHING, ()], ids=["everything allowed", "no rules"])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "refused_loopback"),
        ("127.255.255.254", "refused_loopback"),
        ("::1", "refused_loopback"),
        (str(HOST_LAN), "refused_host_address"),
        (str(HOST_PUBLIC), "refused_host_address"),
        (str(HOST_TAILNET), "refused_host_address"),
        ("100.100.100.100", "refused_tailnet_resolver"),
        ("fd7a:115c:a1e0::53", "refused_tailnet_resolver"),
        ("169.254.10.20", "refused_link_local"),
        ("fe80::1", "refused_link_local"),
        ("224.0.0.251", "refused_multicast"),
        ("239.255.255.250", "refused_multicast"),
        ("ff02::fb", "refused_multicast"),
        ("255.255.255.255", "refused_unusable_address"),
        ("0.0.0.0", "refused_unusable_address"),
        ("0.1.2.3", "refused_unusable_address"),
        ("240.0.0.1", "refused_unusable_address"),
        ("::", "refused_unusable_address"),
        ("::127.0.0.1", "refused_unusable_address"),
        ("::ffff:127.0.0.1", "refused_unusable_address"),
        ("::ffff:192.168.7.1", "refused_unusable_address"),
        ("64:ff9b::127.0.0.1", "refused_loopback"),
        ("64:ff9b::169.254.9.9", "refused_link_local"),
        ("fec0::1", "refused_unusable_address"),
    ],
)
def test_always_refused(tailnet: Routes, rules: tuple[str, ...], address: str, reason: str) -> None:
    for table in (Table(tailnet, own=rules), Table(tailnet, rules=rules)):
        for protocol, port in (("tcp", 443), ("udp", 53), ("icmp", None)):
            assert table.reason(address, port, protocol) == reason  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["127.0.0.1", str(HOST_LAN), str(HOST_TAILNET)])
def test_who_wants_the_host_itself_is_told_of_serve(tailnet: Routes, address: str) -> None:
    assert "lopower serve" in Table(tailnet).decide(address).message


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", str(HOST_LAN), "169.254.9.9", "224.0.0.1", "100.100.100.100"])
def test_not_even_an_exact_rule_opens_them(tailnet: Routes, address: str) -> None:
    assert Table(tailnet, own=(address,), rules=(address,)).via(address) is Via.REFUSED


def test_addresses_that_become_the_hosts_own_are_refused_from_then_on(tailnet: Routes) -> None:
    table = Table(tailnet, own=("192.168.7.0/24",))
    assert table.via("192.168.7.9") is Via.DIRECT
    table.policy.set_host({ip_address("192.168.7.9").packed}, ())
    assert table.reason("192.168.7.9") == "refused_host_address"
    assert table.via(HOST_LAN) is Via.DIRECT, "and it is nobody's special address any more"


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    ],
)
def test_metadata_opens_to_an_exact_rule_alone(tailnet: Routes, address: str) -> None:
    assert Table(tailnet).reason(address) == "refused_metadata"
    assert Table(tailnet, own=EVERYTHING, rules=EVERYTHING).reason(address) == "refused_metadata"
    wider = str(ip_network(f"{address}/{ip_address(address).max_prefixlen - 1}", strict=False))
    assert Table(tailnet, own=(wider,)).reason(address) == "refused_metadata"
    assert Table(tailnet, own=(address,)).via(address, 80) is Via.DIRECT
    assert Table(tailnet, rules=(address,)).via(address, 80) is Via.DIRECT
    assert Table(tailnet, own=(f"deny {address}",), rules=(address,)).reason(address) == "refused_metadata"


# Rows 4 and 5: the device's rules, then the global ones.


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("192.168.7.0/24", "192.168.7.9", "192.168.8.9"),
        ("fd99::/64", "fd99::1", "fd99:0:0:1::1"),
        ("internet", "93.184.216.34", "192.168.7.9"),
        ("internet", "2606:2800:220:1::1", "fd12:3456::9"),
        ("internet", "64:ff9b::93.184.216.34", "64:ff9b::10.0.0.1"),
        ("lan", "192.168.7.9", "192.168.8.9"),
        ("lan", "fd12:3456::9", "fd12:3457::9"),
    ],
)
def test_what_rules_open_is_dialled_directly(tailnet: Routes, rule: str, inside: str, outside: str) -> None:
    for table in (Table(tailnet, own=(rule,)), Table(tailnet, rules=(rule,))):
        assert table.via(inside) is Via.DIRECT
        assert table.reason(outside) == "refused_not_allowed"


@pytest.mark.parametrize(
    "address",
    [
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "198.18.0.1",
        "203.0.113.5",
        "192.0.2.1",
        "fd00::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2001::1",
        "3fff::1",
        "4000::1",
    ],
)
def test_the_internet_is_public_unicast(address: str) -> None:
    assert Table(no_tailnet, own=("internet",)).via(address) is not Via.DIRECT


def test_ports_and_protocols_of_rules(tailnet: Routes) -> None:
    table = Table(tailnet, own=("192.168.7.9:80,8000-8100/tcp",))
    assert table.via("192.168.7.9", 80) is Via.DIRECT
    assert table.via("192.168.7.9", 8050) is Via.DIRECT
    assert table.via("192.168.7.9", 8101) is Via.REFUSED
    assert table.via("192.168.7.9", 80, "udp") is Via.REFUSED
    assert table.via("192.168.7.9", None, "icmp") is Via.REFUSED


def test_deny_beats_allow_at_the_same_level_in_any_order(tailnet: Routes) -> None:
    for rules in (("lan", "deny 192.168.7.9"), ("deny 192.168.7.9", "lan")):
        table = Table(tailnet, own=rules)
        assert table.reason("192.168.7.9") == "refused_device_rule"
        assert table.via("192.168.7.10") is Via.DIRECT
        assert Table(tailnet, rules=rules).reason("192.168.7.9") == "refused_global_rule"


def test_the_devices_rules_come_before_the_global_ones(tailnet: Routes) -> None:
    assert Table(tailnet, own=("192.168.7.9",), rules=("deny lan",)).via("192.168.7.9") is Via.DIRECT
    assert Table(tailnet, own=("deny 192.168.7.9",), rules=("lan",)).reason("192.168.7.9") == "refused_device_rule"


def test_where_the_tailnet_has_a_route_it_wins() -> None:
    assert Table(in_tailnet, own=("192.168.55.0/24",)).via("192.168.55.1") is Via.TAILNET
    assert Table(no_tailnet, own=("192.168.55.0/24",)).via("192.168.55.1") is Via.DIRECT


def test_a_subnet_of_the_tailnet_needs_a_rule_all_the_same() -> None:
    assert Table(in_tailnet).reason("192.168.55.1") == "refused_not_allowed"


# Row 6: tailnet ranges.


@pytest.mark.parametrize("address", ["100.64.0.1", "100.127.0.1", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0:b1a:0:7:a00:1"])
def test_tailnet_ranges_go_to_the_driver(tailnet: Routes, address: str) -> None:
    assert Table(tailnet).via(address) is Via.TAILNET
    assert Table(tailnet, rules=("deny 0.0.0.0/0", "deny ::/0")).reason(address) == "refused_global_rule"


@pytest.mark.parametrize("address", ["100.64.0.1", "fd7a:115c:a1e0::1"])
def test_no_rule_sends_tailnet_ranges_anywhere_else(tailnet: Routes, address: str) -> None:
    """Without a tailnet strangers in the provider's CGNAT would be dialled in clear text."""
    assert Table(tailnet, own=(address, *EVERYTHING), rules=EVERYTHING).via(address) is Via.TAILNET


# Row 7: refused.


@pytest.mark.parametrize("address", ["192.168.7.9", "10.0.0.1", "93.184.216.34", "2606:2800:220:1::1", "fd12:3456::9"])
def test_everything_else_is_refused(tailnet: Routes, address: str) -> None:
    table = Table(tailnet)
    assert table.reason(address) == "refused_not_allowed"
    assert "lopower device allow" in table.decide(address).message


@pytest.mark.parametrize("module", ["lopower.bridge.policy", "lopower.bridge.special_addresses", "lopower.wire.sntp"])
def test_what_decides_does_no_io(module: str) -> None:
    """Neither sockets nor clocks nor randomness: the same question gets the same answer."""
    file = importlib.import_module(module).__file__
    assert file is not None
    tree = ast.parse(Path(file).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    forbidden = {"socket", "asyncio", "time", "os", "random", "secrets", "threading"}
    assert not {name.partition(".")[0] for name in names} & forbidden


def test_policy_in_words(tailnet: Routes) -> None:
    table = Table(tailnet, own=("192.168.7.9:80", "deny internet"), rules=("lan",))
    assert table.policy.describe(table.device) == [
        "the gateway's services",
        "192.168.7.9:80 (a rule for this device)",
        "never internet (a rule for this device)",
        "lan (a rule for all devices)",
        "the tailnet, where its own rules permit",
        "nothing else",
    ]
