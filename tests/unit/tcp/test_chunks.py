"""The pool of chunks: what it keeps, what it gives up, and what is counted meanwhile."""

from __future__ import annotations

from lopower.netstack.tcp.chunks import CHUNK_SIZES, MAX_IDLE_BYTES, Chunk, ChunkPool, MemoryBudget

STRIDE = 1440


def taken(pool: ChunkPool, count: int, capacity: int = CHUNK_SIZES[-1]) -> list[Chunk]:
    return [pool.take(capacity, STRIDE) for _ in range(count)]


def test_chunks_are_used_again() -> None:
    pool = ChunkPool(MemoryBudget(1 << 30))
    first = taken(pool, 1)[0]
    first.used = 3
    pool.give(first)
    (second,) = taken(pool, 1)
    assert second is first
    assert second.used == second.runs == 0
    assert taken(pool, 1, CHUNK_SIZES[0])[0].capacity == CHUNK_SIZES[0]


def test_idle_chunks_are_kept_only_while_they_are_needed() -> None:
    budget = MemoryBudget(1 << 30)
    pool = ChunkPool(budget)
    size = CHUNK_SIZES[-1] * STRIDE
    for chunk in taken(pool, 5):
        pool.give(chunk)
    assert (budget.used, pool.idle_bytes) == (0, 5 * size)
    pool.release_unused()  # all were in use since the last call, which never was
    assert pool.idle_bytes == 5 * size
    for chunk in taken(pool, 2):
        pool.give(chunk)
    pool.release_unused()
    assert pool.idle_bytes == 2 * size, "three were not needed"
    in_use = taken(pool, 1)
    pool.release_unused()
    assert (pool.idle_bytes, budget.used) == (0, size), "one is in use, one was idle all the time"
    pool.give(in_use[0])
    pool.release_unused()
    assert pool.idle_bytes == size, "it was in use until now"
    pool.release_unused()
    assert (budget.used, pool.idle_bytes) == (0, 0)


def test_idle_chunks_are_bounded() -> None:
    pool = ChunkPool(MemoryBudget(1 << 30))
    count = MAX_IDLE_BYTES // (CHUNK_SIZES[-1] * STRIDE) + 3
    for chunk in taken(pool, count):
        pool.give(chunk)
    assert MAX_IDLE_BYTES - CHUNK_SIZES[-1] * STRIDE < pool.idle_bytes <= MAX_IDLE_BYTES


def test_senders_share_an_eighth() -> None:
    budget = MemoryBudget(256 << 20)
    assert budget.sender_share == 8 << 20
    held = [0] * 20
    for _ in range(100):  # all take what they may, in turn
        for flow, holds in enumerate(held):
            more = max(budget.sender_share - holds, 0)
            held[flow] += more
            budget.used += more
            if not more and holds:  # and their devices acknowledge some of it
                held[flow] -= holds // 8
                budget.used -= holds // 8
    assert max(held) - min(held) <= max(held) // 4
    assert 20 << 20 < sum(held) < 32 << 20
    budget.used = 40 << 20
    assert budget.sender_share == 0
