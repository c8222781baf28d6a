"""AllowedIPs hold the gateway, the device itself, and what its policy permits."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from lopower.devices.addresses import Ranges
from lopower.devices.allowed_ips import allowed_ips
from lopower.devices.device import Device
from lopower.devices.server_facts import ServerEndpoint
from tests.support.registries import device, parse, server_facts

BASE = ["10.90.0.1/32", "10.90.0.9/32", "fd7a:115c:a1e0:9909::1/128", "fd7a:115c:a1e0:9909::9/128"]
TAILNET = [IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48")]
LAN = [IPv4Network("192.168.1.0/24"), IPv6Network("2001:db8:1::/64")]


def listed(own: Device, **facts: Any) -> list[str]:
    return list(map(str, allowed_ips(own, server_facts(**facts))))


def covers(own: Device, address: str, **facts: Any) -> bool:
    wanted = ip_address(address)
    return any(
        wanted in network for network in allowed_ips(own, server_facts(**facts)) if network.version == wanted.version
    )


def test_without_rules_the_gateway_and_itself() -> None:
    assert listed(device("kitchen", 9)) == BASE


def test_the_tailnet_only_where_the_driver_reaches_it() -> None:
    assert listed(device("kitchen", 9), tailnet=TAILNET) == [*BASE[:2], "100.64.0.0/10", "fd7a:115c:a1e0::/48"]


@pytest.mark.parametrize(
    ("rules", "more"),
    [
        (["172.20.0.0/16"], ["172.20.0.0/16"]),
        (["172.20.0.5:80/tcp"], ["172.20.0.5/32"]),
        (["172.20.0.0/24", "172.20.1.0/24"], ["172.20.0.0/23"]),
        (["172.20.0.0/24", "deny 172.20.0.128/25"], ["172.20.0.0/25"]),
        (["172.20.0.0/24", "deny 172.20.0.0/16"], []),
        (["172.20.0.0/24", "deny 172.20.0.0/24:25"], ["172.20.0.0/24"]),
        (["deny 172.20.0.0/24"], []),
    ],
)
def test_networks_of_the_device_s_rules(rules: list[str], more: list[str]) -> None:
    assert set(listed(device("kitchen", 9, *rules))) == {*BASE, *more}


def test_global_rules_count_and_the_device_s_denials_beat_them() -> None:
    facts = {"rules": parse("172.20.0.0/24", "172.21.0.0/24"), "tailnet": TAILNET}
    own = device("kitchen", 9, "deny 172.20.0.0/16", "deny 100.64.0.0/10")
    assert "172.21.0.0/24" in listed(own, **facts)
    assert not covers(own, "172.20.0.1", **facts)
    assert not covers(own, "100.100.1.1", **facts)


def test_a_device_s_permission_beats_a_global_denial() -> None:
    facts = {"rules": parse("deny 172.20.0.0/16"), "tailnet": TAILNET}
    assert covers(device("kitchen", 9, "172.20.0.0/24"), "172.20.0.1", **facts)
    assert not covers(device("kitchen", 9), "172.20.0.1", **facts)


def test_lan_is_what_the_host_is_attached_to() -> None:
    assert {"192.168.1.0/24", "2001:db8:1::/64"} < set(listed(device("kitchen", 9, "lan:1883"), lan=LAN))


def test_the_server_s_own_address_stays_outside_the_tunnel() -> None:
    """A system that routes by this list alone would otherwise send the tunnel's own packets into it."""
    facts = {"lan": LAN, "endpoints": [ServerEndpoint("192.168.1.7", 51820), ServerEndpoint("2001:db8:1::7", 51820)]}
    own = device("kitchen", 9, "lan")
    assert not covers(own, "192.168.1.7", **facts)
    assert not covers(own, "2001:db8:1::7", **facts)
    for other in ("192.168.1.6", "192.168.1.8", "192.168.1.255", "2001:db8:1::6", "2001:db8:1::8"):
        assert covers(own, other, **facts)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "9.255.255.255", "223.255.255.255", "100.63.0.1", "2001:4860::1"]
)
def test_internet_covers_public_addresses(address: str) -> None:
    assert covers(device("kitchen", 9, "internet"), address)


@pytest.mark.parametrize(
    "address",
    ["10.1.1.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "192.168.1.1", "224.0.0.1", "fd00::1"],
)
def test_internet_leaves_other_networks_with_the_device(address: str) -> None:
    assert not covers(device("kitchen", 9, "internet"), address)


def test_internet_stays_small_enough_for_a_code() -> None:
    assert len(listed(device("kitchen", 9, "internet"))) < 60


def test_full_tunnel_takes_everything() -> None:
    assert listed(device("kitchen", 9, "deny internet", full_tunnel=True)) == ["0.0.0.0/0", "::/0"]


def test_another_device_is_listed_on_both_sides() -> None:
    """One opens connections, the other must let them in and answer."""
    phone, printer = device("phone", 5, "device:printer:631"), device("printer", 6)
    bystander = device("bystander", 7)
    devices = [phone, printer, bystander]
    assert covers(phone, "10.90.0.6", devices=devices)
    assert covers(printer, "10.90.0.5", devices=devices)
    assert covers(printer, "fd7a:115c:a1e0:9909::5", devices=devices)
    assert not covers(bystander, "10.90.0.5", devices=devices)
    assert not covers(bystander, "10.90.0.6", devices=devices)


def test_a_denial_between_devices_holds_on_both_sides() -> None:
    phone, printer = device("phone", 5, "device:printer", "deny device:printer"), device("printer", 6)
    assert not covers(phone, "10.90.0.6", devices=[phone, printer])
    assert not covers(printer, "10.90.0.5", devices=[phone, printer])


def test_a_network_rule_does_not_open_devices_nor_close_them() -> None:
    phone, printer = device("phone", 5, "device:printer", "deny 10.0.0.0/8"), device("printer", 6)
    assert covers(phone, "10.90.0.6", devices=[phone, printer])


def test_a_device_open_to_all_lists_the_ranges() -> None:
    printer, phone = device("printer", 6), device("phone", 5)
    facts = {"devices": [printer, phone], "rules": parse("device:printer:631")}
    assert listed(printer, **facts) == ["10.90.0.0/24", "fd7a:115c:a1e0:9909::/64"]
    assert covers(phone, "10.90.0.6", **facts)


def test_a_rule_for_a_device_that_is_gone_adds_nothing() -> None:
    own = device("phone", 9)
    assert listed(own, devices=[own], rules=parse("device:gone")) == BASE


def test_only_families_the_device_has() -> None:
    own = device("kitchen", 9, "0.0.0.0/0", "fd00::/8", ipv4=None)
    assert all(network.version == 6 for network in allowed_ips(own, server_facts(tailnet=TAILNET)))
    own = device("kitchen", 9, "fd00::/8", ipv6=None)
    assert listed(own) == BASE[:2]


def test_ranges_of_one_s_own() -> None:
    ranges = Ranges(ipv4=IPv4Network("172.30.0.0/20"), ipv6=IPv6Network("fd01:2345:6789:abcd::/64"))
    own = device("kitchen", 9, ipv4=IPv4Address("172.30.0.9"), ipv6=ip_network("fd01:2345:6789:abcd::/64")[9])
    assert listed(own, ranges=ranges) == [
        "172.30.0.1/32",
        "172.30.0.9/32",
        "fd01:2345:6789:abcd::1/128",
        "fd01:2345:6789:abcd::9/128",
    ]
