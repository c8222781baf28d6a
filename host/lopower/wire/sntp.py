"""NTP's packet header (RFC 5905 section 7.3), as far as SNTP needs it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

HEADER_LENGTH: Final = 48
MODE_SYMMETRIC_ACTIVE: Final = 1
MODE_SYMMETRIC_PASSIVE: Final = 2
MODE_CLIENT: Final = 3
MODE_SERVER: Final = 4
LEAP_UNKNOWN: Final = 3  # the clock is not synchronised
STRATUM_UNSYNCHRONIZED: Final = 16
UNIX_EPOCH: Final = 2_208_988_800  # 1970 in seconds since 1900 (RFC 5905 section 6)

_HEADER: Final = struct.Struct(">BBbbII4sQQQQ")


def from_unix(seconds: float) -> int:
    """An NTP time stamp (64 bits: seconds since 1900, modulo 2^32, and their fraction) of a Unix time."""
    whole = int(seconds // 1)
    return ((whole + UNIX_EPOCH) & 0xFFFFFFFF) << 32 | int((seconds - whole) * (1 << 32)) & 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class NtpHeader:
    """Fields as in RFC 5905 figure 8; times are 64-bit NTP time stamps, delays 16.16 fixed point seconds."""

    leap: int
    version: int
    mode: int
    stratum: int = 0
    poll: int = 0
    precision: int = 0
    root_delay: int = 0
    root_dispersion: int = 0
    reference_id: bytes = bytes(4)
    reference_timestamp: int = 0
    origin_timestamp: int = 0
    receive_timestamp: int = 0
    transmit_timestamp: int = 0

    @classmethod
    def parse(cls, data: bytes | memoryview[int]) -> NtpHeader:
        """The header that `data` begins with; extension fields and a MAC may follow.

        Raises:
            ValueError: it is shorter than a header.
        """
        if len(data) < HEADER_LENGTH:
            raise ValueError(f"an NTP packet has {HEADER_LENGTH} bytes at least, not {len(data)}")
        first, stratum, poll, precision, delay, dispersion, reference_id, *times = _HEADER.unpack_from(data)
        return cls(
            leap=first >> 6,
            version=first >> 3 & 7,
            mode=first & 7,
            stratum=stratum,
            poll=poll,
            precision=precision,
            root_delay=delay,
            root_dispersion=dispersion,
            reference_id=reference_id,
            reference_timestamp=times[0],
            origin_timestamp=times[1],
            receive_timestamp=times[2],
            transmit_timestamp=times[3],
        )

    def to_bytes(self) -> bytes:
        """The 48 bytes."""
        return _HEADER.pack(
            self.leap << 6 | self.version << 3 | self.mode,
            self.stratum,
            self.poll,
            self.precision,
            self.root_delay,
            self.root_dispersion,
            self.reference_id,
            self.reference_timestamp,
            self.origin_timestamp,
            self.receive_timestamp,
            self.transmit_timestamp,
        )
