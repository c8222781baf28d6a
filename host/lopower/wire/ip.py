"""IPv4 (RFC 791) and IPv6 (RFC 8200) headers, parsed strictly, and built without options.

Nothing here verifies the IPv4 header checksum: inside the tunnel every packet has been authenticated already.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    Packet = bytes | memoryview[int]

IPV4_HEADER: Final = 20
IPV6_HEADER: Final = 40
FRAGMENT_HEADER: Final = 8
IPV4_MINIMUM_MTU: Final = 576  # what every host must take (RFC 791 section 3.1); the floor for path MTUs
IPV6_MINIMUM_MTU: Final = 1280  # RFC 8200 section 5
MAX_PACKET: Final = 65_535
DEFAULT_HOP_LIMIT: Final = 64

PROTOCOL_ICMP: Final = 1
PROTOCOL_TCP: Final = 6
PROTOCOL_UDP: Final = 17
PROTOCOL_ICMPV6: Final = 58
HOP_BY_HOP: Final = 0
ROUTING: Final = 43
FRAGMENT: Final = 44
NO_NEXT_HEADER: Final = 59
DESTINATION_OPTIONS: Final = 60

# Codes of an ICMPv6 parameter problem (RFC 4443 section 3.4, RFC 7112 section 5).
ERRONEOUS_FIELD: Final = 0
UNRECOGNIZED_NEXT_HEADER: Final = 1
UNRECOGNIZED_OPTION: Final = 2
INCOMPLETE_HEADER_CHAIN: Final = 3

# A packet may carry extension headers without end, each of which costs time; nothing known needs more than three.
MAX_EXTENSION_HEADERS: Final = 8
MAX_EXTENSION_BYTES: Final = 512

_DONT_FRAGMENT: Final = 0x4000
_MORE_FRAGMENTS: Final = 0x2000
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_IPV4_START = struct.Struct("!HHHHBBH")
_IPV6_START = struct.Struct("!IHBB")
_FRAGMENT = struct.Struct("!BBHI")

# The upper-layer header that a first fragment must hold (RFC 7112 section 5).
_UPPER_LAYER_HEADER: Final = {PROTOCOL_TCP: 20, PROTOCOL_UDP: 8, PROTOCOL_ICMPV6: 4}


class PacketError(ValueError):
    """The bytes are no IP packet that a host accepts.

    Attributes:
        reason: a counter's name.
        code: of the ICMPv6 parameter problem that answers it, or None where nothing does.
        pointer: offset in the packet of what is wrong.
    """

    def __init__(self, reason: str, code: int | None = None, pointer: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
        self.pointer = pointer


class FragmentInfo(NamedTuple):
    """Where a fragment belongs (RFC 791 section 3.2, RFC 8200 section 4.5).

    Attributes:
        identification: 16 bits (IPv4) or 32 (IPv6).
        offset: of its data in the whole payload, in bytes.
        more: it is not the last one.
    """

    identification: int
    offset: int
    more: bool


class IpHeader(NamedTuple):
    """One parsed header, IPv6 extension headers included.

    Attributes:
        version: 4 or 6.
        source, destination: packed.
        protocol: of the payload; of a fragment that is not the first one, what follows the fragment header.
        header_length: bytes in front of the payload, options and extension headers included.
        total_length: bytes of the whole packet; what follows in the buffer is padding.
        hop_limit: TTL of IPv4.
        fragment: None for a whole packet, atomic fragments (RFC 6946) included.
        protocol_offset: where in the packet the payload's protocol is named.
    """

    version: int
    source: bytes
    destination: bytes
    protocol: int
    header_length: int
    total_length: int
    hop_limit: int = DEFAULT_HOP_LIMIT
    fragment: FragmentInfo | None = None
    protocol_offset: int = 9


def parse_header(packet: Packet, *, truncated: bool = False) -> IpHeader:
    """Parse the header at the start of `packet`, which may have padding behind it; raises `PacketError`.

    Args:
        truncated: `packet` is the start of one that was whole; of its data there may be less than the header says.
    """
    size = len(packet)
    if not size:
        raise PacketError("ip_too_short")
    version = packet[0] >> 4
    if version == 4:
        if size < IPV4_HEADER:
            raise PacketError("ip_too_short")
        first, _, total, identification, fragment_field, ttl, protocol, _, source, destination = _IPV4.unpack_from(
            packet
        )
        header_length = (first & 15) << 2
        if header_length < IPV4_HEADER:
            raise PacketError("ipv4_bad_header_length")
        if not header_length <= total or header_length > size or (total > size and not truncated):
            raise PacketError("ip_bad_length")
        if header_length > IPV4_HEADER:
            _check_ipv4_options(packet, header_length)
        fragment = None
        if fragment_field & 0x3FFF:
            offset = (fragment_field & 0x1FFF) << 3
            more = fragment_field & _MORE_FRAGMENTS != 0
            _check_fragment(total - header_length, offset, more, header_length)
            fragment = FragmentInfo(identification, offset, more)
        return IpHeader(4, source, destination, protocol, header_length, total, ttl, fragment)
    if version == 6:
        if size < IPV6_HEADER:
            raise PacketError("ip_too_short")
        _, length, next_header, hop_limit, source, destination = _IPV6.unpack_from(packet)
        total = IPV6_HEADER + length
        if total > size and not truncated:
            raise PacketError("ip_bad_length")
        if next_header in (PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMPV6):
            return IpHeader(6, source, destination, next_header, IPV6_HEADER, total, hop_limit, None, 6)
        end = min(total, size)
        protocol, position, fragment, named_at = _parse_extensions(packet, next_header, end, destination)
        return IpHeader(6, source, destination, protocol, position, total, hop_limit, fragment, named_at)
    raise PacketError("ip_bad_version")


def _check_ipv4_options(packet: Packet, header_length: int) -> None:
    """Refuse source routes, which RFC 7126 section 4.3 asks for; options that do not parse are passed over."""
    index = IPV4_HEADER
    while index < header_length:
        kind = packet[index]
        if kind == 0:
            return
        if kind == 1:
            index += 1
            continue
        if kind in (0x83, 0x89):  # loose and strict source route
            raise PacketError("ipv4_source_route")
        if index + 1 >= header_length or packet[index + 1] < 2:
            return
        index += packet[index + 1]


def _check_fragment(length: int, offset: int, more: bool, header_length: int) -> None:
    if more and (length & 7 or not length):
        raise PacketError("fragment_bad_length")
    if header_length + offset + length > MAX_PACKET:
        raise PacketError("fragment_too_far")


def _parse_extensions(
    packet: Packet, next_header: int, end: int, destination: bytes
) -> tuple[int, int, FragmentInfo | None, int]:
    """Walk the chain of extension headers (RFC 8200 section 4) up to `end`, within the bounds above.

    Returns what follows the chain, where it begins, to which fragment it belongs and where it is named.
    """
    position, named_at = IPV6_HEADER, 6
    fragment: FragmentInfo | None = None
    was_fragmented = False
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if next_header == HOP_BY_HOP and position != IPV6_HEADER:
            raise PacketError("ipv6_misplaced_hop_by_hop", UNRECOGNIZED_NEXT_HEADER, named_at)
        if next_header not in (HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS):
            needed = _UPPER_LAYER_HEADER.get(next_header, 0)
            if fragment is not None and position + needed > end:
                raise PacketError("ipv6_incomplete_header_chain", INCOMPLETE_HEADER_CHAIN, 0)
            break
        if position + 8 > end:
            code = INCOMPLETE_HEADER_CHAIN if fragment is not None else None
            raise PacketError("ipv6_incomplete_header_chain", code, 0)
        if next_header == FRAGMENT:
            if was_fragmented:
                raise PacketError("ipv6_nested_fragment")
            was_fragmented = True
            named_at = position
            next_header, _, field, identification = _FRAGMENT.unpack_from(packet, position)
            position += FRAGMENT_HEADER
            offset, more = field & 0xFFF8, bool(field & 1)
            if offset or more:
                length = end - position
                if more and (length & 7 or not length):
                    raise PacketError("fragment_bad_length", ERRONEOUS_FIELD, 4)
                if offset + length > MAX_PACKET:
                    raise PacketError("fragment_too_far", ERRONEOUS_FIELD, named_at + 2)
                fragment = FragmentInfo(identification, offset, more)
                first_header, first_position, first_named_at = next_header, position, named_at
                if offset:
                    break
        else:
            length = (packet[position + 1] + 1) << 3
            if position + length > end:
                code = INCOMPLETE_HEADER_CHAIN if fragment is not None else None
                raise PacketError("ipv6_incomplete_header_chain", code, 0)
            if position + length - IPV6_HEADER > MAX_EXTENSION_BYTES:
                raise PacketError("ipv6_too_many_extensions")
            if next_header == ROUTING:
                if packet[position + 3]:  # segments left, and no type that we know (RFC 8200 section 4.4, RFC 5095)
                    raise PacketError("ipv6_routing_header", ERRONEOUS_FIELD, position + 2)
            else:
                _check_ipv6_options(packet, position + 2, position + length, destination)
            named_at = position
            next_header = packet[position]
            position += length
    else:
        raise PacketError("ipv6_too_many_extensions")
    if fragment is not None:  # what follows the fragment header belongs to the whole, which is parsed when it is there
        next_header, position, named_at = first_header, first_position, first_named_at
    return next_header, position, fragment, named_at


def _check_ipv6_options(packet: Packet, index: int, end: int, destination: bytes) -> None:
    """Options nobody here knows are handled as their two highest bits say (RFC 8200 section 4.2)."""
    while index < end:
        kind = packet[index]
        if kind == 0:  # Pad1
            index += 1
            continue
        if index + 1 >= end:
            raise PacketError("ipv6_bad_option")
        action = kind >> 6
        if action == 1:
            raise PacketError("ipv6_bad_option")
        if action:
            code = None if action == 3 and is_multicast(destination) else UNRECOGNIZED_OPTION
            raise PacketError("ipv6_bad_option", code, index)
        index += 2 + packet[index + 1]
    if index != end:
        raise PacketError("ipv6_bad_option")


def ip_header(source: bytes, destination: bytes, protocol: int, payload_length: int) -> bytes:
    """The header of a packet that is not fragmented: no options, DF set and identification 0 (RFC 6864 section 4.1).

    Args:
        source, destination: packed, of one version.
        payload_length: bytes that follow.
    """
    if len(source) == 4:
        return ipv4_header(source, destination, protocol, payload_length, 0, _DONT_FRAGMENT)
    return _IPV6_START.pack(0x60000000, payload_length, protocol, DEFAULT_HOP_LIMIT) + source + destination


def ipv4_header(
    source: bytes, destination: bytes, protocol: int, payload_length: int, identification: int, fragment_field: int
) -> bytes:
    """An IPv4 header without options; `fragment_field` holds the flags and the offset in units of 8 bytes."""
    addresses = source + destination
    total = IPV4_HEADER + payload_length
    checked = 0x4500 + total + identification + fragment_field + (DEFAULT_HOP_LIMIT << 8 | protocol)
    checksum = -(checked + int.from_bytes(addresses, "big")) % 0xFFFF
    return (
        _IPV4_START.pack(0x4500, total, identification, fragment_field, DEFAULT_HOP_LIMIT, protocol, checksum)
        + addresses
    )


def ipv6_fragment_headers(
    source: bytes, destination: bytes, protocol: int, payload_length: int, identification: int, offset: int, more: bool
) -> bytes:
    """An IPv6 header and the fragment header behind it; `offset` in bytes, a multiple of 8."""
    return (
        _IPV6_START.pack(0x60000000, FRAGMENT_HEADER + payload_length, FRAGMENT, DEFAULT_HOP_LIMIT)
        + source
        + destination
        + _FRAGMENT.pack(protocol, 0, offset | more, identification)
    )


def is_multicast(address: bytes) -> bool:
    """Multicast of either version, and IPv4's limited broadcast: never one host."""
    if len(address) == 4:
        return address[0] >> 4 == 14 or address == b"\xff\xff\xff\xff"
    return address[0] == 0xFF


def is_one_host(address: bytes) -> bool:
    """Whether an address can be that of one host elsewhere: not unspecified, loopback, multicast, reserved."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and (address[:15] != bytes(15) or address[15] > 1)
