"""Finds in a batch what can be handled at the price of one packet: runs of consecutive rows that belong together.

One look at the header columns of all rows says which rows are plain (IPv4 or IPv6 without options, not a fragment; TCP
with ACK or ACK and PSH only, or UDP), and which continue the row before. Everything else, and every row that stands
alone, is left to the general path; a wrong "no" here costs time, a wrong "yes" would be an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from lopower.wire.ip import PROTOCOL_TCP, PROTOCOL_UDP
from lopower.wire.rows import PacketBatch, PacketRows
from lopower.wire.tcp import TIMESTAMP_OPTION_WORD

# A shorter batch is not worth the columns: about 40 us whatever its size.
MINIMUM_ROWS: Final = 4

Booleans: TypeAlias = npt.NDArray[np.bool_]
Integers: TypeAlias = npt.NDArray[np.int64]
Quads: TypeAlias = npt.NDArray[np.uint64]


class SegmentRun:
    """TCP segments of one flow, each following the last; one object, reused for each run.

    Attributes:
        peer: whose packets they are.
        rows: where they lie: rows `[first, last)`.
        version: 4 or 6.
        key: the device's address, ours, and both ports, as they lie in the packet.
        ip_header_length: 20 or 40; `header_length`: TCP's, 20, or 32 if every row has the time stamp option alone.
        sequence: of the first row; `end_sequence`: past the last byte of the last row, modulo 2^32.
        acknowledgment, window: of the last row, the window as it lies in the header.
        payload_lengths: int64, one for each row.
        uniform_length: payload length if it is the same in all rows, else -1.
    """

    __slots__ = (
        "acknowledgment",
        "end_sequence",
        "first",
        "header_length",
        "ip_header_length",
        "key",
        "last",
        "payload_lengths",
        "peer",
        "rows",
        "sequence",
        "uniform_length",
        "version",
        "window",
    )

    peer: Any
    rows: PacketRows
    first: int
    last: int
    version: int
    key: bytes
    ip_header_length: int
    header_length: int
    sequence: int
    end_sequence: int
    acknowledgment: int
    window: int
    payload_lengths: Integers
    uniform_length: int


class DatagramRun:
    """UDP datagrams of one flow; one object, reused for each run.

    Attributes:
        peer, rows, first, last, key, ip_header_length: as in `SegmentRun`.
        packet_lengths: bytes of each row's packet, padding excluded.
    """

    __slots__ = ("first", "ip_header_length", "key", "last", "packet_lengths", "peer", "rows")

    peer: Any
    rows: PacketRows
    first: int
    last: int
    key: bytes
    ip_header_length: int
    packet_lengths: list[int]


class _Layout(NamedTuple):
    """Where the headers of one IP version lie.

    Attributes:
        version: 4 or 6.
        header_length: in bytes, without options.
        key: (start, stop) of addresses and ports, in bytes.
        plain: (mask, value) of the first 64 bits: version, no options, for IPv4 not a fragment.
        same: masks of the 64-bit words from the first on: what equals the row before's within a run, which is
            addresses, protocol and ports.
        protocol: byte that names the protocol.
        length: 16-bit word that holds the length; `uncounted`: bytes of the header that it does not count.
    """

    version: int
    header_length: int
    key: tuple[int, int]
    plain: tuple[np.uint64, np.uint64]
    same: Quads
    protocol: int
    length: int
    uncounted: int


def _word(as_it_lies: str) -> np.uint64:
    return np.uint64(int.from_bytes(bytes.fromhex(as_it_lies), "little"))


def _words(*as_they_lie: str) -> Quads:
    return np.array([_word(text) for text in as_they_lie], np.uint64)


_IGNORED: Final = "0000 0000 0000 0000"
_WHOLE: Final = "ffff ffff ffff ffff"
_IPV4: Final = _Layout(
    version=4,
    header_length=20,
    key=(12, 24),
    plain=(_word("ff00 0000 0000 bfff"), _word("4500 0000 0000 0000")),
    same=_words(_IGNORED, "00ff 0000 ffff ffff", _WHOLE),
    protocol=9,
    length=1,
    uncounted=0,
)
_IPV6: Final = _Layout(
    version=6,
    header_length=40,
    key=(8, 44),
    plain=(_word("f000 0000 0000 0000"), _word("6000 0000 0000 0000")),
    same=_words("0000 0000 0000 ff00", _WHOLE, _WHOLE, _WHOLE, _WHOLE, "ffff ffff 0000 0000"),
    protocol=6,
    length=2,
    uncounted=40,
)

# TCP's data offset and flags are one 16-bit word. In a run it is ACK or ACK|PSH, without options or with twelve bytes.
_ALL_BUT_PSH: Final = 0xFFF7
_ACK: Final = 0x5010
_ACK_AND_OPTIONS: Final = 0x8010


class _Columns:
    """The columns of one `PacketRows` that one layout looks at: views, made once."""

    __slots__ = (
        "acknowledgment",
        "first_option",
        "flags",
        "layout",
        "length",
        "protocol",
        "quads",
        "sequence",
        "udp_checksum",
        "udp_length",
        "window",
    )

    def __init__(self, rows: PacketRows, layout: _Layout) -> None:
        word, half = layout.header_length // 4, layout.header_length // 2
        self.layout = layout
        self.quads: Quads = rows.words.view("<u8")[:, : len(layout.same)]
        self.protocol = rows.words.view(np.uint8)[:, layout.protocol]
        self.length = rows.halves_be[:, layout.length]
        self.sequence = rows.words_be[:, word + 1]
        self.acknowledgment = rows.words_be[:, word + 2]
        self.flags = rows.halves_be[:, half + 6]
        self.window = rows.halves_be[:, half + 7]
        self.first_option = rows.words_be[:, word + 5]
        self.udp_length = rows.halves_be[:, half + 2]
        self.udp_checksum = rows.halves_be[:, half + 3]


class _Found(NamedTuple):
    """What one layout's columns say: which rows belong together, and their sizes.

    Attributes:
        joined: whether row i + 1 continues row i; one less than there are rows.
        totals: packet lengths. payloads: of TCP.
    """

    columns: _Columns
    joined: Booleans
    totals: Integers
    payloads: Integers


class RunFinder:
    """Cuts batches into runs and rows for the general path. Keeps the views of the rows it saw last."""

    def __init__(self) -> None:
        self._rows: PacketRows | None = None
        self._columns: dict[int, _Columns] = {}
        self._segments = SegmentRun()
        self._datagrams = DatagramRun()

    def find(self, batch: PacketBatch) -> Iterator[tuple[Any, int, int, SegmentRun | DatagramRun | None]]:
        """Yield `(peer, first, last, run)`: all rows, in order; `run` is None where the general path is to be taken.

        The run is the same object each time: use it before going on.
        """
        rows, count = batch.rows, batch.count
        if rows is not self._rows:
            self._rows = rows
            self._columns = {4: _Columns(rows, _IPV4), 6: _Columns(rows, _IPV6)}
        found = self._look(batch)
        if not found:
            for peer, first, last in batch.runs:
                yield peer, first, last, None
            return
        joined = found[0].joined if len(found) == 1 else found[0].joined | found[1].joined
        ends = np.flatnonzero(~joined)
        ends += 1
        starts = {0, *ends.tolist()}
        if len(batch.runs) > 1:
            starts.update(first for _, first, _ in batch.runs)
        cuts = sorted(starts)
        cuts.append(count)
        position = 0
        for peer, first, last in batch.runs:
            general = first  # rows [general, start) take the general path
            while cuts[position] < last:
                start, end = cuts[position], cuts[position + 1]
                position += 1
                if end - start > 1:
                    run = self._run(peer, rows, start, end, found)
                    if run is not None:
                        if general < start:
                            yield peer, general, start, None
                        yield peer, start, end, run
                        general = end
            if general < last:
                yield peer, general, last, None

    def _look(self, batch: PacketBatch) -> list[_Found]:
        """The runs of the first row's IP version, and of the other one if there may be any."""
        found = []
        for version in (4, 6) if batch.rows.buffer[0] >> 4 == 4 else (6, 4):
            result, is_all = self._look_for(self._columns[version], batch)
            if result is not None:
                found.append(result)
            if is_all:
                break
        return found

    def _look_for(self, columns: _Columns, batch: PacketBatch) -> tuple[_Found | None, bool]:
        """The runs of one version, and whether all packets are plain ones of it."""
        layout, count = columns.layout, batch.count
        mask, value = layout.plain
        quads = columns.quads[:count]
        totals = columns.length[:count].astype(np.int64)
        if layout.uncounted:
            totals += layout.uncounted
        eligible = (quads[:, 0] & mask) == value
        eligible &= totals <= batch.lengths[:count]
        is_all = bool(eligible.all())
        if not is_all and not eligible.any():
            return None, False

        differs = quads[1:] ^ quads[:-1]
        differs &= layout.same
        joined: Booleans = np.bitwise_or.reduce(differs, axis=1) == 0

        flags = columns.flags[:count] & _ALL_BUT_PSH
        is_data = flags == _ACK
        if is_data.all():
            payloads = totals - (layout.header_length + 20)
            is_data = payloads >= 0
            follows_shape = None
        else:
            payloads = totals - layout.header_length - ((flags >> 10) & 0x3C)
            is_data |= flags == _ACK_AND_OPTIONS
            is_data &= payloads >= 0
            follows_shape = flags[1:] == flags[:-1]
        # Beyond the wrap of sequence numbers a run ends; the next one begins there.
        sequences = columns.sequence[:count].astype(np.int64)
        continues: Booleans = sequences[1:] == (sequences + payloads)[:-1]
        if follows_shape is not None:
            continues &= follows_shape

        is_udp = columns.protocol[:count] == PROTOCOL_UDP
        if is_udp.any():
            is_datagram = columns.udp_length[:count] == totals - layout.header_length
            is_datagram &= totals >= layout.header_length + 8
            if layout.version == 6:
                is_datagram &= columns.udp_checksum[:count] != 0
            is_data = np.where(is_udp, is_datagram, is_data)
            continues |= is_udp[1:]
        eligible &= is_data
        joined &= continues
        joined &= eligible[1:]
        joined &= eligible[:-1]
        return _Found(columns, joined, totals, payloads), is_all

    def _run(
        self, peer: Any, rows: PacketRows, first: int, last: int, found: list[_Found]
    ) -> SegmentRun | DatagramRun | None:
        """The run in rows `[first, last)`; None if it is of a protocol that has none, or has odd options."""
        columns, _, totals, payloads = found[0] if found[0].joined[first] else found[1]
        layout = columns.layout
        begin, end = layout.key
        position = first * rows.stride
        key = bytes(rows.view[position + begin : position + end])
        protocol = rows.buffer[position + layout.protocol]
        if protocol == PROTOCOL_UDP:
            datagrams = self._datagrams
            datagrams.peer = peer
            datagrams.rows = rows
            datagrams.first = first
            datagrams.last = last
            datagrams.key = key
            datagrams.ip_header_length = layout.header_length
            datagrams.packet_lengths = totals[first:last].tolist()
            return datagrams
        if protocol != PROTOCOL_TCP:
            return None
        header_length = columns.flags.item(first) >> 10 & 0x3C
        if header_length != 20 and not (columns.first_option[first:last] == TIMESTAMP_OPTION_WORD).all():
            return None
        run = self._segments
        lengths = payloads[first:last]
        length, last_length = lengths.item(0), lengths.item(-1)
        run.peer = peer
        run.rows = rows
        run.first = first
        run.last = last
        run.version = layout.version
        run.key = key
        run.ip_header_length = layout.header_length
        run.header_length = header_length
        run.sequence = columns.sequence.item(first)
        run.end_sequence = (columns.sequence.item(last - 1) + last_length) & 0xFFFFFFFF
        run.acknowledgment = columns.acknowledgment.item(last - 1)
        run.window = columns.window.item(last - 1)
        run.payload_lengths = lengths
        run.uniform_length = length if length == last_length and (lengths == length).all() else -1
        return run
