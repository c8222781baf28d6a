"""Fragments: reassembly (RFC 791 section 3.2, RFC 8200 section 4.5), and splitting what exceeds the MTU.

Reassembly is where a peer makes others hold memory for it, so every table is bounded, per peer and in total. Overlaps
are what attacks are made of (RFC 5722, and the same for IPv4): they condemn the whole packet, and what comes of it
later.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from lopower.wire.ip import (
    FRAGMENT_HEADER,
    IPV4_HEADER,
    IPV6_HEADER,
    MAX_PACKET,
    IpHeader,
    ip_header,
    ipv4_header,
    ipv6_fragment_headers,
)

# Each of these is exhausted by a peer that sends fragments and never the last one.
MAX_FRAGMENTS: Final = 128  # of one packet: 65,535 bytes in fragments for the smallest MTU of IPv4 are 119
MAX_PACKETS_PER_PEER: Final = 64
MAX_BYTES_PER_PEER: Final = 512 << 10
MAX_BYTES: Final = 16 << 20  # by many peers together; then the one that holds most loses its oldest

_OVERHEAD: Final = 160  # what a fragment costs beside its data, so that tiny ones are not free


@dataclass(frozen=True, slots=True, kw_only=True)
class FragmentConfig:
    """Attributes:
    ipv4_timeout, ipv6_timeout: seconds from the first fragment that arrived to giving up (RFC 1122 section 3.3.2
        asks for a fixed value and suggests 60 to 120, Linux waits 30; RFC 8200 section 4.5: 60).
    """

    ipv4_timeout: float = 30.0
    ipv6_timeout: float = 60.0


class ExpiredPacket(NamedTuple):
    """A packet that stayed incomplete; `start` is its first fragment as it arrived, or empty if that never came."""

    peer: Any
    start: bytes


class _Partial:
    """What is there of one packet."""

    __slots__ = (
        "cost",
        "data",
        "expires",
        "first",
        "is_condemned",
        "key",
        "offsets",
        "peer",
        "protocol",
        "received",
        "size",
    )

    def __init__(self, peer: Any, key: bytes, expires: float) -> None:
        self.peer = peer
        self.key = key
        self.expires = expires
        self.offsets: list[int] = []
        self.data: list[bytes] = []
        self.received = 0
        self.size: int | None = None  # known with the last fragment
        self.first = b""
        self.protocol = 0
        self.cost = _OVERHEAD
        self.is_condemned = False


class Reassembly:
    """Packets of all peers that are not complete yet."""

    __slots__ = ("_by_peer", "_bytes", "_bytes_by_peer", "_config", "_counters", "_queues")

    def __init__(self, config: FragmentConfig, counters: Counter[str]) -> None:
        self._config = config
        self._counters = counters
        self._by_peer: dict[Any, OrderedDict[bytes, _Partial]] = {}
        self._bytes_by_peer: dict[Any, int] = {}
        self._bytes = 0
        # One timeout per version: in the order of arrival is in the order of expiry.
        self._queues: dict[int, OrderedDict[_Partial, None]] = {4: OrderedDict(), 6: OrderedDict()}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def held_bytes(self) -> int:
        """Memory in use, bookkeeping included (an estimate)."""
        return self._bytes

    def receive(self, peer: Any, packet: bytes | memoryview[int], ip: IpHeader, now: float) -> bytes | None:
        """Take one fragment; the whole packet, without options and extension headers, once it is complete."""
        fragment = ip.fragment
        if fragment is None:
            raise ValueError("a whole packet needs no reassembly")
        key = ip.source + ip.destination + fragment.identification.to_bytes(4, "big")
        if ip.version == 4:  # RFC 791: the protocol is part of the name; RFC 8200: it is not
            key += bytes((ip.protocol,))
        partials = self._by_peer.get(peer)
        partial = partials.get(key) if partials is not None else None
        if partial is None:
            partial = self._begin(peer, key, ip.version, now)
        if partial.is_condemned:
            self._counters["fragment_of_condemned"] += 1
            return None
        start, length = fragment.offset, ip.total_length - ip.header_length
        end = start + length
        index = bisect_left(partial.offsets, start)
        if index < len(partial.offsets) and partial.offsets[index] == start:
            # RFC 8200 section 4.5: an exact duplicate may be ignored, and networks do duplicate.
            is_duplicate = partial.data[index] == packet[ip.header_length : ip.total_length]
            if is_duplicate and fragment.more == (end != partial.size):
                self._counters["fragment_duplicate"] += 1
                return None
        size = partial.size
        if (
            (index and partial.offsets[index - 1] + len(partial.data[index - 1]) > start)
            or (index < len(partial.offsets) and partial.offsets[index] < end)
            or (size is not None and (end > size or not fragment.more))
            or (not fragment.more and partial.offsets and partial.offsets[-1] + len(partial.data[-1]) > end)
        ):
            self._condemn(partial, "fragment_overlap")
            return None
        if len(partial.offsets) >= MAX_FRAGMENTS:
            self._condemn(partial, "fragment_too_many")
            return None
        partial.offsets.insert(index, start)
        partial.data.insert(index, bytes(packet[ip.header_length : ip.total_length]))
        partial.received += length
        self._charge(partial, length + _OVERHEAD)
        if not fragment.more:
            partial.size = end
        if not start:
            partial.protocol = ip.protocol  # RFC 8200 section 4.5: of the fragments, the first one says what follows
            partial.first = bytes(packet[: ip.total_length])
            self._charge(partial, ip.total_length)
        if partial.received == partial.size:
            self._remove(partial)
            return self._whole(partial, ip)
        self._make_room(partial)
        return None

    def next_timer(self) -> float | None:
        """When the oldest packet of either version is given up."""
        return min((next(iter(queue)).expires for queue in self._queues.values() if queue), default=None)

    def expire(self, now: float) -> list[ExpiredPacket]:
        """Give up what has waited too long."""
        expired = []
        for queue in self._queues.values():
            while queue:
                partial = next(iter(queue))
                if partial.expires > now:
                    break
                self._remove(partial)
                if not partial.is_condemned:
                    self._counters["fragment_timeout"] += 1
                    expired.append(ExpiredPacket(partial.peer, partial.first))
        return expired

    def forget_peer(self, peer: Any) -> None:
        """Drop all that a peer has begun."""
        for partial in list(self._by_peer.get(peer, {}).values()):
            self._remove(partial)

    def _begin(self, peer: Any, key: bytes, version: int, now: float) -> _Partial:
        timeout = self._config.ipv4_timeout if version == 4 else self._config.ipv6_timeout
        partials = self._by_peer.setdefault(peer, OrderedDict())
        if len(partials) >= MAX_PACKETS_PER_PEER:
            self._drop_oldest(peer)
            partials = self._by_peer.setdefault(peer, OrderedDict())
        partial = partials[key] = _Partial(peer, key, now + timeout)
        self._queues[version][partial] = None
        self._bytes += partial.cost
        self._bytes_by_peer[peer] = self._bytes_by_peer.get(peer, 0) + partial.cost
        return partial

    def _charge(self, partial: _Partial, size: int) -> None:
        partial.cost += size
        self._bytes += size
        self._bytes_by_peer[partial.peer] += size

    def _condemn(self, partial: _Partial, reason: str) -> None:
        """Silently drop a packet and all its fragments, those yet to come included (RFC 5722 section 4)."""
        self._counters[reason] += 1
        self._charge(partial, _OVERHEAD - partial.cost)
        partial.is_condemned = True
        partial.offsets, partial.data, partial.first = [], [], b""

    def _make_room(self, partial: _Partial) -> None:
        peer = partial.peer
        while self._bytes_by_peer.get(peer, 0) > MAX_BYTES_PER_PEER:
            self._drop_oldest(peer)
        while self._bytes > MAX_BYTES:
            self._drop_oldest(max(self._bytes_by_peer, key=self._bytes_by_peer.__getitem__))

    def _drop_oldest(self, peer: Any) -> None:
        self._counters["fragment_limit"] += 1
        self._remove(next(iter(self._by_peer[peer].values())))

    def _remove(self, partial: _Partial) -> None:
        peer = partial.peer
        partials = self._by_peer[peer]
        del partials[partial.key]
        for queue in self._queues.values():
            queue.pop(partial, None)
        self._bytes -= partial.cost
        if partials:
            self._bytes_by_peer[peer] -= partial.cost
        else:
            del self._by_peer[peer], self._bytes_by_peer[peer]

    def _whole(self, partial: _Partial, ip: IpHeader) -> bytes | None:
        payload = b"".join(partial.data)
        if ip.version == 4 and IPV4_HEADER + len(payload) > MAX_PACKET:
            self._counters["fragment_too_far"] += 1
            return None
        return ip_header(ip.source, ip.destination, partial.protocol, len(payload)) + payload


def split(
    source: bytes, destination: bytes, protocol: int, payload: memoryview[int], mtu: int, identification: int
) -> list[bytes]:
    """The fragments of one packet, each of at most `mtu` bytes.

    Args:
        mtu: 576 (IPv4) or 1,280 (IPv6) at least.
        identification: 32 bits; IPv4 uses the lower half.
    """
    fragments = []
    size = len(payload)
    if len(source) == 4:
        step = (mtu - IPV4_HEADER) & ~7
        identification &= 0xFFFF
        for offset in range(0, size, step):
            part = payload[offset : offset + step]
            field = offset >> 3 | (0x2000 if offset + step < size else 0)
            fragments.append(ipv4_header(source, destination, protocol, len(part), identification, field) + part)
    else:
        step = (mtu - IPV6_HEADER - FRAGMENT_HEADER) & ~7
        for offset in range(0, size, step):
            part = payload[offset : offset + step]
            more = offset + step < size
            headers = ipv6_fragment_headers(source, destination, protocol, len(part), identification, offset, more)
            fragments.append(headers + part)
    return fragments
