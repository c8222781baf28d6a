"""SEGMENT ARRIVES (RFC 9293 section 3.10.7), with the hardening of RFC 5961 and the time stamps of RFC 7323.

This is the specification of what a segment does; `fast_path` is a shortcut for the common case and is tested against
it. CLOSED and LISTEN (sections 3.10.7.1 and 3.10.7.2) are the layer's: they concern no connection yet.
"""

from __future__ import annotations

from typing import Final

from lopower.netstack.errors import FlowRefused
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.receiver import WINDOW_SCALE
from lopower.netstack.tcp.sequence import MASK, difference, expand
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, FIN, RST, SYN, TcpHeader

_TS_RECENT_LIFETIME: Final = 24 * 86400.0  # RFC 7323 section 5.5

_RECEIVES: Final = frozenset({TcpState.ESTABLISHED, TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2})

# The state after a FIN (section 3.10.7.4, "eighth"); FIN_WAIT_1 is here for a FIN that does not acknowledge ours.
_AFTER_FIN: Final = {
    TcpState.ESTABLISHED: TcpState.CLOSE_WAIT,
    TcpState.FIN_WAIT_1: TcpState.CLOSING,
}


def segment_arrives(connection: Connection, header: TcpHeader, payload: memoryview[int], now: float) -> None:
    """Process one segment that belongs to `connection`."""
    if connection.state is TcpState.SYN_SENT:
        _in_syn_sent(connection, header, now)
    elif connection.is_pending:
        _while_pending(connection, header, now)
    else:
        _otherwise(connection, header, payload, now)


def take_syn(connection: Connection, header: TcpHeader, mss: int, now: float) -> None:
    """What the peer's SYN says: its ISN, its options, and so what both sides will use. `mss` is what the path takes."""
    receiver, sender, options = connection.receiver, connection.sender, header.options
    receiver.start(header.sequence, 0 if options.window_scale is None else WINDOW_SCALE)
    connection.syn_options = options
    sender.snd_wnd = sender.max_snd_wnd = header.window  # never scaled in a SYN
    sender.scale = options.window_scale or 0
    sender.sack = options.sack_permitted
    sender.timestamps = options.timestamp is not None
    receiver.ts_recent, receiver.ts_recent_at = options.timestamp or 0, now
    # A peer that says less than 64 is broken or hostile: its segments would be all header.
    peers = max(options.maximum_segment_size or connection.layer.default_mss(connection), 64)
    header_length = 12 if sender.timestamps else 0
    own = min(peers, mss) - header_length
    sender.start(max(own & ~3, 32))
    receiver.mss = mss - header_length


def _while_pending(connection: Connection, header: TcpHeader, now: float) -> None:
    """SYN-RECEIVED before the owner has decided: nothing was answered yet, so only the SYN can come again, or a RST."""
    receiver = connection.receiver
    if header.flags & RST:
        if expand(header.sequence, receiver.rcv_nxt) == receiver.rcv_nxt:
            connection.received_reset(now)
    elif header.flags & SYN:
        if header.sequence != receiver.irs & MASK:
            # The device has started anew on the same port; the dial for its former life is void.
            connection.received_reset(now)
            connection.layer.receive_syn_again(connection, header, now)
    elif header.flags & ACK:
        connection.layer.send_reset(connection.peer, connection.builder, header.acknowledgment, None, now)


def _in_syn_sent(connection: Connection, header: TcpHeader, now: float) -> None:
    """Section 3.10.7.3."""
    sender, flags = connection.sender, header.flags
    acceptable = False
    if flags & ACK:
        ack = expand(header.acknowledgment, sender.snd_una)
        if not sender.iss < ack <= sender.snd_nxt:
            if not flags & RST:
                connection.layer.send_reset(connection.peer, connection.builder, header.acknowledgment, None, now)
            return
        acceptable = True
    if flags & RST:
        if acceptable:
            connection.terminate(FlowRefused, now)
        return
    if not flags & SYN:
        return
    take_syn(connection, header, connection.layer.receive_mss(connection), now)
    if acceptable:
        sender.snd_wl1, sender.snd_wl2 = connection.receiver.irs, sender.iss + 1
        connection.establish(now)
        connection.send_ack(now)
    else:  # simultaneous open
        connection.state = TcpState.SYN_RECEIVED
        connection.send_syn(now)


def _otherwise(connection: Connection, header: TcpHeader, payload: memoryview[int], now: float) -> None:
    """Section 3.10.7.4, in its order."""
    receiver, sender, flags = connection.receiver, connection.sender, header.flags
    sequence = expand(header.sequence, receiver.rcv_nxt)
    end = sequence + len(payload) + (flags & FIN)
    if connection.state is TcpState.SYN_RECEIVED and flags & SYN and sequence == receiver.irs:
        if not flags & ACK:
            connection.send_syn(now)  # the SYN came again: the SYN-ACK was lost
            return
        header = header._replace(flags=flags & ~SYN, sequence=header.sequence + 1 & MASK)  # simultaneous open
        flags, sequence, end = header.flags, sequence + 1, end + 1
    if sender.timestamps and not _timestamp_acceptable(connection, header, sequence, now):
        return

    # First: the sequence number.
    edge = receiver.rcv_adv
    if end == sequence:
        acceptable = receiver.rcv_nxt <= sequence <= edge
    else:
        acceptable = sequence < edge and end > receiver.rcv_nxt
    if not acceptable:
        if flags & RST:
            return
        if not (sequence == receiver.rcv_nxt == edge):
            connection.layer.counters["tcp_out_of_window"] += 1
            if end != sequence or sequence + 1 == receiver.rcv_nxt or flags & SYN:
                connection.send_ack(now)
            else:
                connection.send_challenge_ack(now)
            return
        # A window of zero takes no data, but what the segment acknowledges counts.
        receiver.ack_due = True
        connection.layer.active[connection] = None
        payload, flags = payload[:0], flags & ~FIN

    # Second and fourth: RST and SYN (RFC 5961 sections 3.2 and 4.2).
    if flags & RST:
        if sequence == receiver.rcv_nxt:
            connection.received_reset(now)
        else:
            connection.send_challenge_ack(now)
        return
    if flags & SYN:
        connection.send_challenge_ack(now)
        return

    # Fifth: the ACK.
    if not flags & ACK:
        return
    if not _acknowledge(connection, header, sequence, bool(payload), now):
        return
    connection.last_heard_at = now
    connection.keepalive_probes = 0
    if connection.is_closed:
        return

    # Seventh and eighth: data and FIN. (Sixth, the urgent pointer: urgent data is delivered in line, RFC 6093.)
    if payload or flags & FIN:
        _receive(connection, sequence, payload, bool(flags & FIN), now)


def _timestamp_acceptable(connection: Connection, header: TcpHeader, sequence: int, now: float) -> bool:
    """RFC 7323 section 3.2 (every segment must have one) and section 5.3 (PAWS, and TS.Recent)."""
    receiver, timestamp = connection.receiver, header.options.timestamp
    if timestamp is None:
        if not header.flags & RST:
            connection.layer.counters["tcp_timestamp_missing"] += 1
            return False
        return True
    age = difference(timestamp, receiver.ts_recent)
    if age < 0 and not header.flags & RST and now - receiver.ts_recent_at < _TS_RECENT_LIFETIME:
        connection.layer.counters["tcp_timestamp_old"] += 1
        connection.send_ack(now)
        return False
    if sequence <= receiver.last_ack_sent and not header.flags & RST:
        receiver.ts_recent, receiver.ts_recent_at = timestamp, now
    return True


def _acknowledge(connection: Connection, header: TcpHeader, sequence: int, has_payload: bool, now: float) -> bool:
    """The ACK field; False if the segment goes no further."""
    sender = connection.sender
    ack = expand(header.acknowledgment, sender.snd_una)
    if connection.state is TcpState.SYN_RECEIVED:
        if not sender.snd_una < ack <= sender.snd_nxt:
            connection.layer.send_reset(connection.peer, connection.builder, header.acknowledgment, None, now)
            return False
        sender.snd_wnd = header.window << sender.scale
        sender.max_snd_wnd = sender.snd_wnd
        sender.snd_wl1, sender.snd_wl2 = sequence, ack
        connection.establish(now)
        return True
    if not sender.snd_una - max(sender.max_snd_wnd, 1) <= ack <= sender.snd_nxt:  # RFC 5961 section 5.2
        connection.send_challenge_ack(now)
        return False
    una = sender.snd_una
    window = header.window << sender.scale
    opened = window > sender.snd_wnd
    sender.acknowledge(sequence, ack, window, header.options, has_payload, now)
    if ack > una or opened:
        connection.data_acknowledged(now)
    if ack > una or opened or sender.board.lost_bytes or sender.queue.end > sender.snd_nxt:
        connection.layer.active[connection] = None
    return True


def _receive(connection: Connection, sequence: int, payload: memoryview[int], fin: bool, now: float) -> None:
    """Data and FIN, trimmed to the window."""
    receiver = connection.receiver
    layer = connection.layer
    layer.active[connection] = None
    if connection.state not in _RECEIVES:
        return  # the peer has said FIN before; whatever this is, it is no news
    connection.last_data_at = now
    if receiver.discarding and payload:
        connection.abort(now)  # nobody will ever read it (RFC 9293 section 3.6.1, RFC 2525 section 2.17)
        return
    rcv_nxt = receiver.rcv_nxt
    if sequence < rcv_nxt:
        payload = payload[rcv_nxt - sequence :]
        receiver.ack_due = True
        sequence = rcv_nxt
    room = receiver.rcv_adv - sequence
    if len(payload) > room:
        payload = payload[:room]
        fin = False
        receiver.ack_due = True
    if sequence > rcv_nxt:
        # An ACK for each, so that the sender counts duplicates or learns the blocks (RFC 5681 section 4.2).
        if payload and not receiver.hold_out_of_order(sequence, payload):
            layer.counters["tcp_out_of_order_dropped"] += 1
        connection.send_ack(now)
        return
    if payload and receiver.is_overfull:
        layer.counters["tcp_memory_exhausted"] += 1
        receiver.ack_due = True
        return
    if payload:
        receiver.accept(payload)
        layer.dirty[connection] = None
        if len(receiver.reassembly):
            receiver.take_reassembled()
            connection.send_ack(now)  # at once, when a gap is filled
        else:
            connection.acknowledge_later(now)
    if fin:
        receiver.rcv_nxt += 1
        receiver.fin_received = True
        receiver.drop_out_of_order()
        receiver.ack_due = True
        layer.dirty[connection] = None
        if connection.state is TcpState.FIN_WAIT_2:
            connection.enter_time_wait(now)
        else:
            connection.state = _AFTER_FIN[connection.state]
