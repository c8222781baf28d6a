"""The AllowedIPs table against a linear search, under insertions, moves and removals."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.wireguard.allowed_ips import AllowedIPs
from lopower.wireguard.peer import Peer
from tests.support.wireguard_link import Network, Node

Prefix = tuple[int, int, int]  # version, length, address

# Few distinct bits, so that networks nest and meet.
ADDRESSES_V4 = st.sampled_from([0x0A5A0001, 0x0A5A0002, 0x0A5A0102, 0x0A5B0001, 0x0B000001, 0xFFFFFFFF, 0])
ADDRESSES_V6 = st.sampled_from([0xFD7A << 112 | 1, 0xFD7A << 112 | 2, 0xFD7B << 112, 0xFE80 << 112 | 1, 2**128 - 1, 0])
NETWORKS = st.one_of(
    st.tuples(st.just(4), st.sampled_from([0, 8, 15, 16, 24, 31, 32]), ADDRESSES_V4),
    st.tuples(st.just(6), st.sampled_from([0, 8, 15, 16, 64, 127, 128]), ADDRESSES_V6),
)
ACTIONS = st.lists(st.tuples(st.sampled_from(["insert", "insert", "remove"]), st.integers(0, 2), NETWORKS), max_size=30)


def network_of(prefix: Prefix) -> IPv4Network | IPv6Network:
    version, length, address = prefix
    return ip_network((address.to_bytes(4 if version == 4 else 16, "big"), length), strict=False)


@given(ACTIONS, st.lists(st.one_of(ADDRESSES_V4.map(lambda a: (4, a)), ADDRESSES_V6.map(lambda a: (16, a)))))
@settings(max_examples=200, deadline=None)
def test_the_longest_prefix_wins_and_the_last_insertion(
    actions: list[tuple[str, int, Prefix]], addresses: list[tuple[int, int]]
) -> None:
    node = Node(Network(), "server", "192.0.2.1")
    peers = [node.interface.add_peer(bytes((i + 1,)) * 32) for i in range(3)]
    table = AllowedIPs()
    linear: dict[IPv4Network | IPv6Network, Peer] = {}
    for action, number, prefix in actions:
        if action == "insert":
            table.insert([network_of(prefix)], peers[number])
            linear[network_of(prefix)] = peers[number]
        else:
            table.remove_peer(peers[number])
            linear = {network: peer for network, peer in linear.items() if peer is not peers[number]}
    for size, address in addresses:
        packed = address.to_bytes(size, "big")
        covering = [
            (network.prefixlen, peer)
            for network, peer in linear.items()
            if network.max_prefixlen == size * 8
            and address >> (size * 8 - network.prefixlen)
            == int(network.network_address) >> (size * 8 - network.prefixlen)
        ]
        best = max(covering, key=lambda entry: entry[0], default=None)
        assert table.lookup(packed) is (best[1] if best else None)
    for peer in peers:
        assert set(table.networks(peer)) == {network for network, owner in linear.items() if owner is peer}
