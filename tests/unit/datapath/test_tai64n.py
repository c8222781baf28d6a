"""Our own time stamps strictly increase, whatever the clock does."""

from __future__ import annotations

from lopower.daemon.tai64n import RESERVED_NANOSECONDS, TimestampSource, to_tai64n

SECOND = 1_000_000_000


class Wall:
    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def test_the_format_is_that_of_the_field() -> None:
    assert to_tai64n(0).hex() == "400000000000000a00000000"
    assert to_tai64n(1_700_000_000 * SECOND + 5).hex() == "400000006553f10a00000005"


def test_stamps_increase_within_one_tick_of_the_clock_and_when_it_jumps_back() -> None:
    wall = Wall(1_000 * SECOND)
    source = TimestampSource(wall, 0, lambda _: None)
    stamps = [source(), source()]
    wall.now -= 500 * SECOND
    stamps += [source(), source()]
    wall.now += 5_000 * SECOND
    stamps.append(source())
    assert stamps == sorted(set(stamps))
    assert stamps[-1] == to_tai64n(wall.now)


def test_stamps_increase_over_a_crash_with_the_clock_set_back() -> None:
    stored = [0]
    wall = Wall(1_000 * SECOND)
    first = TimestampSource(wall, stored[0], lambda until: stored.__setitem__(0, until))
    before = [first() for _ in range(3)]
    wall.now = 0
    second = TimestampSource(wall, stored[0], lambda until: stored.__setitem__(0, until))
    assert second() > before[-1]


def test_a_range_is_reserved_before_its_first_stamp_is_given_and_renewed_ahead() -> None:
    wall = Wall(1_000 * SECOND)
    reserved: list[int] = []
    source = TimestampSource(wall, 0, reserved.append)
    source()
    assert reserved == [wall.now + RESERVED_NANOSECONDS]
    source()
    source.renew()
    assert len(reserved) == 1
    wall.now += RESERVED_NANOSECONDS // 2 + SECOND
    source.renew()
    source()
    assert len(reserved) == 2
