"""ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443) messages."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from lopower.wire.checksum import checksum, pseudo_header_sum
from lopower.wire.ip import (
    FRAGMENT,
    FRAGMENT_HEADER,
    IPV4_HEADER,
    IPV4_MINIMUM_MTU,
    IPV6_HEADER,
    IPV6_MINIMUM_MTU,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
)

if TYPE_CHECKING:
    Data = bytes | memoryview[int]

ICMP_HEADER: Final = 8

ECHO_REPLY: Final = 0
DESTINATION_UNREACHABLE: Final = 3
ECHO_REQUEST: Final = 8
TIME_EXCEEDED: Final = 11
PARAMETER_PROBLEM: Final = 12
IPV4_ERRORS: Final = frozenset({3, 4, 5, 11, 12})  # RFC 1122 section 3.2.2: what no error may answer

IPV6_DESTINATION_UNREACHABLE: Final = 1
IPV6_PACKET_TOO_BIG: Final = 2
IPV6_TIME_EXCEEDED: Final = 3
IPV6_PARAMETER_PROBLEM: Final = 4
IPV6_ECHO_REQUEST: Final = 128
IPV6_ECHO_REPLY: Final = 129
IPV6_REDIRECT: Final = 137

FRAGMENTATION_NEEDED: Final = 4  # code of IPv4's destination unreachable
PROTOCOL_UNREACHABLE: Final = 2  # the same
REASSEMBLY_TIME_EXCEEDED: Final = 1  # code of time exceeded, both versions

UnreachableKind: TypeAlias = Literal["no-route", "prohibited", "host", "address", "port"]

# Codes of "destination unreachable", IPv4 (RFC 792, RFC 1812 section 5.2.7.1) and IPv6 (RFC 4443 section 3.1).
UNREACHABLE_CODES: Final[dict[UnreachableKind, tuple[int, int]]] = {
    "no-route": (0, 0),
    "prohibited": (13, 1),
    "host": (1, 3),
    "address": (1, 3),
    "port": (3, 4),
}

_HEADER = struct.Struct("!BBHI")
_QUOTED_IPV4 = struct.Struct("!B5xHxBxx4s4s")
_QUOTED_IPV6 = struct.Struct("!6xBx16s16s")


class IcmpMessage(NamedTuple):
    """One message of either version.

    Attributes:
        type, code: as on the wire.
        rest: the second word: identifier and sequence of an echo, MTU, pointer.
        body: what follows the first eight bytes.
    """

    type: int
    code: int
    rest: int
    body: bytes

    def to_bytes(self, source: bytes, destination: bytes) -> bytes:
        """The message with its checksum, to be sent from `source` to `destination` (packed: the version follows)."""
        message = _HEADER.pack(self.type, self.code, 0, self.rest) + self.body
        initial = 0
        if len(source) == 16:
            initial = pseudo_header_sum(source, destination, PROTOCOL_ICMPV6) + len(message)
        return message[:2] + checksum(message, initial).to_bytes(2, "big") + message[4:]


def parse_message(packet: Data, start: int, end: int) -> IcmpMessage | None:
    """The message in `packet[start:end]`; None if it is shorter than a header."""
    if end - start < ICMP_HEADER:
        return None
    kind, code, _, rest = _HEADER.unpack_from(packet, start)
    return IcmpMessage(kind, code, rest, bytes(packet[start + ICMP_HEADER : end]))


def icmp_protocol(version: int) -> int:
    """The IP protocol number of ICMP."""
    return PROTOCOL_ICMP if version == 4 else PROTOCOL_ICMPV6


def quotation_limit(version: int) -> int:
    """Bytes of the original packet that an error may quote: as much as fits the smallest MTU.

    RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c).
    """
    return (
        IPV4_MINIMUM_MTU - IPV4_HEADER - ICMP_HEADER if version == 4 else IPV6_MINIMUM_MTU - IPV6_HEADER - ICMP_HEADER
    )


class Quotation(NamedTuple):
    """The start of a packet that an ICMP error quotes: one that we sent, or that the error's sender made up.

    Attributes:
        version: 4 or 6.
        source, destination: packed.
        protocol: of the transport header.
        transport: what is there of it, eight bytes at least.
        packet: all that is quoted.
    """

    version: int
    source: bytes
    destination: bytes
    protocol: int
    transport: bytes
    packet: bytes


def parse_quotation(data: Data) -> Quotation | None:
    """Read the packet that an ICMP error quotes; None: no transport header (too short, or a later fragment)."""
    version = data[0] >> 4 if len(data) else 0
    if version == 4 and len(data) >= IPV4_HEADER:
        first, fragment_field, protocol, source, destination = _QUOTED_IPV4.unpack_from(data)
        start = (first & 15) << 2
        if start < IPV4_HEADER or fragment_field & 0x1FFF:
            return None
    elif version == 6 and len(data) >= IPV6_HEADER:
        protocol, source, destination = _QUOTED_IPV6.unpack_from(data)
        start = IPV6_HEADER
        if protocol == FRAGMENT and len(data) >= IPV6_HEADER + FRAGMENT_HEADER:
            if data[42] or data[43] & 0xF8:
                return None
            protocol = data[IPV6_HEADER]
            start += FRAGMENT_HEADER
    else:
        return None
    if len(data) < start + 8:
        return None
    return Quotation(version, source, destination, protocol, bytes(data[start:]), bytes(data))
