"""Segments of one flow on the wire, IP header included: one at a time, and as columns of a whole run.

Every packet has a constant IP header for its length: DF is set, and the identification of an IPv4 packet that is never
fragmented is 0 (RFC 6864 section 4.1).
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import numpy.typing as npt

from lopower.netstack.tcp.sequence import MASK
from lopower.wire.checksum import column_checksums, pseudo_header_sum, swapped
from lopower.wire.rows import PacketRows
from lopower.wire.tcp import ACK, MINIMUM_HEADER, PSH, TIMESTAMP_OPTION_WORD

_TCP_PROTOCOL: Final = 6
_TTL: Final = 64
_IPV4 = struct.Struct("!HHIBBH")
_IPV6 = struct.Struct("!IHBB")
_TCP = struct.Struct("!HHIIHHHH")
_TIMESTAMPS = struct.Struct("!III")

# Fewer rows than this are written one by one: columns cost about 15 us however few they are.
_COLUMNS_FROM: Final = 4


class SegmentBuilder:
    """Builds single segments from one address and port to another (packed addresses, 4 or 16 bytes)."""

    __slots__ = ("_addresses", "_ipv4_sum", "_ports_sum", "destination_port", "ip_header_length", "source_port")

    def __init__(self, source: bytes, destination: bytes, source_port: int, destination_port: int) -> None:
        self._addresses = source + destination
        self.source_port = source_port
        self.destination_port = destination_port
        self.ip_header_length = 20 if len(source) == 4 else 40
        self._ports_sum = pseudo_header_sum(source, destination, _TCP_PROTOCOL)
        self._ipv4_sum = 0x4500 + 0x4000 + (_TTL << 8 | _TCP_PROTOCOL) + int.from_bytes(self._addresses, "big") % 0xFFFF

    @property
    def addresses(self) -> bytes:
        """Source and destination, packed."""
        return self._addresses

    @property
    def pseudo_sum(self) -> int:
        """Sum of the pseudo-header without the length."""
        return self._ports_sum

    def build(
        self,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        options: bytes = b"",
        payload: bytes | memoryview[int] = b"",
    ) -> bytes:
        """One packet. `window` is the header's field; `options` are whole words."""
        header_length = MINIMUM_HEADER + len(options)
        length = header_length + len(payload)
        fields = self.source_port, self.destination_port, sequence & MASK, acknowledgment & MASK
        offset_and_flags = header_length << 10 | flags
        body = b"".join((_TCP.pack(*fields, offset_and_flags, window, 0, 0), options, payload))
        total = int.from_bytes(body, "big")
        if length & 1:
            total <<= 8
        checksum = -(total + self._ports_sum + length) % 0xFFFF
        return b"".join(
            (self.ip_header(length), body[:16], checksum.to_bytes(2, "big"), body[18:header_length], payload)
        )

    def ip_header(self, length: int) -> bytes:
        """The IP header in front of `length` bytes of TCP."""
        if self.ip_header_length == 20:
            total = 20 + length
            checksum = -(self._ipv4_sum + total) % 0xFFFF
            return _IPV4.pack(0x4500, total, 0x4000, _TTL, _TCP_PROTOCOL, checksum) + self._addresses
        return _IPV6.pack(0x60000000, length, _TCP_PROTOCOL, _TTL) + self._addresses


class RowHeaders:
    """Writes the headers of data segments that lie in rows; `mss` bytes each, time stamps or not."""

    __slots__ = (
        "_builder",
        "_checksum_half",
        "_flags_word",
        "_header_words",
        "_initial",
        "_ip_words",
        "_offsets",
        "_payload_end",
        "_template",
        "_template_be",
        "header_length",
        "mss",
        "timestamps",
    )

    def __init__(self, builder: SegmentBuilder, mss: int, timestamps: bool) -> None:
        self._builder = builder
        self.mss = mss
        self.timestamps = timestamps
        ip = builder.ip_header_length
        tcp = MINIMUM_HEADER + (12 if timestamps else 0)
        self.header_length = ip + tcp
        self._ip_words = ip // 4
        self._header_words = self.header_length // 4
        self._flags_word = self._ip_words + 3
        self._checksum_half = 2 * self._ip_words + 8
        self._payload_end = (self.header_length + mss + 3) // 4
        self._initial = swapped((builder.pseudo_sum + tcp + mss) % 0xFFFF) or 0xFFFF
        self._template: npt.NDArray[np.uint32] | None = None
        self._template_be: npt.NDArray[np.uint32] | None = None
        self._offsets: npt.NDArray[np.uint32] | None = None

    def write(
        self,
        rows: PacketRows,
        first: int,
        count: int,
        last_length: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        push: bool,
        timestamp: int,
        timestamp_echo: int,
    ) -> None:
        """Write the headers of rows `[first, first + count)`: `mss` bytes of payload each, the last one `last_length`.

        The padding behind a short last row is zeroed up to the next multiple of 16 (what WireGuard pads to).
        """
        columns = count if last_length == self.mss else count - 1
        if columns < _COLUMNS_FROM or self.mss & 3:
            columns = 0
        else:
            self._write_columns(rows, first, columns, sequence, acknowledgment, window, timestamp, timestamp_echo)
        options = _TIMESTAMPS.pack(TIMESTAMP_OPTION_WORD, timestamp, timestamp_echo) if self.timestamps else b""
        header, view, mss, stride = self.header_length, rows.view, self.mss, rows.stride
        for row in range(columns, count):
            size = last_length if row == count - 1 else mss
            start = (first + row) * stride
            payload = view[start + header : start + header + size]
            flags = ACK | PSH if push and row == count - 1 else ACK
            packet = self._builder.build(sequence + row * mss, acknowledgment, flags, window, options, payload)
            view[start : start + header] = packet[:header]
        if last_length < mss:
            end = (first + count - 1) * stride + header + last_length
            view[end : end + (-(header + last_length) & 15)] = bytes(-(header + last_length) & 15)
        elif push and columns == count:
            self._set_push(rows, first + count - 1)

    def _write_columns(
        self,
        rows: PacketRows,
        first: int,
        count: int,
        sequence: int,
        acknowledgment: int,
        window: int,
        timestamp: int,
        timestamp_echo: int,
    ) -> None:
        template, template_be, offsets = self._template, self._template_be, self._offsets
        if template is None or template_be is None or offsets is None or len(offsets) < count:
            tcp = self.header_length - 4 * self._ip_words
            packet = self._builder.ip_header(tcp + self.mss) + _TCP.pack(
                self._builder.source_port, self._builder.destination_port, 0, 0, 0, 0, 0, 0
            )
            template = np.frombuffer(bytearray(packet.ljust(self.header_length, b"\0")), "<u4")
            template_be = template.view(">u4")
            if self.timestamps:
                template_be[-3] = TIMESTAMP_OPTION_WORD
            offsets = np.arange(max(count, rows.count), dtype=np.uint32) * np.uint32(self.mss)
            self._template, self._template_be, self._offsets = template, template_be, offsets
        flags_word = self._flags_word
        template_be[flags_word - 1] = acknowledgment & MASK
        template_be[flags_word] = (self.header_length - 4 * self._ip_words) << 26 | ACK << 16 | window
        if self.timestamps:
            template_be[-2] = timestamp
            template_be[-1] = timestamp_echo
        end = first + count
        rows.words[first:end, : self._header_words] = template
        rows.words_be[first:end, flags_word - 2] = offsets[:count] + np.uint32(sequence & MASK)
        summed = rows.words[first:end, self._ip_words : self._payload_end]
        rows.halves[first:end, self._checksum_half] = column_checksums(summed, self._initial)

    def _set_push(self, rows: PacketRows, row: int) -> None:
        """Set PSH in a finished header and mend its checksum (RFC 1624 eqn. 3)."""
        position = row * rows.stride + 4 * self._ip_words
        view = rows.view
        view[position + 13] |= PSH
        checksum = int.from_bytes(view[position + 16 : position + 18], "big")
        view[position + 16 : position + 18] = (-((0xFFFF - checksum) + PSH) % 0xFFFF).to_bytes(2, "big")
