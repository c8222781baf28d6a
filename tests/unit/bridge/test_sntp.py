"""SNTP: RFC 5905 section 14, figures 8 and 31."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.bridge.sntp import ClockState, SntpServer, kernel_clock_state
from lopower.wire.sntp import (
    HEADER_LENGTH,
    LEAP_UNKNOWN,
    MODE_CLIENT,
    MODE_SERVER,
    MODE_SYMMETRIC_ACTIVE,
    MODE_SYMMETRIC_PASSIVE,
    NtpHeader,
    from_unix,
)

NOW = 1_790_000_000.25


def server(state: ClockState) -> SntpServer:
    return SntpServer(wall_clock=lambda: NOW, clock_state=lambda: state)


def request(version: int = 4, mode: int = MODE_CLIENT) -> bytes:
    return NtpHeader(leap=0, version=version, mode=mode, poll=6, transmit_timestamp=0x0123456789ABCDEF).to_bytes()


def answered(state: ClockState, query: bytes) -> NtpHeader:
    answer = server(state).answer(query)
    assert answer is not None
    assert len(answer) == HEADER_LENGTH
    return NtpHeader.parse(answer)


def test_a_synchronised_host_gives_its_time() -> None:
    header = answered(ClockState(True, 1, 0.5), request())
    assert (header.leap, header.version, header.mode, header.stratum) == (1, 4, MODE_SERVER, 4)
    assert header.origin_timestamp == 0x0123456789ABCDEF
    assert header.receive_timestamp == header.transmit_timestamp == from_unix(NOW)
    assert header.root_dispersion == 0x8000
    assert header.poll == 6


def test_an_unsynchronised_host_says_so() -> None:
    header = answered(ClockState(False), request())
    assert (header.leap, header.stratum) == (LEAP_UNKNOWN, 16)
    assert header.reference_timestamp == 0
    assert header.transmit_timestamp == from_unix(NOW)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_the_client_version_is_repeated(version: int) -> None:
    assert answered(ClockState(True), request(version)).version == version


def test_a_symmetric_client_gets_the_passive_mode() -> None:
    assert answered(ClockState(True), request(mode=MODE_SYMMETRIC_ACTIVE)).mode == MODE_SYMMETRIC_PASSIVE


@pytest.mark.parametrize(
    "query",
    [
        b"",
        bytes(47),
        request(version=0),
        request(version=5),
        request(mode=0),
        request(mode=MODE_SERVER),
        request(mode=6),
    ],
    ids=["empty", "short", "version 0", "version 5", "mode 0", "a server's answer", "control"],
)
def test_what_is_no_request_gets_no_answer(query: bytes) -> None:
    assert server(ClockState(True)).answer(query) is None


def test_the_era_after_2036_goes_on_at_zero() -> None:
    """RFC 5905 section 6: the 32-bit seconds wrap on 7 February 2036."""
    assert from_unix(2_085_978_496.0) == 0
    assert from_unix(0.5) == 2_208_988_800 << 32 | 1 << 31


@given(st.binary(max_size=200))
def test_whatever_comes_the_answer_is_no_longer(data: bytes) -> None:
    answer = server(ClockState(True)).answer(data)
    assert answer is None or len(answer) <= len(data)


@given(st.binary(min_size=48, max_size=48))
def test_parse_and_to_bytes_round_trip(data: bytes) -> None:
    assert NtpHeader.parse(data).to_bytes() == data


def test_the_layout_is_that_of_figure_8() -> None:
    header = dataclasses.replace(NtpHeader.parse(bytes(48)), leap=3, version=4, mode=3, stratum=16, precision=-20)
    assert header.to_bytes()[:4] == struct.pack(">BBbb", 0xE3, 16, 0, -20)


def test_the_kernel_says_whether_its_clock_is_synchronised() -> None:
    state = kernel_clock_state()
    assert isinstance(state.synchronized, bool)
    assert state.synchronized or state.leap == 0
