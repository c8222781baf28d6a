"""Reassembly and the send queue against the simplest model: one string of bytes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.tcp.chunks import CHUNK_SIZES, ChunkPool, MemoryBudget
from lopower.netstack.tcp.reassembly import Reassembly
from lopower.netstack.tcp.send_queue import SendQueue

STREAM = bytes(index % 251 for index in range(4000))


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 60)), max_size=40), st.integers(1, 400))
def test_reassembly_keeps_what_arrived_and_yields_it_once(segments: list[tuple[int, int]], rcv_nxt: int) -> None:
    reassembly = Reassembly()
    arrived: set[int] = set()
    for start, length in segments:
        assert reassembly.insert(start, memoryview(STREAM)[start : start + length])
        arrived.update(range(start, start + length))
        assert reassembly.byte_count == len(arrived)
        blocks = reassembly.sack_blocks(4)
        for left, right in blocks:
            assert set(range(left, right)) <= arrived
            assert left - 1 not in arrived
            assert right not in arrived
        if length:
            assert blocks[0][0] <= start < blocks[0][1]  # the newest comes first (RFC 2018)
    data = b"".join(reassembly.take(rcv_nxt))
    end = rcv_nxt
    while end in arrived:
        end += 1
    assert data == STREAM[rcv_nxt:end]
    assert reassembly.byte_count == len([number for number in arrived if number >= end])
    assert all(left >= end for left, _ in reassembly.sack_blocks(4))


OPERATION = st.one_of(
    st.tuples(st.just("slots"), st.integers(1, 400), st.floats(0, 1)),
    st.tuples(st.just("write"), st.integers(1, 900), st.just(0.0)),
    st.tuples(st.just("acknowledge"), st.integers(0, 5000), st.just(0.0)),
    st.tuples(st.just("trim"), st.just(0), st.just(0.0)),
    st.tuples(st.just("mss"), st.sampled_from([64, 100, 200]), st.just(0.0)),
)


@given(st.lists(OPERATION, max_size=30))
@settings(deadline=None)
def test_send_queue_holds_the_stream(operations: list[tuple[str, int, float]]) -> None:
    budget = MemoryBudget(1 << 30)
    queue = SendQueue(ChunkPool(budget), 5, 200, 52)
    written, acknowledged = bytearray(), 5
    for name, size, share in operations:
        if name == "slots":
            slots = queue.slots(size)
            assert 0 < len(slots) <= min(size, CHUNK_SIZES[-1])
            total = int(share * sum(map(len, slots)))
            data = bytes((len(written) + index) % 251 for index in range(total))
            position = 0
            for slot in slots:
                piece = data[position : position + len(slot)]
                slot[: len(piece)] = piece
                position += len(piece)
            if total:
                queue.commit(total)
            written += data
        elif name == "write":
            data = bytes((len(written) + index) % 251 for index in range(size))
            queue.write(memoryview(data), sent=(queue.start + queue.end) // 2)
            written += data
        elif name == "acknowledge":
            acknowledged = min(acknowledged + size, queue.end)
            queue.release(acknowledged)
        elif name == "mss":
            queue.set_mss(size)
        else:
            queue.trim()
        assert queue.end == 5 + len(written)
        assert queue.copy(acknowledged, queue.end - acknowledged) == bytes(written[acknowledged - 5 :])
        if acknowledged == queue.end:
            queue.trim()
            assert budget.used == 0
    queue.clear()
    assert budget.used == 0
