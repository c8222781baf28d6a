"""Whose datagrams are processed next."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lopower.daemon.arrivals import (
    BUSY_BYTES,
    PERIOD,
    PIECE_BYTES,
    QUANTUM_BYTES,
    SHARED_PIECE_BYTES,
    SHARED_SECONDS,
    SLOT,
    SLOTS,
    Arrivals,
)
from lopower.wire.datagrams import Endpoint

BULK, OTHER_BULK, QUIET = (Endpoint("192.0.2.1", port) for port in (1, 2, 3))


class Socket:
    """Fills slots as the socket does, with a number for each datagram, and takes batches."""

    def __init__(self) -> None:
        self.arrivals = Arrivals()
        self.arrivals.begin_turn(0.0)
        self.number = 0

    def arrive(self, endpoint: Endpoint, length: int) -> None:
        slot = self.arrivals.free[-1]
        self.number += 1
        self.arrivals.batch.view[slot * SLOT : slot * SLOT + 4] = self.number.to_bytes(4, "big")
        self.arrivals.add(length, length, endpoint)

    def take(self, prompt_only: bool = False) -> list[tuple[Endpoint, int, int]]:
        """(sender, number, length) of what is next."""
        batch = self.arrivals.release()
        self.arrivals.take(prompt_only)
        return [
            (endpoint, int.from_bytes(batch.view[offset : offset + 4], "big"), length)
            for endpoint, offset, length in zip(batch.endpoints, batch.offsets, batch.lengths, strict=True)
        ]


def test_a_quiet_sender_does_not_wait_behind_bulk() -> None:
    socket = Socket()
    for _ in range(20):
        socket.arrive(BULK, 60_000)
    socket.arrive(QUIET, 100)
    assert [sender for sender, _, _ in socket.take()] == [BULK, QUIET]  # nobody is busy by a first datagram
    assert sum(length for _, _, length in socket.take()) >= PIECE_BYTES
    socket.arrive(QUIET, 100)
    assert [sender for sender, _, _ in socket.take()] == [QUIET]
    assert socket.arrivals.has_more


def test_a_piece_is_bounded_and_senders_of_bulk_share_it() -> None:
    socket = Socket()
    socket.arrivals.count(BULK, BUSY_BYTES)
    socket.arrivals.count(OTHER_BULK, BUSY_BYTES)
    for _ in range(30):
        socket.arrive(BULK, 60_000)
    for _ in range(30):
        socket.arrive(OTHER_BULK, 60_000)
    moved: Counter[Endpoint] = Counter()
    while piece := socket.take():
        assert sum(length for _, _, length in piece) < PIECE_BYTES + 60_000
        for sender, _, length in piece:
            moved[sender] += length
        assert abs(moved[BULK] - moved[OTHER_BULK]) <= 2 * (QUANTUM_BYTES + 60_000)
    assert moved == {BULK: 1_800_000, OTHER_BULK: 1_800_000}
    assert not socket.arrivals.has_more
    assert socket.arrivals.waiting_bytes == 0


def test_what_was_sent_to_an_endpoint_makes_it_busy_until_a_period_has_passed() -> None:
    socket = Socket()
    socket.arrivals.count(BULK, BUSY_BYTES)
    socket.arrive(BULK, 100)
    assert socket.take(prompt_only=True) == []
    assert len(socket.take()) == 1
    socket.arrivals.begin_turn(PERIOD)
    socket.arrive(BULK, 100)
    assert socket.take(prompt_only=True) == []
    assert len(socket.take()) == 1
    socket.arrivals.begin_turn(2 * PERIOD)
    socket.arrive(BULK, 100)
    assert len(socket.take(prompt_only=True)) == 1


def test_pieces_are_short_while_a_quiet_sender_is_there_and_long_again_afterwards() -> None:
    socket = Socket()
    socket.arrivals.count(BULK, BUSY_BYTES)
    socket.arrivals.begin_turn(PERIOD)

    def piece() -> int:
        for _ in range(30 - SLOTS + len(socket.arrivals.free)):
            socket.arrive(BULK, 60_000)
        return sum(length for sender, _, length in socket.take() if sender is BULK)

    assert PIECE_BYTES <= piece() < PIECE_BYTES + 60_000
    assert socket.arrivals.wanted_bytes < PIECE_BYTES  # what is here is enough
    socket.arrive(QUIET, 100)
    assert [sender for sender, _, _ in socket.take()] == [QUIET]
    socket.arrivals.begin_turn(PERIOD)
    assert socket.arrivals.is_shared
    assert SHARED_PIECE_BYTES <= piece() < SHARED_PIECE_BYTES + 60_000
    assert socket.arrivals.wanted_bytes == PIECE_BYTES
    socket.arrivals.begin_turn(PERIOD + SHARED_SECONDS)
    assert not socket.arrivals.is_shared
    assert piece() >= PIECE_BYTES


_STEPS = st.lists(
    st.tuples(st.sampled_from([BULK, OTHER_BULK, QUIET]), st.integers(1, SLOT - 1), st.booleans(), st.booleans())
)


@given(steps=_STEPS)
def test_nothing_is_lost_twice_or_out_of_its_senders_order(steps: list[tuple[Endpoint, int, bool, bool]]) -> None:
    socket = Socket()
    taken: list[tuple[Endpoint, int, int]] = []
    for time, (sender, length, take, prompt_only) in enumerate(steps):
        socket.arrivals.begin_turn(time * PERIOD / 3)
        if socket.arrivals.free:
            socket.arrive(sender, length)
        if take:
            taken += socket.take(prompt_only)
    while some := socket.take():
        taken += some
    assert sorted(number for _, number, _ in taken) == list(range(1, socket.number + 1))
    for sender in (BULK, OTHER_BULK, QUIET):
        numbers = [number for who, number, _ in taken if who == sender]
        assert numbers == sorted(numbers)
    assert sorted(socket.arrivals.free) == list(range(SLOTS))
