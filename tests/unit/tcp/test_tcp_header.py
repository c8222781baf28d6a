"""The TCP header: round trip, hostile options, and dpkt as the independent reader."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.wire.tcp import MalformedSegmentError, TcpHeader, TcpOptions, parse_header, parse_options

U32 = st.integers(0, 0xFFFFFFFF)
OPTIONS = st.builds(
    TcpOptions,
    maximum_segment_size=st.none() | st.integers(0, 65535),
    window_scale=st.none() | st.integers(0, 14),
    sack_permitted=st.booleans(),
    timestamp=U32,
    timestamp_echo=U32,
    sack_blocks=st.lists(st.tuples(U32, U32), max_size=1).map(tuple),
)


@given(st.integers(0, 65535), st.integers(0, 65535), U32, U32, st.integers(0, 255), st.integers(0, 65535), OPTIONS)
def test_parse_and_to_bytes_round_trip(
    source: int, destination: int, sequence: int, acknowledgment: int, flags: int, window: int, options: TcpOptions
) -> None:
    length = 20 + len(options.to_bytes())
    header = TcpHeader(source, destination, sequence, acknowledgment, length, flags, window, options)
    data = header.to_bytes()
    assert parse_header(data) == header
    oracle = dpkt.tcp.TCP(data)
    assert (oracle.sport, oracle.dport, oracle.seq, oracle.ack) == (source, destination, sequence, acknowledgment)
    assert (oracle.off * 4, oracle.flags & 0xFF, oracle.win) == (length, flags, window)


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_are_refused_by_name(data: bytes) -> None:
    if len(data) >= 20 and 20 <= data[12] >> 4 << 2 <= len(data):
        assert parse_header(data).header_length == data[12] >> 4 << 2
    else:
        with pytest.raises(MalformedSegmentError, match=r"tcp_too_short|tcp_bad_data_offset"):
            parse_header(data)


def test_window_scale_beyond_14_counts_as_14() -> None:
    assert parse_options(bytes((3, 3, 200, 0))).window_scale == 14


@pytest.mark.parametrize(
    "data", [b"\x02", b"\x02\x00\x05\xb4", b"\x02\x01\x05\xb4", b"\x08\x0a\x00\x00", b"\x05\x03\x00"]
)
def test_broken_option_lengths_are_ignored(data: bytes) -> None:
    assert parse_options(data) == TcpOptions()


def test_options_behind_an_unknown_one_are_read() -> None:
    assert parse_options(b"\xfd\x04\xab\xcd\x02\x04\x05\x64").maximum_segment_size == 1380


def test_more_options_than_a_header_holds() -> None:
    with pytest.raises(ValueError, match="40 is the most"):
        TcpOptions(timestamp=1, sack_blocks=((1, 2),) * 4).to_bytes()
