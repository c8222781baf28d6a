"""The replay window against RFC 6479's bitmap, written down plainly, for any order of counters and any batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.wireguard.replay import ReplayWindow


class Bitmap:
    """RFC 6479 section 2.4: a ring of 128 words of 64 bits, one of them redundant."""

    WORDS, BITS = 128, 64

    def __init__(self) -> None:
        self.last = -1
        self.ring = [0] * self.WORDS

    def accept(self, counter: int) -> bool:
        if counter < self.last - (self.WORDS - 1) * self.BITS:
            return False
        word = counter // self.BITS
        if counter > self.last:
            current = max(self.last, 0) // self.BITS
            for cleared in range(1, min(word - current, self.WORDS) + 1):
                self.ring[(current + cleared) % self.WORDS] = 0
            self.last = counter
        mask = 1 << counter % self.BITS
        if self.ring[word % self.WORDS] & mask:
            return False
        self.ring[word % self.WORDS] |= mask
        return True


@st.composite
def histories(draw: st.DrawFn) -> list[list[int]]:
    """Batches of counters: runs, runs with gaps, jumps near the window's edge, repetitions."""
    batches: list[list[int]] = []
    position = draw(st.sampled_from([0, 0, 1, 8100, 2**40, 2**63 - 20]))
    for _ in range(draw(st.integers(1, 12))):
        kind = draw(st.sampled_from(["run", "gaps", "any", "edge", "again"]))
        if kind == "run":
            length = draw(st.sampled_from([1, 2, 3, 45, 64, 720, 8127, 8128, 8129, 8130, 9000]))
            batches.append(list(range(position, position + length)))
        elif kind == "gaps":
            steps = draw(
                st.lists(st.sampled_from([1, 1, 2, 3, 100, 4000, 8128, 8129, 20_000]), min_size=1, max_size=20)
            )
            batches.append([position := position + step for step in steps])
        elif kind == "any":
            offsets = draw(st.lists(st.integers(-9000, 9000), min_size=1, max_size=20))
            batches.append([max(0, position + offset) for offset in offsets])
        elif kind == "edge":
            offsets = draw(st.lists(st.sampled_from([8127, 8128, 8129, 8191, 8192, 8193]), min_size=1, max_size=8))
            batches.append([max(0, position - offset) for offset in offsets])
        elif batches:
            batches.append(list(draw(st.sampled_from(batches))))
        position = max([position, *(max(batch) for batch in batches)]) + draw(st.sampled_from([1, 1, 2, 64, 10_000]))
    return [batch for batch in batches if batch]


@given(histories())
@settings(max_examples=300, deadline=None)
def test_replay_window_is_rfc_6479(batches: list[list[int]]) -> None:
    oracle, single, many = Bitmap(), ReplayWindow(), ReplayWindow()
    for batch in batches:
        expected = [position for position, counter in enumerate(batch) if not oracle.accept(counter)]
        assert [position for position, counter in enumerate(batch) if not single.accept(counter)] == expected
        assert list(many.accept_many(np.array(batch, np.uint64))) == expected
