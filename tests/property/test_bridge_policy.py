"""Whatever the rules, policy opens neither the host itself nor, off the tailnet, the tailnet's addresses."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from lopower.bridge.policy import IPAddress, PolicyTable, Protocol, Via
from lopower.bridge.special_addresses import METADATA, is_public, never_reached
from lopower.devices.policy import Rule
from lopower.tailnet.driver import in_tailnet_ranges
from tests.support.bridge_devices import GATEWAY, make_device

HOST = ip_address("192.168.7.2")

addresses = st.one_of(
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.sampled_from([HOST, *GATEWAY, *map(ip_address, ("127.0.0.1", "::1", "100.64.1.2", "fd7a:115c:a1e0::2"))]),
    st.sampled_from(sorted(METADATA)).map(ip_address),
    st.integers(0, 2**32 - 1).map(lambda number: IPv6Address((0xFFFF << 32) | number)),
    st.integers(0, 2**32 - 1).map(lambda number: IPv6Address((0x64FF9B << 96) | number)),
)


def networks(address: IPAddress) -> st.SearchStrategy[str]:
    return st.integers(0, address.max_prefixlen).map(
        lambda length: str(ip_network((address.packed, length), strict=False))
    )


rules = st.lists(
    st.tuples(
        st.sampled_from(["allow", "deny"]),
        st.one_of(st.sampled_from(["internet", "lan"]), addresses.flatmap(networks)),
    ).map(" ".join),
    max_size=6,
).map(lambda texts: tuple(map(Rule.parse, texts)))


@given(rules, rules, addresses, st.sampled_from(["tcp", "udp", "icmp"]), st.integers(1, 65535), st.booleans())
def test_no_rules_open_the_host(
    own: tuple[Rule, ...],
    everybodys: tuple[Rule, ...],
    destination: IPAddress,
    protocol: Protocol,
    port: int,
    in_tailnet: bool,
) -> None:
    device = make_device(2)
    policy = PolicyTable(
        gateway=GATEWAY,
        ranges=(ip_network("10.90.0.0/24"), ip_network("fd7a:115c:a1e0:9909::/64")),
        rules=everybodys,
        offers=lambda protocol, port: False,
        device_at=lambda packed: None,
        tailnet_routes=lambda address: in_tailnet,
    )
    policy.set_host({HOST.packed}, (ip_network("192.168.7.0/24"),))
    object.__setattr__(device, "rules", own)
    decision = policy.decide(device, destination.packed, protocol, None if protocol == "icmp" else port)
    if destination == HOST or never_reached(destination) == "loopback":
        assert decision.via is Via.REFUSED
    if destination in GATEWAY:
        assert decision.via in (Via.GATEWAY, Via.CLOSED)
    if decision.via is Via.DIRECT:
        assert destination.packed in METADATA or not in_tailnet_ranges(destination)
        assert destination.packed in METADATA or never_reached(destination) is None
        assert any(not rule.denies for rule in own + everybodys)
    if destination.packed in METADATA and decision.via is Via.DIRECT:
        exact = {rule.network for rule in own + everybodys if rule.network is not None}
        assert ip_network(destination) in exact
    if not own and not everybodys:
        assert decision.via is not Via.DIRECT
    if decision.via in (Via.REFUSED, Via.UNREACHABLE, Via.CLOSED):
        assert decision.reason.startswith("refused_")
        assert decision.message


@given(st.ip_addresses(v=4))
def test_public_agrees_with_the_registry(address: IPv4Address) -> None:
    """An independent reading of the same registries; anycast for 6to4 relays was withdrawn (RFC 7526)."""
    if address in ip_network("192.88.99.0/24") or address in ip_network("192.0.0.0/24"):
        return
    assert is_public(address) == (address.is_global and not address.is_multicast)
