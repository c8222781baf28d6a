"""Cryptokey routing (whitepaper section 2): which peer an inner address belongs to, by the longest prefix.

One table for the whole interface. Per address family there is one dictionary for each prefix length in use, asked from
the longest on; real tables use two or three lengths, so that a look-up costs as many dictionary look-ups, however many
networks there are.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network

from lopower.wireguard.peer import Peer

Network = IPv4Network | IPv6Network
NetworkLike = str | IPv4Network | IPv6Network | IPv4Interface | IPv6Interface | IPv4Address | IPv6Address


class _Family:
    """The table of one address family."""

    __slots__ = ("by_length", "lengths", "width")

    def __init__(self, width: int) -> None:
        self.width = width  # bits of an address
        self.by_length: dict[int, dict[int, Peer]] = {}
        self.lengths: list[tuple[int, dict[int, Peer]]] = []  # bits to shift out and their table, longest prefix first

    def insert(self, prefix: int, length: int, peer: Peer) -> Peer | None:
        table = self.by_length.setdefault(length, {})
        before = table.get(prefix)
        table[prefix] = peer
        self._index()
        return before

    def remove(self, prefix: int, length: int) -> None:
        table = self.by_length[length]
        del table[prefix]
        if not table:
            del self.by_length[length]
            self._index()

    def lookup(self, address: int) -> Peer | None:
        for shift, table in self.lengths:
            peer = table.get(address >> shift)
            if peer is not None:
                return peer
        return None

    def _index(self) -> None:
        if len(self.lengths) != len(self.by_length):
            ordered = sorted(self.by_length.items(), reverse=True)
            self.lengths = [(self.width - length, table) for length, table in ordered]


def as_network(network: NetworkLike) -> Network:
    """`network` with its host bits masked. Raises ValueError for what is not an address or a network."""
    if isinstance(network, (IPv4Network, IPv6Network)):
        return network
    if isinstance(network, (IPv4Interface, IPv6Interface)):
        return network.network
    return ip_network(network, strict=False)


class AllowedIPs:
    """The interface's table.

    Attributes:
        generation: changes with the table, so that what was learned from it can be kept until then.
    """

    __slots__ = ("_families", "_owned", "generation")

    def __init__(self) -> None:
        self._families = {4: _Family(32), 16: _Family(128)}
        self._owned: dict[Peer, dict[Network, None]] = {}
        self.generation = 0

    def insert(self, networks: Iterable[NetworkLike], peer: Peer) -> None:
        """Give networks to `peer`; one that another peer had moves. Raises ValueError, and then gives none of them."""
        masked = [as_network(network) for network in networks]
        owned = self._owned.setdefault(peer, {})
        for network in masked:
            prefix, length = self._key(network)
            before = self._families[network.max_prefixlen // 8].insert(prefix, length, peer)
            if before is not None and before is not peer:
                del self._owned[before][network]
            owned[network] = None
        self.generation += 1

    def remove_peer(self, peer: Peer) -> None:
        """Take all of a peer's networks away."""
        for network in self._owned.pop(peer, ()):
            prefix, length = self._key(network)
            self._families[network.max_prefixlen // 8].remove(prefix, length)
        self.generation += 1

    def networks(self, peer: Peer) -> tuple[Network, ...]:
        """What `peer` owns, in the order of insertion."""
        return tuple(self._owned.get(peer, ()))

    def lookup(self, address: bytes) -> Peer | None:
        """The owner of a packed address of 4 or 16 bytes."""
        return self._families[len(address)].lookup(int.from_bytes(address, "big"))

    @staticmethod
    def _key(network: Network) -> tuple[int, int]:
        length = network.prefixlen
        return int(network.network_address) >> (network.max_prefixlen - length), length
