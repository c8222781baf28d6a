"""Packets in rows of one fixed stride: what the layers of the hot path pass to each other.

One `PacketRows` is one buffer that holds a packet per row, and the views of it that are worth cutting beforehand: numpy
columns over all rows (headers are read and written a column at a time) and lists of memoryviews (the AEAD and
scatter/gather system calls take one buffer per packet). Cutting views per packet would cost more than the packet.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from lopower.wire import buffers

# A rows object keeps this many lists of slices; each costs about 200 bytes per row. Header lengths in use are 40, 52,
# 60 and 72 (IPv4 and IPv6, with and without TCP timestamps) and 28, 48 (UDP); a hostile peer's odd ones must not fill
# memory.
MAX_CACHED_SLICES: Final = 12


class PacketRows:
    """`count` packets at most, each in a row of `stride` bytes (a multiple of 16).

    Attributes (all views of the one `buffer`):
        view: memoryview of the whole buffer.
        words: `(count, stride / 4)` little-endian u32; `words_be`: the same, big-endian.
        halves: `(count, stride / 2)` little-endian u16; `halves_be`: the same, big-endian.
    """

    __slots__ = ("_slices", "buffer", "count", "halves", "halves_be", "stride", "view", "words", "words_be")

    def __init__(self, count: int, stride: int) -> None:
        if stride % 16 or count < 1:
            raise ValueError(
                f"rows of stride {stride} x {count}: the stride must be a multiple of 16, the count positive"
            )
        self.count = count
        self.stride = stride
        self.buffer = buffers.zeroed(count * stride)
        self.view = memoryview(self.buffer)
        self.words: npt.NDArray[np.uint32] = np.frombuffer(self.buffer, "<u4").reshape(count, stride // 4)
        self.words_be: npt.NDArray[np.uint32] = self.words.view(">u4")
        self.halves: npt.NDArray[np.uint16] = self.words.view("<u2")
        self.halves_be: npt.NDArray[np.uint16] = self.words.view(">u2")
        self._slices: dict[tuple[int, int], list[memoryview[int]]] = {}

    def slices(self, start: int, stop: int) -> list[memoryview[int]]:
        """Bytes `[start, stop)` of every row, as one list for all rows; cut once and kept. Do not change the list."""
        slices = self._slices.get((start, stop))
        if slices is None:
            view, stride = self.view, self.stride
            slices = [view[row + start : row + stop] for row in range(0, self.count * stride, stride)]
            if len(self._slices) < MAX_CACHED_SLICES:
                self._slices[start, stop] = slices
        return slices

    def packet(self, row: int, length: int) -> memoryview[int]:
        """The first `length` bytes of one row."""
        start = row * self.stride
        return self.view[start : start + length]


class PacketBatch:
    """Packets that arrived in one turn, opened and checked against their sender's AllowedIPs.

    Owner: the layer that opened them (`wireguard`). Valid until that layer receives again; what outlives the turn is
    copied by whoever keeps it.

    Attributes:
        rows: the packets; row `i` is used for `i < count`.
        count: rows in use.
        lengths: `(rows.count,)` int32, bytes in each row with their padding (the IP header says how many of them are
            the packet); 0 marks a dropped row, which everybody passes over.
        runs: `(peer, first, last)`: rows `[first, last)` came from `peer`; ascending, covering `[0, count)`.
        large: `(peer, packet)` for the rare packet that does not fit a row, as bytes.
    """

    __slots__ = ("count", "large", "lengths", "rows", "runs")

    def __init__(self, rows: PacketRows) -> None:
        self.rows = rows
        self.count = 0
        self.lengths: npt.NDArray[np.int32] = np.zeros(rows.count, np.int32)
        self.runs: list[tuple[Any, int, int]] = []
        self.large: list[tuple[Any, bytes]] = []

    def clear(self) -> None:
        """Forget all packets; the buffer stays."""
        self.count = 0
        self.runs.clear()
        self.large.clear()
