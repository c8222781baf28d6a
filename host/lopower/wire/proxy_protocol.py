"""The PROXY protocol, version 2: who connects and where to, in front of a connection's data.

"The PROXY protocol, Versions 1 & 2" (HAProxy), section 2.2. Of its families, TCP and UDP over IPv4 and IPv6 are taken:
those that flows have.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal

IPAddress = IPv4Address | IPv6Address
Transport = Literal["tcp", "udp"]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_LENGTH: Final = 16  # signature, version and command, family and protocol, length
MAX_LENGTH: Final = (
    FIXED_LENGTH + 4096
)  # ours alone: the field would allow 64 KB, and a sender could make us wait for it
# Types from here to 0xEF are for applications' own use (section 2.2.7).
CUSTOM_FIRST: Final = 0xE0
CUSTOM_LAST: Final = 0xEF
NO_OP: Final = 0x04

_VERSION_2_PROXY: Final = 0x21
_FAMILIES: Final[dict[int, tuple[int, Transport]]] = {
    0x11: (4, "tcp"),
    0x12: (4, "udp"),
    0x21: (6, "tcp"),
    0x22: (6, "udp"),
}
_FAMILY_BYTES: Final = {key: value for value, key in _FAMILIES.items()}
_FIXED: Final = struct.Struct("!12sBBH")
_TLV: Final = struct.Struct("!BH")


class ProxyHeaderError(ValueError):
    """The bytes are no header of this protocol that we take; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyHeader:
    """One header.

    Attributes:
        transport: tcp or udp.
        source, source_port: who connects.
        destination, destination_port: what it wants to reach; the same IP version as `source`.
        tlvs: type and value of each, in order.
    """

    transport: Transport
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    tlvs: tuple[tuple[int, bytes], ...] = ()

    def value(self, kind: int) -> bytes | None:
        """The first value of a type, or None."""
        return next((value for number, value in self.tlvs if number == kind), None)

    @classmethod
    def parse(cls, data: bytes) -> ProxyHeader:
        """The header that `data` is, all of it.

        Raises:
            ProxyHeaderError: it is none.
        """
        size = header_length(data)
        if size is None or len(data) != size:
            raise ProxyHeaderError(f"{len(data)} bytes are not one whole header")
        family = data[13]
        if family not in _FAMILIES:
            raise ProxyHeaderError(f"family and protocol {family:#04x} are not carried")
        version, transport = _FAMILIES[family]
        width = 4 if version == 4 else 16
        ports = FIXED_LENGTH + 2 * width
        if len(data) < ports + 4:
            raise ProxyHeaderError("the addresses are cut short")
        source_port, destination_port = struct.unpack_from("!HH", data, ports)
        return cls(
            transport=transport,
            source=ip_address(data[FIXED_LENGTH : FIXED_LENGTH + width]),
            source_port=source_port,
            destination=ip_address(data[FIXED_LENGTH + width : ports]),
            destination_port=destination_port,
            tlvs=_parse_tlvs(data, ports + 4),
        )

    def to_bytes(self) -> bytes:
        """The header on the wire.

        Raises:
            ValueError: the addresses are of two IP versions, or the header gets longer than MAX_LENGTH.
        """
        if self.source.version != self.destination.version:
            raise ValueError("source and destination must be of one IP version")
        rest = b"".join(
            (
                self.source.packed,
                self.destination.packed,
                struct.pack("!HH", self.source_port, self.destination_port),
                *(_TLV.pack(kind, len(value)) + value for kind, value in self.tlvs),
            )
        )
        if FIXED_LENGTH + len(rest) > MAX_LENGTH:
            raise ValueError(f"the header would have more than {MAX_LENGTH} bytes")
        family = _FAMILY_BYTES[self.source.version, self.transport]
        return _FIXED.pack(SIGNATURE, _VERSION_2_PROXY, family, len(rest)) + rest


def header_length(data: bytes) -> int | None:
    """How many bytes the header has that `data` begins with; None: more must be read to know.

    Raises:
        ProxyHeaderError: it is no header, or a longer one than we take.
    """
    if data[: len(SIGNATURE)] != SIGNATURE[: len(data)]:
        raise ProxyHeaderError("the signature is missing")
    if len(data) < FIXED_LENGTH:
        return None
    _, command, _, rest = _FIXED.unpack_from(data)
    if command != _VERSION_2_PROXY:
        raise ProxyHeaderError(f"version and command {command:#04x} are not those of a proxied connection")
    if FIXED_LENGTH + rest > MAX_LENGTH:
        raise ProxyHeaderError(f"a header of {FIXED_LENGTH + rest} bytes is longer than {MAX_LENGTH}")
    return FIXED_LENGTH + int(rest)


def _parse_tlvs(data: bytes, position: int) -> tuple[tuple[int, bytes], ...]:
    found = []
    while position < len(data):
        if len(data) - position < _TLV.size:
            raise ProxyHeaderError("a type and length are cut short")
        kind, size = _TLV.unpack_from(data, position)
        position += _TLV.size
        if size > len(data) - position:
            raise ProxyHeaderError("a value is cut short")
        found.append((kind, data[position : position + size]))
        position += size
    return tuple(found)
