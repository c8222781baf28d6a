"""Sequence numbers.

Within this package a sequence number is an unbounded integer whose low 32 bits are what the wire carries. So
comparisons are plain ones, and wrapping happens in this file only.
"""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFF
_HALF: Final = 0x80000000


def expand(wire: int, near: int) -> int:
    """The unbounded sequence number nearest to `near` whose low 32 bits are `wire`."""
    return near + ((wire - near + _HALF) & MASK) - _HALF


def difference(a: int, b: int) -> int:
    """`a - b` of two 32-bit counters, as a signed number (RFC 7323 section 5.2 compares time stamps that way)."""
    return ((a - b + _HALF) & MASK) - _HALF
