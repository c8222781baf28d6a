"""The TCP header (RFC 9293 section 3.1) and the options in use (RFC 9293, 7323, 2018)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

FIN: Final = 0x01
SYN: Final = 0x02
RST: Final = 0x04
PSH: Final = 0x08
ACK: Final = 0x10
URG: Final = 0x20
ECE: Final = 0x40
CWR: Final = 0x80

MINIMUM_HEADER: Final = 20
MAX_WINDOW_SCALE: Final = 14  # RFC 7323 section 2.3: a larger shift counts as 14
TIMESTAMP_OPTION_LENGTH: Final = 12  # NOP, NOP, timestamps: what everybody sends (RFC 7323 appendix A)
TIMESTAMP_OPTION_WORD: Final = 0x0101080A  # its first four bytes

_HEADER = struct.Struct("!HHIIHHHH")
_TIMESTAMPS = struct.Struct("!III")


class MalformedSegmentError(ValueError):
    """The bytes are no TCP segment; the text names the reason."""


class TcpOptions(NamedTuple):
    """Options of one segment; None or empty where the segment has none.

    Attributes:
        maximum_segment_size: MSS of a SYN (RFC 9293 section 3.7.1).
        window_scale: shift count of a SYN, at most 14 (RFC 7323 section 2.2).
        sack_permitted: of a SYN (RFC 2018 section 2).
        timestamp: TSval (RFC 7323 section 3.2); `timestamp_echo`: TSecr beside it.
        sack_blocks: (left edge, right edge) as on the wire (RFC 2018 section 3).
    """

    maximum_segment_size: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamp: int | None = None
    timestamp_echo: int = 0
    sack_blocks: tuple[tuple[int, int], ...] = ()

    def to_bytes(self) -> bytes:
        """The options on the wire, padded with NOPs to whole words; raises ValueError beyond 40 bytes."""
        parts: list[bytes] = []
        if self.maximum_segment_size is not None:
            parts.append(struct.pack("!BBH", 2, 4, self.maximum_segment_size))
        if self.sack_permitted:
            parts.append(b"\x04\x02" if self.timestamp is not None else b"\x01\x01\x04\x02")
        if self.timestamp is not None:
            padding = b"" if self.sack_permitted else b"\x01\x01"
            parts.append(padding + struct.pack("!BBII", 8, 10, self.timestamp, self.timestamp_echo))
        if self.window_scale is not None:
            parts.append(bytes((1, 3, 3, self.window_scale)))
        if self.sack_blocks:
            parts.append(bytes((1, 1, 5, 2 + 8 * len(self.sack_blocks))))
            parts.extend(struct.pack("!II", left, right) for left, right in self.sack_blocks)
        options = b"".join(parts)
        if len(options) > 40:
            raise ValueError(f"{len(options)} bytes of TCP options; 40 is the most a header holds")
        return options


NO_OPTIONS: Final = TcpOptions()


class TcpHeader(NamedTuple):
    """One parsed header. Sequence numbers are 32 bits; `header_length` is in bytes, options included."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    header_length: int
    flags: int
    window: int
    options: TcpOptions

    def to_bytes(self) -> bytes:
        """The header with a checksum of zero; `header_length` follows from the options."""
        options = self.options.to_bytes()
        offset_and_flags = (MINIMUM_HEADER + len(options)) << 10 | self.flags
        fields = self.source_port, self.destination_port, self.sequence, self.acknowledgment
        return _HEADER.pack(*fields, offset_and_flags, self.window, 0, 0) + options


def parse_header(segment: bytes | bytearray | memoryview[int]) -> TcpHeader:
    """Parse the header at the start of a TCP segment; raises `MalformedSegmentError`."""
    if len(segment) < MINIMUM_HEADER:
        raise MalformedSegmentError("tcp_too_short")
    source, destination, sequence, acknowledgment, offset_and_flags, window, _, _ = _HEADER.unpack_from(segment)
    header_length = offset_and_flags >> 12 << 2
    if not MINIMUM_HEADER <= header_length <= len(segment):
        raise MalformedSegmentError("tcp_bad_data_offset")
    options = NO_OPTIONS if header_length == MINIMUM_HEADER else parse_options(segment[MINIMUM_HEADER:header_length])
    return TcpHeader(
        source, destination, sequence, acknowledgment, header_length, offset_and_flags & 0xFF, window, options
    )


def parse_options(data: bytes | bytearray | memoryview[int]) -> TcpOptions:
    """Parse options. Unknown and ill-sized ones are passed over; what follows a broken length is ignored.

    RFC 9293 section 3.1 (MUST-6, MUST-7): illegal option lengths must not crash anything; ignoring the rest is what the
    common stacks do.
    """
    if len(data) == TIMESTAMP_OPTION_LENGTH:
        layout, value, echo = _TIMESTAMPS.unpack(data)
        if layout == TIMESTAMP_OPTION_WORD:
            return TcpOptions(timestamp=value, timestamp_echo=echo)
    maximum_segment_size = window_scale = timestamp = None
    sack_permitted, echo = False, 0
    blocks: tuple[tuple[int, int], ...] = ()
    index, end = 0, len(data)
    while index < end:
        kind = data[index]
        if kind == 0:
            break
        if kind == 1:
            index += 1
            continue
        if index + 1 >= end:
            break
        length = data[index + 1]
        if length < 2 or index + length > end:
            break
        if kind == 2 and length == 4:
            maximum_segment_size = data[index + 2] << 8 | data[index + 3]
        elif kind == 3 and length == 3:
            window_scale = min(data[index + 2], MAX_WINDOW_SCALE)
        elif kind == 4 and length == 2:
            sack_permitted = True
        elif kind == 5 and length > 2 and length % 8 == 2:
            edges = struct.unpack_from(f"!{(length - 2) // 4}I", data, index + 2)
            blocks = tuple(zip(edges[::2], edges[1::2], strict=True))
        elif kind == 8 and length == 10:
            timestamp, echo = struct.unpack_from("!II", data, index + 2)
        index += length
    return TcpOptions(maximum_segment_size, window_scale, sack_permitted, timestamp, echo, blocks)
