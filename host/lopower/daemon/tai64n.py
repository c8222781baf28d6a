"""Our own handshake time stamps: TAI64N, strictly increasing, over restarts and over clocks that jump back."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

# Stamps are given out of a reserved range, so that only one write per range is needed. After a crash the rest of it is
# lost: the next stamps lie this far ahead of the clock at most.
RESERVED_NANOSECONDS: Final = 10 * 60 * 1_000_000_000
_SECOND: Final = 1_000_000_000
# TAI64's epoch is 2^62; WireGuard's implementations add the ten leap seconds of 1972 and no others.
_EPOCH: Final = (1 << 62) + 10


class TimestampSource:
    """Gives stamps; every one is greater than all before it, of this and earlier runs."""

    def __init__(self, wall_clock: Callable[[], int], reserved_until: int, reserve: Callable[[int], None]) -> None:
        """Start above everything that may have been given out before.

        Args:
            wall_clock: nanoseconds since 1970, UTC.
            reserved_until: what the last run reserved, in the same unit; 0 for the first run.
            reserve: stores the end of a new range durably before it returns.
        """
        self._wall_clock = wall_clock
        self._last = reserved_until
        self._reserve = reserve
        self._reserved_until = reserved_until

    def __call__(self) -> bytes:
        """The next stamp, 12 bytes."""
        value = max(self._wall_clock(), self._last + 1)
        self._last = value
        if value > self._reserved_until:
            self._reserve(value + RESERVED_NANOSECONDS)
            self._reserved_until = value + RESERVED_NANOSECONDS
        return to_tai64n(value)

    def renew(self) -> None:
        """Reserve anew if less than half of the range is left; called now and then, off the path of packets."""
        value = max(self._wall_clock(), self._last)
        if value + RESERVED_NANOSECONDS // 2 > self._reserved_until:
            self._reserve(value + RESERVED_NANOSECONDS)
            self._reserved_until = value + RESERVED_NANOSECONDS


def to_tai64n(nanoseconds: int) -> bytes:
    """TAI64N of a moment given in nanoseconds since 1970: 12 bytes, comparable as bytes."""
    return struct.pack(">QI", _EPOCH + nanoseconds // _SECOND, nanoseconds % _SECOND)
