"""Chunks: rows of packets to a device. Upstream is read straight into their payload slots; a chunk stays with its flow
until acknowledged, so that it is the retransmission buffer too, and then returns to the pool.

Three sizes keep both ends cheap: a bulk flow moves hundreds of packets per call, and ten thousand quiet flows hold a
few slots each, and none while idle.
"""

from __future__ import annotations

from typing import Final

from lopower.wire.rows import PacketRows

CHUNK_SIZES: Final = (8, 45, 360)  # slots; 45 full packets are what one UDP_SEGMENT call sends

# Idle chunks of all sizes together; beyond it they are given back to the allocator. One burst of flows must not keep
# its high-water mark for ever.
MAX_IDLE_BYTES: Final = 32 << 20


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


class Chunk:
    """`capacity` packet slots, of which `used` hold data; `runs` of the flow's send queue lie in it."""

    __slots__ = ("capacity", "rows", "runs", "used")

    def __init__(self, capacity: int, stride: int) -> None:
        self.capacity = capacity
        self.rows = PacketRows(capacity, stride)
        self.used = 0
        self.runs = 0


class ChunkPool:
    """Chunks by size and stride."""

    __slots__ = ("_idle", "budget", "idle_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self._idle: dict[tuple[int, int], list[Chunk]] = {}
        self.budget = budget
        self.idle_bytes = 0

    def take(self, capacity: int, stride: int) -> Chunk:
        """An empty chunk; the caller minds the budget."""
        self.budget.used += capacity * stride
        idle = self._idle.get((capacity, stride))
        if idle:
            self.idle_bytes -= capacity * stride
            return idle.pop()
        return Chunk(capacity, stride)

    def give(self, chunk: Chunk) -> None:
        """Take a chunk back; nobody may hold a view of its slots any more."""
        chunk.used = chunk.runs = 0
        stride = chunk.rows.stride
        size = chunk.capacity * stride
        self.budget.used -= size
        if self.idle_bytes + size <= MAX_IDLE_BYTES:
            self.idle_bytes += size
            self._idle.setdefault((chunk.capacity, stride), []).append(chunk)
