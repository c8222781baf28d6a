"""The common case: an open connection, the next expected segments, nothing but ACK and PSH.

A whole run of segments is taken at the price of one. Whatever is unusual is left to `state_machine`, which does the
same for each segment; the run is then offered to it row by row, so refusing is always right.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from lopower.netstack.tcp.sequence import MASK, difference
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import TIMESTAMP_OPTION_WORD

if TYPE_CHECKING:
    from lopower.netstack.rows import SegmentRun
    from lopower.netstack.tcp.connection import Connection
    from lopower.wire.rows import PacketRows

_TIMESTAMPS = struct.Struct("!III")

_TAKES_DATA: Final = frozenset({TcpState.ESTABLISHED, TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2})
_TAKES_ACKS: Final = _TAKES_DATA | {TcpState.CLOSE_WAIT}

# Cutting the views of all rows beforehand pays for runs of at least this many rows.
_SLICES_FROM: Final = 8


def receive_run(connection: Connection, run: SegmentRun, now: float) -> bool:
    """Take the run, or leave it untouched and return False."""
    receiver, sender = connection.receiver, connection.sender
    rcv_nxt, una = receiver.rcv_nxt, sender.snd_una
    total = run.end_sequence - run.sequence & MASK
    ack = una + (run.acknowledgment - una & MASK)
    if (
        connection.state not in (_TAKES_DATA if total else _TAKES_ACKS)
        or run.sequence != rcv_nxt & MASK
        or rcv_nxt + total > receiver.rcv_adv
        or ack > sender.snd_nxt
        or (ack == una and not total)
        or receiver.discarding
        or receiver.is_overfull
        or len(receiver.reassembly)
        or (ack != una and not sender.is_clean)
    ):
        return False
    rows, first, last = run.rows, run.first, run.last
    header = run.ip_header_length + run.header_length
    if sender.timestamps:
        if run.header_length != 32:
            return False
        buffer, position, stride = rows.buffer, run.ip_header_length + 20, rows.stride
        layout, timestamp, _ = _TIMESTAMPS.unpack_from(buffer, first * stride + position)
        if layout != TIMESTAMP_OPTION_WORD or difference(timestamp, receiver.ts_recent) < 0:
            return False
        if last - first > 1:
            # The run finder has seen the option's layout in every row. A stamp that falls is PAWS's to judge.
            stamps = rows.words_be[first:last, position // 4 + 1].astype("u4")
            if (stamps[1:] - stamps[:-1]).max() >> 31:
                return False
            # RFC 7323 section 4.3: of the rows that begin where our last ACK ends, the last one's counts.
            if run.uniform_length <= 0:
                leading = 0 if not total else int((run.payload_lengths > 0).argmax())
                timestamp = int(stamps[leading if total else -1])
    elif run.header_length != 20:
        return False
    count = last - first
    lengths: list[int] | None = None
    if count > 1:
        # No row may acknowledge more than the last one does, or less than was acknowledged before.
        acks = rows.words_be[first:last, run.ip_header_length // 4 + 2].astype("u4")
        acks -= una & MASK
        if acks.max() > ack - una:
            return False
        if run.uniform_length <= 0:
            lengths = run.payload_lengths.tolist()
            # Empty segments count as duplicate ACKs, unless each says more than the one before.
            if 0 in lengths and sender.snd_nxt != una and not (acks[0] > 0 and (acks[1:] > acks[:-1]).all()):
                return False

    if sender.timestamps and rcv_nxt <= receiver.last_ack_sent:
        receiver.ts_recent, receiver.ts_recent_at = timestamp, now
    connection.last_heard_at = now
    connection.keepalive_probes = 0
    layer = connection.layer
    last_sequence = rcv_nxt
    if total:
        if run.uniform_length > 0 and count >= _SLICES_FROM:
            pieces = rows.slices(header, header + run.uniform_length)[first:last]
            last_length = run.uniform_length
        else:
            if lengths is None:
                lengths = run.payload_lengths.tolist()
            last_length = lengths[-1]
            pieces = _cut(rows, first, header, lengths)
        received = receiver.received
        received.extend(pieces)
        receiver.received_bytes += total
        receiver.rcv_nxt = rcv_nxt + total
        receiver.unacked += total
        receiver.unacked_segments += len(pieces)
        last_sequence += total - last_length
        connection.last_data_at = now
        layer.dirty[connection] = None
        connection.acknowledge_later(now)
    else:
        layer.active[connection] = None
    old_window = sender.snd_wnd
    sender.update_window(last_sequence, ack, run.window << sender.scale)
    if ack != una:
        sender.acknowledge_clean(ack, now)
        connection.data_acknowledged(now)
    elif sender.snd_wnd > old_window:
        connection.data_acknowledged(now)
    return True


def _cut(rows: PacketRows, first: int, header: int, lengths: list[int]) -> list[memoryview[int]]:
    """Payload views of rows of different sizes; a full run with a short last row is one list of equal ones and that."""
    count = len(lengths)
    size = lengths[0]
    view, stride = rows.view, rows.stride
    if count > _SLICES_FROM and size and lengths.count(size) == count - 1 and lengths[-1] != size:
        pieces = rows.slices(header, header + size)[first : first + count - 1]
        start = (first + count - 1) * stride + header
        if lengths[-1]:
            pieces.append(view[start : start + lengths[-1]])
        return pieces
    starts = range(first * stride + header, (first + count) * stride + header, stride)
    return [view[start : start + length] for start, length in zip(starts, lengths, strict=True) if length]
