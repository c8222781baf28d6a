"""Cryptokey routing: longest prefix, last insertion wins, host bits masked."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from lopower.wireguard.allowed_ips import AllowedIPs
from lopower.wireguard.peer import Peer
from tests.support.wireguard_link import Network, Node


def peers(count: int) -> list[Peer]:
    network = Network()
    server = Node(network, "server", "192.0.2.1")
    return [server.interface.add_peer(bytes((i + 1,)) * 32) for i in range(count)]


def table_of(*entries: tuple[str, Peer]) -> AllowedIPs:
    table = AllowedIPs()
    for network, peer in entries:
        table.insert([network], peer)
    return table


def owner(table: AllowedIPs, address: str) -> Peer | None:
    return table.lookup(ip_address(address).packed)


def test_the_longest_prefix_wins_in_both_families() -> None:
    a, b, c = peers(3)
    table = table_of(("10.0.0.0/8", a), ("10.90.0.0/24", b), ("10.90.0.7/32", c), ("fd00::/8", a), ("fd00:1::/32", b))
    assert [owner(table, x) for x in ("10.1.1.1", "10.90.0.1", "10.90.0.7", "11.0.0.1")] == [a, b, c, None]
    assert [owner(table, x) for x in ("fd12::1", "fd00:1::5", "fe80::1")] == [a, b, None]


def test_a_default_route_owns_the_rest_of_its_family() -> None:
    a, b = peers(2)
    table = table_of(("0.0.0.0/0", a), ("10.0.0.0/8", b))
    assert owner(table, "192.0.2.1") is a
    assert owner(table, "10.0.0.1") is b
    assert owner(table, "fd00::1") is None


def test_the_last_insertion_wins() -> None:
    a, b = peers(2)
    table = table_of(("10.90.0.2/32", a), ("10.90.0.2/32", b))
    assert owner(table, "10.90.0.2") is b
    assert table.networks(a) == ()
    table.remove_peer(a)
    assert owner(table, "10.90.0.2") is b


def test_host_bits_are_masked() -> None:
    (a,) = peers(1)
    table = table_of(("10.90.0.77/24", a))
    assert owner(table, "10.90.0.1") is a
    assert table.networks(a) == (ip_network("10.90.0.0/24"),)


def test_a_bad_network_gives_none_of_its_list() -> None:
    (a,) = peers(1)
    table = AllowedIPs()
    with pytest.raises(ValueError, match="nonsense"):
        table.insert(["10.0.0.0/8", "nonsense"], a)
    assert owner(table, "10.0.0.1") is None


def test_removal_uncovers_what_lay_beneath() -> None:
    a, b = peers(2)
    table = table_of(("10.0.0.0/8", a), ("10.90.0.0/24", b))
    table.remove_peer(b)
    assert owner(table, "10.90.0.1") is a


def test_130000_networks_of_one_peer_against_a_linear_search() -> None:
    a, b = peers(2)
    rng = random.Random(7)
    networks = {}
    for _ in range(130_000):
        length = rng.choice((8, 12, 16, 20, 24, 28, 32))
        prefix = rng.getrandbits(length) if length else 0
        networks[prefix, length] = a
    for _ in range(500):
        length = rng.choice((16, 24, 32))
        networks[rng.getrandbits(length), length] = b
    table = AllowedIPs()
    for peer in (a, b):
        mine = [ip_network((p << (32 - n), n)) for (p, n), owner in networks.items() if owner is peer]
        table.insert(mine, peer)
    linear = [(p, 32 - n, n, peer) for (p, n), peer in networks.items()]
    for _ in range(25):
        address = rng.getrandbits(32)
        best = max(
            ((n, peer) for p, shift, n, peer in linear if address >> shift == p), key=lambda x: x[0], default=None
        )
        assert table.lookup(address.to_bytes(4, "big")) is (best[1] if best else None)
