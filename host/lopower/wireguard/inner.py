"""The packets inside: are they whole, and may their sender use their source address (whitepaper section 2).

`SourceFilter.check` is the specification, for one packet; `check_rows` does the same for a run of rows by columns. It
asks the AllowedIPs table for one row and compares the others with it, since the packets of a run have one source as a
rule.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lopower.wire.rows import PacketBatch
from lopower.wireguard.allowed_ips import AllowedIPs
from lopower.wireguard.peer import Peer

IPV4_HEADER_SIZE: Final = 20
IPV6_HEADER_SIZE: Final = 40


def packet_length(packet: memoryview[int]) -> int:
    """Bytes of the IP packet that `packet` begins with, without padding; 0 if there is no whole one.

    The version is 4 or 6, and header length <= total length <= what is there. An IPv6 payload length near 65,535 does
    not wrap.
    """
    size = len(packet)
    if size < IPV4_HEADER_SIZE:
        return 0
    version = packet[0] >> 4
    if version == 4:
        header = (packet[0] & 15) * 4
        total = packet[2] << 8 | packet[3]
        return total if IPV4_HEADER_SIZE <= header <= total <= size else 0
    if version == 6 and size >= IPV6_HEADER_SIZE:
        total = IPV6_HEADER_SIZE + (packet[4] << 8 | packet[5])
        return total if total <= size else 0
    return 0


def source_address(packet: memoryview[int]) -> bytes:
    """The packed source address of a packet that `packet_length` found whole."""
    return bytes(packet[12:16]) if packet[0] >> 4 == 4 else bytes(packet[8:24])


class SourceFilter:
    """Refuses what is no packet, and what comes from an address that is not the sender's."""

    __slots__ = ("_table",)

    def __init__(self, table: AllowedIPs) -> None:
        self._table = table

    def check(self, peer: Peer, packet: memoryview[int]) -> int:
        """The length of a packet of `peer`; 0 and one more in its counters, if it is to be dropped."""
        length = packet_length(packet)
        if not length:
            peer.counters["malformed_packet"] += 1
        elif self._table.lookup(source_address(packet)) is not peer:
            peer.counters["source_not_allowed"] += 1
            return 0
        return length

    def check_rows(self, peer: Peer, batch: PacketBatch, first: int, last: int) -> None:
        """Set `lengths` to 0 in those of the rows `[first, last)` that are to be dropped; 0 already: no packet."""
        rows = batch.rows
        self._learn_source(peer, batch, first)
        lengths = batch.lengths[first:last]
        words = rows.words[first:last]
        halves = rows.halves_be[first:last]
        leading = words[:, 0]
        total = halves[:, 1]
        passed = (leading & 0xFF) == 0x45
        passed &= words[:, 3] == peer.known_source_v4
        passed &= total >= IPV4_HEADER_SIZE
        passed &= total <= lengths
        if passed.all():
            return
        if peer.known_source_v6 is not None:
            a, b, c, d = peer.known_source_v6
            whole = (leading & 0xF0) == 0x60
            whole &= words[:, 2] == a
            whole &= words[:, 3] == b
            whole &= words[:, 4] == c
            whole &= words[:, 5] == d
            whole &= halves[:, 2] + np.int32(IPV6_HEADER_SIZE) <= lengths
            passed |= whole
        passed |= lengths == 0
        for row in np.flatnonzero(~passed).tolist():
            if not self.check(peer, rows.packet(first + row, lengths.item(row))):
                lengths[row] = 0

    def _learn_source(self, peer: Peer, batch: PacketBatch, row: int) -> None:
        """Look up the source of one row, unless it is known to be the peer's."""
        if peer.known_generation != self._table.generation:
            peer.known_generation = self._table.generation
            peer.known_source_v4 = -1
            peer.known_source_v6 = None
        packet = batch.rows.packet(row, batch.lengths.item(row))
        if not packet_length(packet):
            return
        words = batch.rows.words
        if packet[0] >> 4 == 4:
            source = words.item(row, 3)
            if source != peer.known_source_v4 and self._table.lookup(bytes(packet[12:16])) is peer:
                peer.known_source_v4 = source
        else:
            address = words.item(row, 2), words.item(row, 3), words.item(row, 4), words.item(row, 5)
            if address != peer.known_source_v6 and self._table.lookup(bytes(packet[8:24])) is peer:
                peer.known_source_v6 = address
