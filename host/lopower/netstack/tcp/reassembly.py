"""Out-of-order data (RFC 9293 section 3.10.7.4, "seventh") and the SACK blocks that tell of it (RFC 2018 section 4)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

# A peer that sends one byte here and one there would otherwise fill memory with list entries, whatever its window.
MAX_BLOCKS: Final = 128
MAX_PIECES: Final = 2048
MAX_SACK_BLOCKS: Final = 4  # 3 beside time stamps


class Reassembly:
    """Blocks of data beyond `rcv_nxt`, ascending, not touching each other. Data that is there already is kept."""

    __slots__ = ("_ends", "_pieces", "_recent", "_starts", "byte_count", "piece_count")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._pieces: list[list[bytes]] = []
        self._recent: list[int] = []  # a sequence number inside each recently changed block, most recent first
        self.byte_count = 0
        self.piece_count = 0

    def __len__(self) -> int:
        return len(self._starts)

    def insert(self, start: int, data: memoryview[int]) -> bool:
        """Keep a copy of data at `start`; False if a limit refuses it."""
        end = start + len(data)
        if start >= end:
            return True
        # Blocks [low, high) overlap or touch [start, end).
        low = bisect_left(self._ends, start)
        high = bisect_right(self._starts, end)
        if low == high and len(self._starts) >= MAX_BLOCKS:
            return False
        if self.piece_count + (high - low) + 1 > MAX_PIECES:
            return False
        new_start, new_end = start, end
        pieces: list[bytes] = []
        position = start
        for index in range(low, high):
            block_start, block_end = self._starts[index], self._ends[index]
            if block_start > position:
                pieces.append(bytes(data[position - start : block_start - start]))
            pieces.extend(self._pieces[index])
            position = max(position, block_end)
            new_start, new_end = min(new_start, block_start), max(new_end, block_end)
        if position < end:
            pieces.append(bytes(data[position - start :]))
        self.byte_count += (new_end - new_start) - sum(
            self._ends[index] - self._starts[index] for index in range(low, high)
        )
        self.piece_count += len(pieces) - sum(len(self._pieces[index]) for index in range(low, high))
        self._starts[low:high] = [new_start]
        self._ends[low:high] = [new_end]
        self._pieces[low:high] = [pieces]
        self._recent = [start, *(n for n in self._recent if not new_start <= n < new_end)][:MAX_SACK_BLOCKS]
        return True

    def take(self, rcv_nxt: int) -> list[bytes]:
        """Remove and return what follows `rcv_nxt` without a gap; blocks that lie wholly before it vanish."""
        pieces: list[bytes] = []
        while self._starts and self._starts[0] <= rcv_nxt:
            start, end, block = self._starts.pop(0), self._ends.pop(0), self._pieces.pop(0)
            self.byte_count -= end - start
            self.piece_count -= len(block)
            if end <= rcv_nxt:
                continue
            skip = rcv_nxt - start
            for piece in block:
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                pieces.append(piece[skip:] if skip else piece)
                skip = 0
            rcv_nxt = end
        self._recent = [n for n in self._recent if n >= rcv_nxt]
        return pieces

    def sack_blocks(self, limit: int) -> list[tuple[int, int]]:
        """At most `limit` blocks; the one that changed last comes first (RFC 2018 section 4)."""
        blocks: list[tuple[int, int]] = []
        for number in self._recent[:limit]:
            index = bisect_right(self._starts, number) - 1
            blocks.append((self._starts[index], self._ends[index]))
        return blocks

    def clear(self) -> None:
        """Drop everything (RFC 2018 section 8 permits it: the peer keeps what was not acknowledged)."""
        self.__init__()  # type: ignore[misc]
