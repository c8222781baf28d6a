"""Replay window of 8128 with RFC 6479's semantics."""

from __future__ import annotations

import numpy as np
import pytest

from lopower.wireguard.replay import WINDOW_SIZE, ReplayWindow


def test_each_counter_is_accepted_once() -> None:
    window = ReplayWindow()
    for counter in (0, 1, 5, 3, 2**40, 2**40 - 1):
        assert window.accept(counter)
        assert not window.accept(counter)
    assert not window.accept(4)


@pytest.mark.parametrize("greatest", [WINDOW_SIZE, 100_000, 2**63, 2**64 - 2**13 - 2])
def test_8128_behind_is_accepted_and_8129_refused(greatest: int) -> None:
    assert WINDOW_SIZE == 8128
    window = ReplayWindow()
    assert window.accept(greatest)
    assert window.accept(greatest - 8128)
    assert not window.accept(greatest - 8128)
    assert not window.accept(greatest - 8129)


@pytest.mark.parametrize("jump", [1, 8127, 8128, 8129, 8192, 2**40])
def test_a_jump_ahead_forgets_what_left_the_window_and_nothing_else(jump: int) -> None:
    window = ReplayWindow()
    assert window.accept(10_000)
    assert window.accept(10_000 + jump)
    assert not window.accept(10_000)
    if jump > 1:
        assert window.accept(10_000 + jump - 1)


def test_a_batch_is_its_counters_one_after_the_other() -> None:
    window = ReplayWindow()
    assert list(window.accept_many(np.arange(100, dtype=np.uint64))) == []
    assert list(window.accept_many(np.arange(90, 110, dtype=np.uint64))) == list(range(10))
    assert list(window.accept_many(np.array([120, 118, 120, 119, 5], np.uint64))) == [2, 4]
    assert list(window.accept_many(np.array([130, 140, 2**50], np.uint64))) == []
    assert list(window.accept_many(np.array([130, 2**50 - 1], np.uint64))) == [0]


def test_gaps_in_a_batch_stay_open() -> None:
    window = ReplayWindow()
    assert not window.accept_many(np.array([10, 12, 15, 2000], np.uint64))
    assert [counter for counter in range(8, 17) if window.accept(counter)] == [8, 9, 11, 13, 14, 16]
    top = 2**64 - 2**13 - 10
    assert not window.accept_many(np.array([top - 5, top - 2, top], np.uint64))
    assert not window.accept(top - 2)
    assert window.accept(top - 1)
