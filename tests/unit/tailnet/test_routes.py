"""The host's addresses, sorted: own, attached, tailnet, or a provider's."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network

import pytest

from lopower.tailnet import routes
from lopower.tailnet.routes import HostNetwork, HostSnapshot, InterfaceAddress, interface_addresses, source_for


def entry(interface: str, text: str, *, loopback: bool = False) -> InterfaceAddress:
    address, _, length = text.partition("/")
    return InterfaceAddress(interface, ip_address(address), int(length), loopback)


LAN = [
    entry("lo", "127.0.0.1/8", loopback=True),
    entry("lo", "::1/128", loopback=True),
    entry("eth0", "192.168.7.2/24"),
    entry("eth0", "fd12:3456::2/64"),
    entry("eth0", "fe80::1/64"),
]
DEFAULT = frozenset({ip_address("192.168.7.2")})


def take(*more: InterfaceAddress, default: frozenset[object] = DEFAULT) -> HostSnapshot:
    return routes.take_snapshot([*LAN, *more], default)  # type: ignore[arg-type]


def test_all_addresses_are_the_hosts_own() -> None:
    assert take().addresses == {address.address.packed for address in LAN}


def test_attached_networks_are_without_loopback_and_link_local() -> None:
    assert take().attached == (ip_network("192.168.7.0/24"), ip_network("fd12:3456::/64"))


def test_host_routes_are_no_attached_networks() -> None:
    assert take(entry("ppp0", "198.51.100.7/32")).attached == take().attached


def test_tailscale_is_recognised_by_its_ipv6_prefix() -> None:
    snapshot = take(entry("tailscale0", "100.101.102.103/32"), entry("tailscale0", "fd7a:115c:a1e0::1234/128"))
    assert snapshot.tailnet == {ip_address("100.101.102.103"), ip_address("fd7a:115c:a1e0::1234")}
    assert snapshot.suspects == frozenset()
    assert snapshot.attached == take().attached


def test_tailscale_without_ipv6_is_recognised_too() -> None:
    snapshot = take(entry("tailscale0", "100.101.102.103/32"))
    assert snapshot.tailnet == {ip_address("100.101.102.103")}


@pytest.mark.parametrize("length", [32, 20])
def test_an_address_of_the_providers_cgnat_is_no_tailnet(length: int) -> None:
    """Otherwise strangers in 100.64.0.0/10 would be dialled in clear text."""
    wan = entry("ppp0", f"100.70.1.2/{length}")
    snapshot = take(wan, default=frozenset({wan.address}))
    assert snapshot.tailnet == frozenset()
    assert snapshot.suspects == {wan.address}
    assert snapshot.attached == take().attached


def test_a_tailnet_beside_the_providers_cgnat() -> None:
    wan = entry("ppp0", "100.70.1.2/32")
    snapshot = take(
        wan,
        entry("tailscale0", "100.101.102.103/32"),
        entry("tailscale0", "fd7a:115c:a1e0::1/128"),
        default=frozenset({wan.address}),
    )
    assert snapshot.tailnet == {ip_address("100.101.102.103"), ip_address("fd7a:115c:a1e0::1")}
    assert snapshot.suspects == {wan.address}


def test_an_exit_node_leaves_the_tailnet_a_tailnet() -> None:
    """With an exit node the default route leaves by the tailnet interface; its IPv6 prefix still says what it is."""
    address = entry("tailscale0", "100.101.102.103/32")
    snapshot = take(address, entry("tailscale0", "fd7a:115c:a1e0::1/128"), default=frozenset({address.address}))
    assert address.address in snapshot.tailnet


def test_the_real_addresses_hold_loopback() -> None:
    found = interface_addresses()
    loopback = [address for address in found if address.loopback]
    assert any(address.address.is_loopback for address in loopback)
    assert all(0 < address.prefix_length <= address.address.max_prefixlen for address in found)


def test_a_loopback_route_leaves_from_loopback() -> None:
    assert source_for(ip_address("127.0.0.1")) == ip_address("127.0.0.1")


def test_the_kernel_chooses_what_the_list_holds() -> None:
    """The two ways of asking agree: the source address of the default route is an address of ours."""
    source = source_for(ip_address("192.0.2.1"))
    if source is None:
        pytest.skip("no default route")
    assert source.packed in HostNetwork().snapshot.addresses


def test_listeners_hear_of_changes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = HostNetwork()
    heard: list[HostSnapshot] = []
    network.listeners.append(heard.append)
    network.refresh()
    assert heard == []
    monkeypatch.setattr(routes, "interface_addresses", lambda: [*LAN, entry("eth1", "10.9.8.7/24")])
    network.refresh()
    assert [ip_address("10.9.8.7").packed in snapshot.addresses for snapshot in heard] == [True]


def test_the_last_known_addresses_stay_when_they_cannot_be_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = HostNetwork()
    before = network.snapshot

    def fail() -> list[InterfaceAddress]:
        raise OSError(12, "out of memory")

    monkeypatch.setattr(routes, "interface_addresses", fail)
    network.refresh()
    assert network.snapshot is before


async def test_watching_begins_and_ends_without_a_trace() -> None:
    network = HostNetwork()
    loop = asyncio.get_running_loop()
    network.watch(loop)
    await asyncio.sleep(0)
    network.close()
    network.close()


async def test_watching_looks_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "REFRESH_SECONDS", 0.01)
    network = HostNetwork()
    changed = asyncio.Event()
    network.listeners.append(lambda snapshot: changed.set())
    network.watch(asyncio.get_running_loop())
    monkeypatch.setattr(routes, "interface_addresses", lambda: LAN)
    await asyncio.wait_for(changed.wait(), 2)
    network.close()


def test_packed_addresses_of_both_families() -> None:
    assert {len(address) for address in take().addresses} == {4, 16}
    assert socket.inet_aton("192.168.7.2") in take().addresses
