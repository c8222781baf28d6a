"""The Internet checksum: the RFC's example, both representations of zero, and columns against scalars."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lopower.wire.checksum import checksum, column_checksums, ones_complement_sum, pseudo_header_sum, swapped


def reference(data: bytes, initial: int = 0) -> int:
    """RFC 1071 section 4.1, word by word."""
    total = initial
    for index in range(0, len(data) - 1, 2):
        total += data[index] << 8 | data[index + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_example_of_rfc_1071_section_3() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert checksum(data) == 0xFFFF - 0xDDF2


def test_nothing_and_zeros_sum_to_zero() -> None:
    assert checksum(b"") == checksum(bytes(20)) == 0xFFFF


@given(st.binary(max_size=200), st.integers(0, 2**40))
def test_scalar_equals_the_rfcs_loop(data: bytes, initial: int) -> None:
    assert checksum(data, initial) == reference(data, initial)
    assert ones_complement_sum(data, initial) % 0xFFFF == (0xFFFF - reference(data, initial)) % 0xFFFF


@given(st.lists(st.binary(min_size=24, max_size=24), min_size=1, max_size=8), st.integers(1, 0xFFFF))
def test_columns_equal_scalars(packets: list[bytes], initial: int) -> None:
    words = np.frombuffer(b"".join(packets), "<u4").reshape(len(packets), 6)
    columns = column_checksums(words, swapped(initial))
    assert [swapped(value) for value in columns.tolist()] == [reference(packet, initial) for packet in packets]


def test_pseudo_header_sum_of_both_versions() -> None:
    for size in (4, 16):
        source, destination = bytes(range(size)), bytes(range(100, 100 + size))
        whole = source + destination + bytes((0, 6))
        assert reference(b"", pseudo_header_sum(source, destination, 6)) == reference(whole)
