"""When memory is given back: after growth, when nobody is disturbed by it, or when that never happens."""

from __future__ import annotations

import subprocess
import sys

from lopower.daemon.memory import QUIET_TURNS, WORTHWHILE_BYTES, MemoryKeeper, heap_trimmer, resident_bytes

START = 70 << 20


class Process:
    """Memory and turns by hand."""

    def __init__(self) -> None:
        self.resident = START
        self.turns = 0
        self.floor = START
        self.released = self.trimmed = 0
        self.keeper = MemoryKeeper(self.release, lambda: self.turns, lambda: self.resident, self.trim)
        self.keeper.look()
        self.trimmed = self.released = 0

    def release(self) -> None:
        self.released += 1

    def trim(self) -> None:
        self.trimmed += 1
        self.resident = self.floor


def test_growth_is_given_back_once() -> None:
    process = Process()
    process.resident += WORTHWHILE_BYTES - 1
    process.keeper.look()
    assert process.trimmed == 0
    process.resident += 1
    process.floor += 1000  # some of it is in use
    process.keeper.look()
    process.keeper.look()
    assert (process.trimmed, process.released) == (1, 3)


def test_what_stays_in_use_is_not_trimmed_for_again_and_again() -> None:
    process = Process()
    process.resident = process.floor = START + 10 * WORTHWHILE_BYTES
    for _ in range(10):
        process.keeper.look()
    assert process.trimmed == 1
    process.resident = START  # it was given up by itself
    process.keeper.look()
    process.resident = START + WORTHWHILE_BYTES
    process.keeper.look()
    assert process.trimmed == 2


def test_a_busy_data_path_is_left_alone_but_not_for_ever() -> None:
    process = Process()
    process.resident += WORTHWHILE_BYTES
    looks = 0
    while not process.trimmed:
        process.turns += QUIET_TURNS
        process.keeper.look()
        looks += 1
    assert 5 < looks < 50
    process.resident += WORTHWHILE_BYTES
    process.turns += QUIET_TURNS - 1
    process.keeper.look()
    assert process.trimmed == 2


def test_without_the_means_nothing_but_buffers_is_released() -> None:
    released = []
    for resident, trim in ((lambda: 0, lambda: released.append("trimmed")), (lambda: START, None)):
        keeper = MemoryKeeper(lambda: released.append("released"), lambda: 0, resident, trim)
        keeper.look()
    assert released == ["released", "released"]


def test_freed_heap_goes_back_to_the_system() -> None:
    """In a process of its own, whose heap nobody else has shaped."""
    if heap_trimmer() is None or not resident_bytes():
        return
    code = (
        "from lopower.daemon.memory import heap_trimmer, resident_bytes\n"
        "pieces = [bytearray(30_000) for _ in range(2000)]\n"
        "del pieces[:-1]\n"
        "before = resident_bytes(); heap_trimmer()(); print(before - resident_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000_000
