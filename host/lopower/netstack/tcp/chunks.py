"""Chunks: rows of packets to a device. Upstream is read straight into their payload slots; a chunk stays with its flow
until acknowledged, so that it is the retransmission buffer too, and then returns to the pool.

Three sizes keep both ends cheap: a bulk flow moves hundreds of packets per call, and ten thousand quiet flows hold a
few slots each, and none while idle.
"""

from __future__ import annotations

from typing import Final

from lopower.wire.rows import PacketRows

CHUNK_SIZES: Final = (8, 45, 360)  # slots; 45 full packets are what one UDP_SEGMENT call sends

# Idle chunks of all sizes together; beyond it they are given back to the system at once, the others once nobody has
# needed them for a while.
MAX_IDLE_BYTES: Final = 32 << 20

# Senders share an eighth of the budget, and one of them may hold a quarter of what is free of it.
_SENDERS_SHIFT: Final = 3
_SHARE_SHIFT: Final = 2


class MemoryBudget:
    """Bytes that flows hold beyond their turn: chunks, and what was received and not yet consumed."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @property
    def is_tight(self) -> bool:
        """More than half is used: new promises (windows, read-ahead) stay small."""
        return self.used > self.limit >> 1

    @property
    def is_exhausted(self) -> bool:
        """Nothing is taken any more but what keeps a flow moving."""
        return self.used > self.limit

    @property
    def sender_share(self) -> int:
        """What one flow may hold for its device: the less, the more the others hold.

        A fixed limit per flow would have to be small for the sake of many, or add up to all memory; with a part of what
        is free (Choudhury and Hahne's dynamic threshold) n busy flows get 1 / (4 + n) of all senders' part each.
        """
        free = (self.limit >> _SENDERS_SHIFT) - self.used
        return free >> _SHARE_SHIFT if free > 0 else 0


class Chunk:
    """`capacity` packet slots, of which `used` hold data; `runs` of the flow's send queue lie in it."""

    __slots__ = ("capacity", "rows", "runs", "used")

    def __init__(self, capacity: int, stride: int) -> None:
        self.capacity = capacity
        self.rows = PacketRows(capacity, stride)
        self.used = 0
        self.runs = 0


class _Idle:
    """Idle chunks of one size and stride; `unused`: how many have not been taken since the last look."""

    __slots__ = ("chunks", "unused")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.unused = 0


class ChunkPool:
    """Chunks by size and stride."""

    __slots__ = ("_idle", "budget", "idle_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self._idle: dict[tuple[int, int], _Idle] = {}
        self.budget = budget
        self.idle_bytes = 0

    def take(self, capacity: int, stride: int) -> Chunk:
        """An empty chunk; the caller minds the budget."""
        self.budget.used += capacity * stride
        idle = self._idle.get((capacity, stride))
        if idle is not None and idle.chunks:
            self.idle_bytes -= capacity * stride
            chunk = idle.chunks.pop()
            if len(idle.chunks) < idle.unused:
                idle.unused = len(idle.chunks)
            return chunk
        return Chunk(capacity, stride)

    def give(self, chunk: Chunk) -> None:
        """Take a chunk back; nobody may hold a view of its slots any more."""
        chunk.used = chunk.runs = 0
        stride = chunk.rows.stride
        size = chunk.capacity * stride
        self.budget.used -= size
        if self.idle_bytes + size <= MAX_IDLE_BYTES:
            self.idle_bytes += size
            idle = self._idle.get((chunk.capacity, stride))
            if idle is None:
                idle = self._idle[chunk.capacity, stride] = _Idle()
            idle.chunks.append(chunk)

    def release_unused(self) -> None:
        """Give those chunks to the system that have been idle since the last call."""
        for (capacity, stride), idle in list(self._idle.items()):
            self.idle_bytes -= idle.unused * capacity * stride
            del idle.chunks[: idle.unused]
            idle.unused = len(idle.chunks)
            if not idle.chunks:
                del self._idle[capacity, stride]
