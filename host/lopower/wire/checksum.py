"""The Internet checksum (RFC 1071), of one packet and of a column of packets.

A one's complement sum does not depend on the byte order it is computed in (RFC 1071 section 2 (B)), and folding is a
remainder: 2^16 = 1 modulo 65,535. So one packet is one big integer, and a batch is summed in native 32-bit words.
Of the two representations of zero, the ones computed here are those of the RFC: a sum of 0xffff gives the checksum 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MODULUS = np.uint64(0xFFFF)


def ones_complement_sum(data: bytes | bytearray | memoryview[int], initial: int = 0) -> int:
    """The sum of `data` as big-endian 16-bit words, plus `initial`; not folded. Odd data is padded."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return total + initial


def checksum(data: bytes | bytearray | memoryview[int], initial: int = 0) -> int:
    """The Internet checksum of `data` and of what `initial` has summed up, to be stored big-endian (0 to 65,535)."""
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    return -total % 0xFFFF if total else 0xFFFF


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int) -> int:
    """The part of the pseudo-header that a flow keeps: addresses (packed) and protocol, without the length.

    RFC 9293 section 3.1 (IPv4), RFC 8200 section 8.1 (IPv6). Add the upper layer's length to it.
    """
    return (int.from_bytes(source, "big") + int.from_bytes(destination, "big")) % 0xFFFF + protocol


def swapped(value: int) -> int:
    """A 16-bit value with its bytes exchanged: a big-endian word as the little-endian columns see it."""
    return (value & 0xFF) << 8 | value >> 8 & 0xFF


def column_checksums(words: npt.NDArray[np.uint32], initial: int) -> npt.NDArray[np.uint64]:
    """The checksums of many packets of one size at once, to be stored into a little-endian 16-bit column.

    Args:
        words: `(packets, words)`, the bytes to be summed as little-endian u32; the checksum fields hold zero.
        initial: what is summed beside them (pseudo-header and length), with its bytes `swapped`; never zero.
    """
    sums: npt.NDArray[np.uint64] = words.sum(axis=1, dtype=np.uint64)
    sums += np.uint64(initial)
    # ~s = 2^64 - 1 - s, and 2^64 = 1 modulo 65,535: this is -s, in one operation less.
    np.invert(sums, out=sums)
    sums %= _MODULUS
    return sums
