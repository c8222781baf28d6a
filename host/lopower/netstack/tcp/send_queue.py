"""The bytes of one flow that the peer has not acknowledged, as packets in chunks.

A `Run` is a stretch of consecutive rows of one chunk: all rows carry `mss` bytes but the last one, which may carry
less. The stream is the concatenation of the runs; positions in it are sequence numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lopower.netstack.tcp.chunks import CHUNK_SIZES, Chunk, ChunkPool

_SMALLEST: Final = CHUNK_SIZES[0]


class Run:
    """Rows `[first, first + count)` of `chunk`, holding bytes `[start, end)` of the stream, `mss` to a row."""

    __slots__ = ("chunk", "count", "end", "first", "mss", "start")

    def __init__(self, chunk: Chunk, first: int, count: int, start: int, end: int, mss: int) -> None:
        self.chunk = chunk
        self.first = first
        self.count = count
        self.start = start
        self.end = end
        self.mss = mss


class SendQueue:
    """From `start` (acknowledged) to `end` (committed)."""

    __slots__ = ("_offered", "_open", "_pool", "_size", "_stride", "end", "header_length", "mss", "runs", "start")

    def __init__(self, pool: ChunkPool, start: int, mss: int, header_length: int) -> None:
        self._pool = pool
        self._open: Chunk | None = None
        self._offered: Sequence[memoryview[int]] = ()
        self._size = 0  # index into CHUNK_SIZES: what the flow's reads have been filling
        self._stride = (header_length + mss + 15) & ~15
        self.header_length = header_length
        self.mss = mss
        self.runs: list[Run] = []
        self.start = start
        self.end = start

    def slots(self, limit: int) -> Sequence[memoryview[int]]:
        """At most `limit` free payload slots of `mss` bytes, of one chunk."""
        chunk = self._open
        if chunk is None or chunk.used == chunk.capacity:
            size = self._size
            while size and (CHUNK_SIZES[size] > 2 * limit or self._pool.budget.is_tight):
                size -= 1
            chunk = self._open = self._pool.take(CHUNK_SIZES[size], self._stride)
        slots = chunk.rows.slices(self.header_length, self.header_length + self.mss)
        used = chunk.used
        self._offered = slots if not used and limit >= chunk.capacity else slots[used : used + limit]
        return self._offered

    def commit(self, length: int) -> None:
        """`length` bytes were written into the slots offered last, from the first on."""
        chunk, mss = self._open, self.mss
        rows = (length + mss - 1) // mss
        if chunk is None or rows > len(self._offered):
            raise ValueError(f"commit of {length} bytes into {len(self._offered)} slots of {mss}")
        if rows == len(self._offered) and rows == chunk.capacity:
            self._size = min(self._size + 1, len(CHUNK_SIZES) - 1)
        elif rows * 8 < chunk.capacity:
            self._size = max(self._size - 1, 0)
        self._offered = ()
        self._append(chunk, rows, length)

    def _append(self, chunk: Chunk, rows: int, length: int) -> None:
        last = self.runs[-1] if self.runs else None
        if (
            last is not None
            and last.chunk is chunk
            and last.mss == self.mss
            and last.end - last.start == last.count * last.mss
        ):
            last.count += rows
            last.end += length
        else:
            self.runs.append(Run(chunk, chunk.used, rows, self.end, self.end + length, self.mss))
            chunk.runs += 1
        chunk.used += rows
        self.end += length

    def write(self, data: memoryview[int], sent: int) -> None:
        """Copy bytes in; what was not `sent` yet in the last row is filled up first, so that small writes share
        packets."""
        length = len(data)
        taken = self._fill_last(data, sent)
        while taken < length:
            slots = self.slots(-(-(length - taken) // self.mss))
            count = 0
            for slot in slots:
                piece = data[taken + count : taken + count + self.mss]
                if not piece:
                    break
                slot[: len(piece)] = piece
                count += len(piece)
            self.commit(count)
            taken += count

    def _fill_last(self, data: memoryview[int], sent: int) -> int:
        """Fill the last row, if it is short and none of it was sent; returns how many bytes went in."""
        if not self.runs:
            return 0
        run = self.runs[-1]
        mss = run.mss
        row_start = run.start + (run.count - 1) * mss
        used = run.end - row_start
        if sent > row_start or used == mss or mss != self.mss:
            return 0
        size = min(len(data), mss - used)
        position = (run.first + run.count - 1) * run.chunk.rows.stride + self.header_length + used
        run.chunk.rows.view[position : position + size] = data[:size]
        run.end += size
        self.end += size
        return size

    def release(self, acknowledged: int) -> None:
        """Bytes before `acknowledged` are no longer needed."""
        runs = self.runs
        done = 0
        for run in runs:
            if run.end > acknowledged:
                break
            done += 1
            chunk = run.chunk
            chunk.runs -= 1
            if not chunk.runs:
                if chunk is self._open:
                    if self._offered:
                        continue
                    self._open = None
                self._pool.give(chunk)
        if done:
            del runs[:done]
        self.start = min(acknowledged, self.end)

    def trim(self) -> None:
        """The turn ends: slots that were offered and not used go back."""
        self._offered = ()
        chunk = self._open
        if chunk is not None and not chunk.runs:
            self._open = None
            self._pool.give(chunk)

    def clear(self) -> None:
        """Give everything back."""
        self._offered = ()
        self.release(self.end)
        self.trim()

    def set_mss(self, mss: int) -> None:
        """New rows are smaller from here on (path MTU); those that exist stay as they are."""
        self._offered = ()
        self.trim()
        self._open = None
        self.mss = mss
        self._stride = (self.header_length + mss + 15) & ~15

    def find(self, position: int) -> Run:
        """The run that holds a byte of the stream; raises LookupError if none does."""
        for run in reversed(self.runs):
            if run.start <= position:
                if position < run.end:
                    return run
                break
        raise LookupError(f"byte {position} is not in the send queue")

    def copy(self, start: int, length: int) -> bytes:
        """Bytes `[start, start + length)` of the stream."""
        parts: list[memoryview[int]] = []
        while length > 0:
            run = self.find(start)
            row, offset = divmod(start - run.start, run.mss)
            row_end = min(run.start + (row + 1) * run.mss, run.end)
            size = min(length, row_end - start)
            position = (run.first + row) * run.chunk.rows.stride + self.header_length + offset
            parts.append(run.chunk.rows.view[position : position + size])
            start += size
            length -= size
        return b"".join(parts)
