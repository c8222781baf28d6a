"""An SNTP server (RFC 5905 section 14): devices like the ESP32 have no clock, and certificates need one.

It is honest: while the host's own clock is not synchronised it says so (leap indicator 3, stratum 16), and clients that
care do not use the time. Stateless; the clock is asked through what is passed in.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lopower.wire.sntp import (
    LEAP_UNKNOWN,
    MODE_CLIENT,
    MODE_SERVER,
    MODE_SYMMETRIC_ACTIVE,
    MODE_SYMMETRIC_PASSIVE,
    STRATUM_UNSYNCHRONIZED,
    NtpHeader,
    from_unix,
)

_VERSIONS: Final = range(1, 5)
_PRECISION: Final = -20  # about a microsecond, 2^-20 s: what a system call's clock gives
# One hop below whatever disciplines the host's clock, which does not tell the kernel its stratum: NTP servers on the
# Internet are at 1 to 3, so a host that follows them is at 4 at most, and this is below it.
_STRATUM: Final = 4
_REFERENCE_ID: Final = b"LOCL"  # RFC 5905 figure 12: the host's own clock is what this server reads
_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ClockState:
    """What the kernel says of the host's clock.

    Attributes:
        synchronized: whether something disciplines it.
        leap: the leap second announced: 0 none, 1 insert, 2 delete.
        maximum_error: seconds it may be off.
    """

    synchronized: bool
    leap: int = 0
    maximum_error: float = 0.0


class SntpServer:
    """Answers requests.

    Args:
        wall_clock: Unix time in seconds.
        clock_state: whether that is to be believed.
    """

    def __init__(self, *, wall_clock: Callable[[], float], clock_state: Callable[[], ClockState]) -> None:
        self._wall_clock = wall_clock
        self._clock_state = clock_state

    def answer(self, request: bytes | memoryview[int]) -> bytes | None:
        """The answer to one request, never longer than it; None if it deserves none."""
        received = from_unix(self._wall_clock())
        try:
            header = NtpHeader.parse(request)
        except ValueError:
            return None
        if header.version not in _VERSIONS or header.mode not in (MODE_CLIENT, MODE_SYMMETRIC_ACTIVE):
            return None
        state = self._clock_state()
        synchronized = state.synchronized
        return NtpHeader(
            leap=state.leap if synchronized else LEAP_UNKNOWN,
            version=header.version,
            mode=MODE_SERVER if header.mode == MODE_CLIENT else MODE_SYMMETRIC_PASSIVE,
            stratum=_STRATUM if synchronized else STRATUM_UNSYNCHRONIZED,
            poll=header.poll,
            precision=_PRECISION,
            root_dispersion=min(int(state.maximum_error * 65_536), 0xFFFFFFFF) if synchronized else 0,
            reference_id=_REFERENCE_ID if synchronized else bytes(4),
            reference_timestamp=received if synchronized else 0,
            origin_timestamp=header.transmit_timestamp,
            receive_timestamp=received,
            transmit_timestamp=from_unix(self._wall_clock()),
        ).to_bytes()


class _Timex(ctypes.Structure):
    """`struct timex` of Linux, as far as it is read; the rest is room for the kernel to write to."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("_rest", ctypes.c_byte * 256),
    )


_STA_UNSYNC: Final = 0x0040
_TIME_INS: Final = 1
_TIME_DEL: Final = 2
_TIME_ERROR: Final = 5
_UNKNOWN: Final = ClockState(synchronized=False)


def kernel_clock_state() -> ClockState:
    """What adjtimex(2) says; not synchronised where there is no such call, since nobody can say then."""
    if sys.platform != "linux":
        return _UNKNOWN
    timex = _Timex()
    result = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    if result < 0 or result == _TIME_ERROR or timex.status & _STA_UNSYNC:
        return _UNKNOWN
    leap = {_TIME_INS: 1, _TIME_DEL: 2}.get(result, 0)
    return ClockState(True, leap, timex.maxerror / _MICROSECONDS)
