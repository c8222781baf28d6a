"""SOCKS5 and PROXY protocol formats: what is written is read back, anything else is refused in one way."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.wire import socks5
from lopower.wire.proxy_protocol import (
    FIXED_LENGTH,
    MAX_LENGTH,
    SIGNATURE,
    ProxyHeader,
    ProxyHeaderError,
    Transport,
    header_length,
)
from lopower.wire.socks5 import ReplyReader, SocksError, connect_messages

PORTS = st.integers(0, 65_535)
TLVS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5).map(tuple)


@st.composite
def headers(draw: st.DrawFn) -> ProxyHeader:
    addresses = draw(st.sampled_from((st.ip_addresses(v=4), st.ip_addresses(v=6))))
    transport: Transport = draw(st.sampled_from(("tcp", "udp")))
    return ProxyHeader(
        transport=transport,
        source=draw(addresses),
        source_port=draw(PORTS),
        destination=draw(addresses),
        destination_port=draw(PORTS),
        tlvs=draw(TLVS),
    )


@given(headers())
def test_a_header_round_trips(header: ProxyHeader) -> None:
    data = header.to_bytes()
    assert header_length(data) == len(data)
    assert header_length(data + b"the connection's own") == len(data)
    assert ProxyHeader.parse(data) == header


@given(headers(), st.data())
def test_a_header_is_taken_whole_or_not_at_all(header: ProxyHeader, data: st.DataObject) -> None:
    wire = header.to_bytes()
    part = wire[: data.draw(st.integers(0, len(wire) - 1))]
    assert header_length(part) is None or len(part) >= FIXED_LENGTH
    with pytest.raises(ProxyHeaderError):
        ProxyHeader.parse(part)
    with pytest.raises(ProxyHeaderError):
        ProxyHeader.parse(wire + b"\0")


@given(headers(), st.integers(0), st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(header: ProxyHeader, position: int, value: int) -> None:
    wire = bytearray(header.to_bytes())
    wire[position % len(wire)] = value
    try:
        parsed = ProxyHeader.parse(bytes(wire))
    except ProxyHeaderError:
        return
    assert parsed.to_bytes() == wire


@given(st.binary(max_size=64))
def test_any_bytes_behind_the_signature_never_raise_anything_else(rest: bytes) -> None:
    data = SIGNATURE + rest
    try:
        size = header_length(data)
        if size is not None:
            assert FIXED_LENGTH <= size <= MAX_LENGTH
        ProxyHeader.parse(data)
    except ProxyHeaderError:
        pass


def test_other_families_and_commands_are_refused() -> None:
    header = ProxyHeader(
        transport="tcp",
        source=ip_address("100.64.0.1"),
        source_port=1,
        destination=ip_address("10.90.0.2"),
        destination_port=80,
    ).to_bytes()
    for position, value in ((12, 0x20), (12, 0x11), (13, 0x00), (13, 0x31), (13, 0x13)):
        changed = bytearray(header)
        changed[position] = value
        with pytest.raises(ProxyHeaderError):
            ProxyHeader.parse(bytes(changed))
    with pytest.raises(ProxyHeaderError, match="longer"):
        header_length(header[:14] + b"\xff\xff")


def test_what_cannot_be_written_raises() -> None:
    mixed = ProxyHeader(
        transport="tcp",
        source=ip_address("::1"),
        source_port=1,
        destination=ip_address("127.0.0.1"),
        destination_port=1,
    )
    with pytest.raises(ValueError, match="one IP version"):
        mixed.to_bytes()
    long = ProxyHeader(
        transport="tcp",
        source=ip_address("::1"),
        source_port=1,
        destination=ip_address("::1"),
        destination_port=1,
        tlvs=((1, bytes(MAX_LENGTH)),),
    )
    with pytest.raises(ValueError, match="more than"):
        long.to_bytes()


def test_a_value_is_found_by_its_type() -> None:
    header = ProxyHeader(
        transport="tcp",
        source=ip_address("::1"),
        source_port=1,
        destination=ip_address("::1"),
        destination_port=1,
        tlvs=((0xE0, b"first"), (0xE0, b"second"), (0xE1, b"")),
    )
    assert (header.value(0xE0), header.value(0xE1), header.value(0xE2)) == (b"first", b"", None)


@given(st.ip_addresses(), PORTS, st.text("abc-.", min_size=1, max_size=40), st.text("x", min_size=1, max_size=3))
def test_the_messages_are_those_of_the_rfcs(destination: socks5.IPAddress, port: int, user: str, password: str) -> None:
    wire = connect_messages(user, password, destination, port)
    login = bytes((1, len(user))) + user.encode() + bytes((len(password),)) + password.encode()
    kind = b"\x01" if destination.version == 4 else b"\x04"
    assert wire == b"\x05\x01\x02" + login + b"\x05\x01\x00" + kind + destination.packed + port.to_bytes(2, "big")


@pytest.mark.parametrize("field", ["", "x" * 256])
def test_a_login_of_no_length_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match="1 to 255"):
        connect_messages(field, "x", ip_address("::1"), 1)
    with pytest.raises(ValueError, match="1 to 255"):
        connect_messages("x", field, ip_address("::1"), 1)


def answer(code: int, version: int) -> bytes:
    kind, bound = (b"\x01", bytes(4)) if version == 4 else (b"\x04", bytes(16))
    return b"\x05\x02\x01\x00\x05" + bytes((code,)) + b"\x00" + kind + bound + b"\x00\x00"


@given(st.integers(0, 255), st.sampled_from((4, 6)), st.data())
def test_a_reply_is_read_to_its_last_byte_and_no_further(code: int, version: int, data: st.DataObject) -> None:
    stream = answer(code, version) + b"the connection's own"
    reader, position, done = ReplyReader(), 0, False
    while not done:
        assert reader.wanted > 0
        taken = data.draw(st.integers(1, reader.wanted))
        done = reader.feed(stream[position : position + taken])
        position += taken
    assert (reader.code, reader.wanted, stream[position:]) == (code, 0, b"the connection's own")


@given(st.binary(max_size=40))
def test_any_answer_ends_or_is_refused(stream: bytes) -> None:
    reader = ReplyReader()
    try:
        while stream:
            part, stream = stream[: reader.wanted], stream[reader.wanted :]
            if reader.feed(part):
                return
    except SocksError:
        pass


@pytest.mark.parametrize(
    "data", [b"\x04", b"\x05\xff", b"\x05\x00", b"\x05\x02\x01\x01", b"\x05\x02\x02\x00"], ids=bytes.hex
)
def test_a_refusal_is_seen_although_the_rest_never_comes(data: bytes) -> None:
    if len(data) < 2:
        data += b"\x02"
    with pytest.raises(SocksError):
        ReplyReader().feed(data)


def test_reading_too_far_is_our_own_fault() -> None:
    with pytest.raises(ValueError, match="were read"):
        ReplyReader().feed(bytes(15))
