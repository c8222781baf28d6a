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
        same: (64-bit word, mask) that equal the row before's within a run: addresses, protocol and ports.
        protocol: byte that names the protocol.
        length: 16-bit word that holds the length; `uncounted`: bytes of the header that it does not count.
    """

    version: int
    header_length: int
    key: tuple[int, int]
    plain: tuple[int, int]
    same: tuple[tuple[int, int], ...]
    protocol: int
    length: int
    uncounted: int


def _word(as_it_lies: str) -> int:
    return int.from_bytes(bytes.fromhex(as_it_lies), "little")


_ALL: Final = (1 << 64) - 1
_IPV4: Final = _Layout(
    version=4,
    header_length=20,
    key=(12, 24),
    plain=(_word("ff00 0000 0000 bfff"), _word("4500 0000 0000 0000")),
    same=((1, _word("00ff 0000 ffff ffff")), (2, _ALL)),
    protocol=9,
    length=1,
    uncounted=0,
)
_IPV6: Final = _Layout(
    version=6,
    header_length=40,
    key=(8, 44),
    plain=(_word("f000 0000 0000 0000"), _word("6000 0000 0000 0000")),
    same=(
        (0, _word("0000 0000 0000 ff00")),
        (1, _ALL),
        (2, _ALL),
        (3, _ALL),
        (4, _ALL),
        (5, _word("ffff ffff 0000 0000")),
    ),
    protocol=6,
    length=2,
    uncounted=40,
)

# TCP's data offset and flags are one 16-bit word.
_ALL_FLAGS_BUT_PSH: Final = 0x0FF7
_ACK: Final = 0x0010


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
        quads = rows.words.view("<u8")
        self.layout = layout
        self.quads: list[npt.NDArray[np.uint64]] = [quads[:, index] for index in range(layout.same[-1][0] + 1)]
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
    """What one layout's columns say: which rows may be in a run, which continue the row before, and their sizes.

    Attributes:
        eligible, joined: one for each row; the first is never joined.
        totals: packet lengths. header_lengths: TCP's. payloads: of TCP.
    """

    columns: _Columns
    eligible: Booleans
    joined: Booleans
    totals: Integers
    header_lengths: Integers
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
        for _, first, last in batch.runs:
            if first < last:
                joined[first] = False
        starts = np.flatnonzero(~joined).tolist()
        starts.append(count)
        position = 0
        for peer, first, last in batch.runs:
            single = first  # rows [single, start) stand alone
            while starts[position] < last:
                start, end = starts[position], starts[position + 1]
                position += 1
                if end - start == 1:
                    continue
                run = self._run(peer, rows, start, end, found)
                if run is not None:
                    if single < start:
                        yield peer, single, start, None
                    yield peer, start, end, run
                    single = end
            if single < last:
                yield peer, single, last, None

    def _look(self, batch: PacketBatch) -> list[_Found]:
        """What there is of runs, by IP version."""
        first_version = batch.rows.buffer[0] >> 4
        found = []
        for version in (4, 6) if first_version == 4 else (6, 4):
            result = self._look_for(self._columns[version], batch)
            if result is not None:
                found.append(result)
                if result.eligible.all():
                    break
        return found

    def _look_for(self, columns: _Columns, batch: PacketBatch) -> _Found | None:
        layout, count = columns.layout, batch.count
        mask, value = layout.plain
        plain = (columns.quads[0][:count] & np.uint64(mask)) == np.uint64(value)
        if not plain.any():
            return None
        totals = columns.length[:count].astype(np.int64)
        if layout.uncounted:
            totals += layout.uncounted
        plain &= totals <= batch.lengths[:count]
        same: Booleans | None = None
        for index, mask in layout.same:
            quads = columns.quads[index][:count]
            if mask != _ALL:
                quads = quads & np.uint64(mask)
            equal = quads[1:] == quads[:-1]
            same = equal if same is None else np.logical_and(same, equal, out=same)
        assert same is not None

        is_tcp = columns.protocol[:count] == PROTOCOL_TCP
        flags = columns.flags[:count].astype(np.int64)
        header_lengths = (flags >> 10) & 0x3C
        payloads = totals - header_lengths
        payloads -= layout.header_length
        eligible = (flags & _ALL_FLAGS_BUT_PSH) == _ACK
        eligible &= is_tcp
        eligible &= payloads >= 0
        sequences = columns.sequence[:count].astype(np.uint32)
        ends = sequences + payloads.astype(np.uint32)
        continues = sequences[1:] == ends[:-1]
        continues &= header_lengths[1:] == header_lengths[:-1]
        if not is_tcp.all():
            is_udp = columns.protocol[:count] == PROTOCOL_UDP
            is_udp &= columns.udp_length[:count] == totals - layout.header_length
            is_udp &= totals >= layout.header_length + 8
            if layout.version == 6:
                is_udp &= columns.udp_checksum[:count] != 0
            eligible |= is_udp
            continues |= is_udp[1:]
        eligible &= plain
        joined = np.zeros(count, np.bool_)
        np.logical_and(same, continues, out=joined[1:])
        joined[1:] &= eligible[1:]
        joined[1:] &= eligible[:-1]
        return _Found(columns, eligible, joined, totals, header_lengths, payloads)

    def _run(
        self, peer: Any, rows: PacketRows, first: int, last: int, found: list[_Found]
    ) -> SegmentRun | DatagramRun | None:
        result = found[0] if found[0].joined[first + 1] else found[1]
        columns = result.columns
        layout = columns.layout
        begin, end = layout.key
        position = first * rows.stride
        key = bytes(rows.view[position + begin : position + end])
        if rows.buffer[position + layout.protocol] == PROTOCOL_UDP:
            datagrams = self._datagrams
            datagrams.peer = peer
            datagrams.rows = rows
            datagrams.first = first
            datagrams.last = last
            datagrams.key = key
            datagrams.ip_header_length = layout.header_length
            datagrams.packet_lengths = result.totals[first:last].tolist()
            return datagrams
        header_length = result.header_lengths.item(first)
        if header_length != 20 and (
            header_length != 32 or not (columns.first_option[first:last] == TIMESTAMP_OPTION_WORD).all()
        ):
            return None
        run = self._segments
        lengths = result.payloads[first:last]
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
