"""Message formats: exact sizes, types, reserved bytes, round trips."""

from __future__ import annotations

import pytest

from lopower.wire.wireguard import (
    CookieReply,
    HandshakeInitiation,
    HandshakeResponse,
    MessageError,
    TransportData,
)

INITIATION = HandshakeInitiation(0x01020304, b"e" * 32, b"s" * 48, b"t" * 28, b"1" * 16, b"2" * 16)
RESPONSE = HandshakeResponse(0x01020304, 0x05060708, b"e" * 32, b"n" * 16, b"1" * 16, b"2" * 16)
COOKIE_REPLY = CookieReply(0x05060708, b"n" * 24, b"c" * 32)
TRANSPORT = TransportData(0x05060708, 2**63 + 5, b"p" * 16)
MESSAGES = [INITIATION, RESPONSE, COOKIE_REPLY, TRANSPORT]

Message = HandshakeInitiation | HandshakeResponse | CookieReply | TransportData


@pytest.mark.parametrize(("message", "size"), list(zip(MESSAGES, (148, 92, 64, 32), strict=True)))
def test_sizes_are_exact_and_parsing_inverts_packing(message: Message, size: int) -> None:
    data = message.to_bytes()
    assert len(data) == size
    assert type(message).parse(data) == message
    with pytest.raises(MessageError):
        type(message).parse(data[:-1])
    if not isinstance(message, TransportData):
        with pytest.raises(MessageError):
            type(message).parse(data + b"\0")


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_the_type_is_a_little_endian_word_with_reserved_bytes_of_zero(message: Message, position: int) -> None:
    data = bytearray(message.to_bytes())
    data[position] ^= 0x80
    with pytest.raises(MessageError):
        type(message).parse(data)


def test_fields_lie_where_the_whitepaper_puts_them() -> None:
    data = INITIATION.to_bytes()
    assert data[:8] == bytes((1, 0, 0, 0, 4, 3, 2, 1))
    assert (data[8:40], data[40:88], data[88:116]) == (b"e" * 32, b"s" * 48, b"t" * 28)
    assert RESPONSE.to_bytes()[:12] == bytes((2, 0, 0, 0, 4, 3, 2, 1, 8, 7, 6, 5))
    assert COOKIE_REPLY.to_bytes()[:8] == bytes((3, 0, 0, 0, 8, 7, 6, 5))
    assert TRANSPORT.to_bytes()[:16] == bytes((4, 0, 0, 0, 8, 7, 6, 5, 5, 0, 0, 0, 0, 0, 0, 0x80))
