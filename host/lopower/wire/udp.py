"""UDP datagrams (RFC 768)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    Data = bytes | memoryview[int]

UDP_HEADER: Final = 8
MAX_IPV4_PAYLOAD: Final = 65_507  # 65,535 less the IP and UDP headers
MAX_IPV6_PAYLOAD: Final = 65_527  # the IPv6 payload length counts no header but ours

HEADER: Final = struct.Struct("!HHHH")  # source port, destination port, length, checksum


class DatagramError(ValueError):
    """The bytes are no UDP datagram; the text names the reason."""


class UdpHeader(NamedTuple):
    """One parsed header; `length` counts the header too, `checksum` 0 means none."""

    source_port: int
    destination_port: int
    length: int
    checksum: int

    def to_bytes(self) -> bytes:
        """The eight bytes on the wire."""
        return HEADER.pack(*self)


def parse_header(packet: Data, start: int, end: int, version: int) -> UdpHeader:
    """Parse the header of the datagram in `packet[start:end]`; raises `DatagramError`.

    Data beyond the datagram's own length is permitted (RFC 768 does not forbid it); over IPv6 a checksum must be there
    (RFC 8200 section 8.1).
    """
    if end - start < UDP_HEADER:
        raise DatagramError("udp_too_short")
    header = UdpHeader(*HEADER.unpack_from(packet, start))
    if not UDP_HEADER <= header.length <= end - start:
        raise DatagramError("udp_bad_length")
    if version == 6 and not header.checksum:
        raise DatagramError("udp_no_checksum")
    return header


def checksum_field(total: int) -> int:
    """The checksum for a sum over pseudo-header, header and data: never 0, which means none."""
    return -total % 0xFFFF or 0xFFFF
