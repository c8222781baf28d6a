"""WireGuard's four messages (whitepaper section 5.4): exact sizes, little-endian fields, reserved bytes of zero.

Only formats: nothing here knows a key. The hot path for transport data works on columns of a whole batch and uses the
offsets named here; `TransportData` is its plain counterpart for one message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The message type and its three reserved zero bytes are read as one little-endian u32.
TYPE_INITIATION: Final = 1
TYPE_RESPONSE: Final = 2
TYPE_COOKIE_REPLY: Final = 3
TYPE_TRANSPORT: Final = 4

INITIATION_SIZE: Final = 148
RESPONSE_SIZE: Final = 92
COOKIE_REPLY_SIZE: Final = 64
TRANSPORT_HEADER_SIZE: Final = 16
TAG_SIZE: Final = 16
TRANSPORT_OVERHEAD: Final = TRANSPORT_HEADER_SIZE + TAG_SIZE
"""Bytes that a transport message adds to its packet; an empty one (a keepalive) consists of nothing else."""

KEY_SIZE: Final = 32
MAC_SIZE: Final = 16
TIMESTAMP_SIZE: Final = 12
COOKIE_NONCE_SIZE: Final = 24
PADDING_MULTIPLE: Final = 16

_INITIATION: Final = struct.Struct("<II32s48s28s16s16s")
_RESPONSE: Final = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY: Final = struct.Struct("<II24s32s")
TRANSPORT_HEADER: Final = struct.Struct("<IIQ")

HANDSHAKE_SIZES: Final = {
    TYPE_INITIATION: INITIATION_SIZE,
    TYPE_RESPONSE: RESPONSE_SIZE,
    TYPE_COOKIE_REPLY: COOKIE_REPLY_SIZE,
}
"""Size in bytes of each message type but transport data."""


class MessageError(ValueError):
    """The bytes are not a message of this type: wrong size, wrong type or a reserved byte that is not zero."""


def _unpack(layout: struct.Struct, message_type: int, data: Buffer) -> tuple[int | bytes, ...]:
    view = memoryview(data)
    if view.nbytes != layout.size:
        raise MessageError(f"message type {message_type} has {layout.size} bytes, not {view.nbytes}")
    fields = layout.unpack(view)
    if fields[0] != message_type:
        raise MessageError(f"message type {fields[0]:#x} where {message_type} was expected")
    return fields[1:]


@dataclass(frozen=True, slots=True)
class HandshakeInitiation:
    """The first message, from initiator to responder (whitepaper 5.4.2)."""

    sender_index: int
    ephemeral: bytes
    encrypted_static: bytes
    encrypted_timestamp: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Raises MessageError unless `data` is exactly one initiation."""
        return cls(*_unpack(_INITIATION, TYPE_INITIATION, data))  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        return _INITIATION.pack(
            TYPE_INITIATION,
            self.sender_index,
            self.ephemeral,
            self.encrypted_static,
            self.encrypted_timestamp,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class HandshakeResponse:
    """The second message, from responder to initiator (whitepaper 5.4.3)."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    encrypted_nothing: bytes
    mac1: bytes = bytes(MAC_SIZE)
    mac2: bytes = bytes(MAC_SIZE)

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Raises MessageError unless `data` is exactly one response."""
        return cls(*_unpack(_RESPONSE, TYPE_RESPONSE, data))  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        return _RESPONSE.pack(
            TYPE_RESPONSE,
            self.sender_index,
            self.receiver_index,
            self.ephemeral,
            self.encrypted_nothing,
            self.mac1,
            self.mac2,
        )


@dataclass(frozen=True, slots=True)
class CookieReply:
    """What a receiver under load sends instead of an answer (whitepaper 5.4.7)."""

    receiver_index: int
    nonce: bytes
    encrypted_cookie: bytes

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Raises MessageError unless `data` is exactly one cookie reply."""
        return cls(*_unpack(_COOKIE_REPLY, TYPE_COOKIE_REPLY, data))  # type: ignore[arg-type]

    def to_bytes(self) -> bytes:
        return _COOKIE_REPLY.pack(TYPE_COOKIE_REPLY, self.receiver_index, self.nonce, self.encrypted_cookie)


@dataclass(frozen=True, slots=True)
class TransportData:
    """An encrypted packet, or a keepalive if it is empty (whitepaper 5.4.6)."""

    receiver_index: int
    counter: int
    encrypted_packet: bytes

    @classmethod
    def parse(cls, data: Buffer) -> Self:
        """Raises MessageError unless `data` is a transport message of at least 32 bytes."""
        view = memoryview(data)
        if view.nbytes < TRANSPORT_OVERHEAD:
            raise MessageError(f"a transport message has at least {TRANSPORT_OVERHEAD} bytes, not {view.nbytes}")
        message_type, receiver_index, counter = TRANSPORT_HEADER.unpack_from(view)
        if message_type != TYPE_TRANSPORT:
            raise MessageError(f"message type {message_type:#x} where {TYPE_TRANSPORT} was expected")
        return cls(receiver_index, counter, bytes(view[TRANSPORT_HEADER_SIZE:]))

    def to_bytes(self) -> bytes:
        return TRANSPORT_HEADER.pack(TYPE_TRANSPORT, self.receiver_index, self.counter) + self.encrypted_packet
