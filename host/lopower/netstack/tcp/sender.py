"""The sending half of a connection: what may leave now, and what an acknowledgment means.

Congestion control is CUBIC (`congestion`), losses are found by RACK with SACK and by duplicate ACKs without
(`recovery`), proportional rate reduction (RFC 6937) paces recovery by the ACK clock, and tail loss probes (RFC 8985
section 7) keep the end of a burst from waiting for the retransmission timer.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from lopower.netstack.tcp.congestion import Cubic
from lopower.netstack.tcp.recovery import DUPLICATE_THRESHOLD, Flight, Scoreboard, blocks_in_flight
from lopower.netstack.tcp.rtt import RttEstimator
from lopower.netstack.tcp.segments import RowHeaders
from lopower.netstack.tcp.send_queue import Run, SendQueue
from lopower.netstack.tcp.sequence import MASK
from lopower.wire.tcp import ACK, FIN, PSH, TcpOptions

if TYPE_CHECKING:
    from lopower.netstack.tcp.connection import Connection

_PERSIST_MAXIMUM: Final = 60.0
_PROBE_MINIMUM: Final = 0.01
_PEER_ACK_DELAY: Final = 0.2  # RFC 8985 section 7.2: WCDelAckT
_READ_AHEAD_MAXIMUM: Final = 512 << 10
_NEVER: Final = float("inf")
_STAMP_GRANULARITY: Final = 0.001


class Timer(enum.Enum):
    """What the one timer of a sender waits for."""

    NONE = enum.auto()
    RETRANSMISSION = enum.auto()  # RFC 6298
    LOSS_PROBE = enum.auto()  # RFC 8985 section 7
    REORDERING = enum.auto()  # RFC 8985 section 6.3
    PERSIST = enum.auto()  # RFC 9293 section 3.8.6.1


class Sender:
    """SND.UNA, SND.NXT and SND.WND of RFC 9293 section 3.3.1.

    Attributes:
        queue: what the owner committed; `snd_una <= snd_nxt <= queue.end`, plus one once the FIN is sent.
        recovery_point: SND.NXT when a loss was found; None outside of recovery.
        in_loss: the recovery began with a timeout.
        fin_requested, fin_sent: the owner has nothing more to say; it was said.
        starved: the owner found no room and waits to be told.
        progress_at: when data was last acknowledged, or began to wait for it.
        timer, timer_at: what comes next if the peer stays silent.
    """

    __slots__ = (
        "_connection",
        "_cwnd_limited",
        "_headers",
        "_persist_count",
        "_prr_delivered",
        "_prr_flight",
        "_prr_out",
        "_reorder_at",
        "_sent_at",
        "_tlp_end",
        "_tlp_is_retransmission",
        "board",
        "cubic",
        "dupacks",
        "fin_requested",
        "fin_sent",
        "in_loss",
        "iss",
        "max_snd_wnd",
        "mss",
        "progress_at",
        "queue",
        "recovery_point",
        "rtt",
        "sack",
        "scale",
        "snd_nxt",
        "snd_una",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "starved",
        "timer",
        "timer_at",
        "timestamps",
    )

    def __init__(self, connection: Connection, iss: int, now: float) -> None:
        self._connection = connection
        self.iss = self.snd_una = self.snd_nxt = iss
        self.snd_wnd = self.snd_wl1 = self.snd_wl2 = self.max_snd_wnd = 0
        self.scale = 0
        self.sack = self.timestamps = False
        self.mss = 536  # RFC 9293 section 3.7.1, until `start`
        self.rtt = RttEstimator()
        self.board = Scoreboard(iss)
        self.fin_requested = self.fin_sent = False
        self.recovery_point: int | None = None
        self.in_loss = False
        self.dupacks = 0
        self.starved = False
        self.progress_at = now
        self.timer = Timer.NONE
        self.timer_at = _NEVER
        self._sent_at = now
        self._cwnd_limited = False
        self._reorder_at: float | None = None
        self._persist_count = 0
        self._tlp_end: int | None = None
        self._tlp_is_retransmission = False
        self._prr_delivered = self._prr_out = 0
        self._prr_flight = 1
        self._headers: RowHeaders | None = None
        if not connection.passive:  # else the SYN is there already, and `start` comes with what it says
            self.start(self.mss)

    def start(self, mss: int) -> None:
        """The peer's SYN said what it can do: the stream begins behind our SYN."""
        connection = self._connection
        self.mss = mss
        self.cubic = Cubic(mss)
        header = connection.builder.ip_header_length + (32 if self.timestamps else 20)
        self.queue = SendQueue(connection.layer.pool, self.iss + 1, mss, header)

    # What the owner sees

    def room(self) -> int:
        """How many bytes may be committed now; 0 until a piece worth reading fits."""
        queue = self.queue
        unsent = queue.end - self.snd_nxt
        window = min(self.cubic.cwnd, self.snd_wnd)
        config = self._connection.layer.config
        budget = self._connection.layer.budget
        limit = max(min(config.send_buffer, budget.sender_share), config.read_ahead)
        ahead = max(config.read_ahead, min(window >> 1, _READ_AHEAD_MAXIMUM, limit))
        if budget.is_tight:
            ahead = 2 * self.mss
            if budget.is_exhausted and queue.end > queue.start:
                return 0
        held = queue.end - self.snd_una
        free = min(ahead - unsent + max(window - self._pipe(), 0), limit - held)
        return free if free >= ahead >> 1 else 0

    def slots(self) -> Sequence[memoryview[int]]:
        """Free payload slots; empty if there is no room."""
        room = self.room()
        if room < self.mss:
            self.starved = True
            return ()
        return self.queue.slots(room // self.mss)

    def write(self, data: memoryview[int]) -> int:
        """Copy bytes in, as many as there is room for."""
        taken = min(len(data), self.room())
        if taken < len(data):
            self.starved = True
        if taken:
            self.queue.write(data[:taken], self.snd_nxt)
        return taken

    # Transmission

    @property
    def is_clean(self) -> bool:
        """Nothing is missing and nothing is being repaired or probed: an ACK means no more than its number."""
        return self.board.is_clean and self.recovery_point is None and not self.dupacks and self._tlp_end is None

    def _pipe(self) -> int:
        """Bytes in the network, as far as is known (RFC 6675 section 4)."""
        board = self.board
        outstanding = self.snd_nxt - self.snd_una - board.lost_bytes
        if self.sack:
            return outstanding - board.sacked_bytes
        return max(outstanding - self.dupacks * self.mss, 0)

    def transmit(self, now: float) -> None:
        """Send what the windows permit: what was lost first, then what is new, then the FIN."""
        if self.board.lost_bytes:
            self._retransmit(now)
        before = self.snd_nxt
        if before < self.queue.end:
            if before == self.snd_una and now - self._sent_at > self.rtt.rto:
                self.cubic.restart()
            self._transmit_new(now, self.cubic.cwnd - self._pipe())
        if self.fin_requested and not self.fin_sent and self.snd_nxt == self.queue.end:
            self._send_fin(now)
        if self.snd_nxt != before:
            self._sent_at = now
            if before == self.snd_una:
                self.progress_at = now
            if self.recovery_point is not None:
                self._prr_out += self.snd_nxt - before
            self.arm(now, restart=False)
        elif self.timer is Timer.NONE:
            self.arm(now, restart=False)

    def _transmit_new(self, now: float, budget: int) -> None:
        """New data, at most `budget` bytes of it and no more than the peer's window takes."""
        queue = self.queue
        self._cwnd_limited = False
        while self.snd_nxt < queue.end:
            position = self.snd_nxt
            window = self.snd_una + self.snd_wnd - position
            run = queue.find(position)
            row, offset = divmod(position - run.start, run.mss)
            allowed = min(window, budget)
            if offset == 0 and run.mss <= self.mss:
                size = run.end - position
                if size > allowed:
                    size = allowed // run.mss * run.mss
                if size > 0:
                    self._emit(run, row, size, now)
                    self._sent(position, position + size, now)
                    budget -= size
                    continue
                size = min(run.mss, run.end - position)
            else:
                size = min((row + 1) * run.mss + run.start, run.end, position + self.mss) - position
            if size > allowed:
                if size <= window:
                    self._cwnd_limited = True
                    return
                # Silly window avoidance (RFC 9293 section 3.8.6.2.1): a part of a segment only if that is half of the
                # largest window ever seen; else the persist timer looks again.
                if window <= 0 or window > budget or 2 * window < self.max_snd_wnd:
                    return
                size = window
            self._send_copy(position, size, now)
            self._sent(position, position + size, now)
            budget -= size

    def _sent(self, start: int, end: int, now: float) -> None:
        self.board.sent(start, end, now)
        self.snd_nxt = end

    def _emit(self, run: Run, row: int, size: int, now: float) -> None:
        """Send `size` bytes of a run from a row's beginning on: whole rows."""
        connection = self._connection
        receiver = connection.receiver
        mss = run.mss
        if size <= mss:
            # One segment waits for the turn's end, and shares a message buffer and a system call with other flows' and
            # with ACKs: that call is a quarter of what a short connection costs.
            self._send_copy(run.start + row * mss, size, now)
            return
        connection.layer.send_queued(now)
        headers = self._headers
        if headers is None or headers.mss != mss:
            headers = self._headers = RowHeaders(connection.builder, mss, self.timestamps)
        count = (size + mss - 1) // mss
        last_length = size - (count - 1) * mss
        start = run.start + row * mss
        first = run.first + row
        rows = run.chunk.rows
        headers.write(
            rows,
            first,
            count,
            last_length,
            start,
            receiver.rcv_nxt,
            receiver.window_field(),
            start + size == self.queue.end,
            connection.timestamp(now),
            receiver.ts_recent,
        )
        receiver.acknowledged()
        connection.delayed_ack_at = _NEVER
        header = headers.header_length
        connection.layer.output.send_rows(connection.peer, rows, first, count, header + mss, header + last_length, now)

    def _send_copy(self, start: int, size: int, now: float) -> None:
        """Send one segment: of a single row, across a changed MSS, or a part that a small window takes."""
        flags = ACK | PSH if start + size == self.queue.end else ACK
        self._connection.send_segment(start, flags, now, self.queue.copy(start, size))

    def _send_fin(self, now: float) -> None:
        position = self.snd_nxt
        if self.snd_una + self.snd_wnd <= position and self.snd_wnd == 0:
            return
        self.fin_sent = True
        self._connection.send_segment(position, FIN | ACK, now)
        self._sent(position, position + 1, now)
        self._connection.fin_left(now)

    def _retransmit(self, now: float) -> None:
        """Send again what was lost, as far as the congestion window goes."""
        while (flight := self.board.next_lost()) is not None:
            pipe = self._pipe()
            budget = self.cubic.cwnd - pipe
            if pipe and budget < min(self.mss, flight.end - flight.start):
                return
            self._retransmit_front(flight, max(budget, self.mss), now)

    def _retransmit_front(self, flight: Flight, budget: int, now: float) -> None:
        """Send the front of a flight again, at most `budget` bytes, at least one segment."""
        start = flight.start
        queue = self.queue
        end = min(flight.end, queue.end)
        if start >= queue.end:
            self._connection.send_segment(start, FIN | ACK, now)
            end = flight.end
        else:
            run = queue.find(start)
            row, offset = divmod(start - run.start, run.mss)
            size = min(end, run.end) - start
            if start + size != run.end or size > budget:
                size = min(size, budget) // run.mss * run.mss
            if offset == 0 and run.mss <= self.mss and size > 0:
                self._emit(run, row, size, now)
            else:
                size = min(end - start, self.mss)
                self._send_copy(start, size, now)
            end = start + size
        self._connection.layer.counters["tcp_segments_retransmitted"] += -(-(end - start) // self.mss)
        if self.recovery_point is not None:
            self._prr_out += end - start
        self._sent_at = now
        if flight.lost:
            self.board.retransmitted(flight, end, now)
        else:
            self.board.resent(flight, end, now)

    # Acknowledgment

    def acknowledge_clean(self, ack: int, now: float) -> None:
        """The fast path's part: new data is acknowledged, nothing is missing, nothing is being repaired."""
        acked = ack - self.snd_una
        _, measured = self.board.acknowledged(ack, now, _NEVER, 0.0)
        self.queue.release(ack)
        self.snd_una = ack
        self._progressed(acked, acked, measured, None, now)
        self.arm(now, restart=True)

    def update_window(self, sequence: int, ack: int, window: int) -> None:
        """SND.WND, SND.WL1 and SND.WL2 (RFC 9293 section 3.10.7.4); `window` is scaled already."""
        if self.snd_wl1 < sequence or (self.snd_wl1 == sequence and self.snd_wl2 <= ack):
            self.snd_wnd = window
            self.snd_wl1, self.snd_wl2 = sequence, ack
            if window > self.max_snd_wnd:
                self.max_snd_wnd = window

    def acknowledge(
        self, sequence: int, ack: int, window: int, options: TcpOptions, has_payload: bool, now: float
    ) -> None:
        """An acceptable ACK: `ack <= snd_nxt`. RFC 9293 section 3.10.7.4, RFC 6675, RFC 8985, RFC 6582."""
        una = self.snd_una
        if ack < una:
            return
        old_window = self.snd_wnd
        self.update_window(sequence, ack, window)
        blocks: list[tuple[int, int]] = []
        dsack = False
        if self.sack and options.sack_blocks:
            blocks, dsack = blocks_in_flight(options.sack_blocks, ack, una, self.snd_nxt)
        echo_at = _NEVER
        if self.timestamps and options.timestamp is not None:
            age = (self._connection.timestamp(now) - options.timestamp_echo) & MASK
            echo_at = now - age / 1000
        board, minimum_rtt = self.board, self.rtt.minimum
        delivered = 0
        if ack > una:
            delivered, measured = board.acknowledged(ack, now, echo_at, minimum_rtt)
            self.queue.release(ack)
            self.snd_una = ack
            self._progressed(ack - una, delivered, measured, echo_at if echo_at != _NEVER else None, now)
        if blocks:
            delivered += board.selectively_acknowledged(blocks, now, echo_at, minimum_rtt)
        is_duplicate = ack == una and self.snd_nxt > una and not has_payload and window == old_window
        self._loss_probe_acknowledged(ack, dsack, is_duplicate and not blocks)
        if self.sack:
            self._detect_losses(now)
        else:
            delivered = self._count_duplicates(ack - una, is_duplicate, delivered)
        if self.recovery_point is not None:
            self._in_recovery(delivered)
        if ack > una or blocks or self._reorder_at is not None:
            self.arm(now, restart=ack > una)
        elif is_duplicate and self.timer is Timer.NONE:
            self.arm(now, restart=False)
        if self.timer is Timer.PERSIST and self.snd_wnd > 0:
            self._persist_count = 0

    def _progressed(
        self, acked: int, delivered: int, measured: float | None, echo_at: float | None, now: float
    ) -> None:
        """SND.UNA has moved: time it, and grow the window if that was what held the flow up."""
        rtt = self.rtt
        if measured is not None:
            # The ACK of a probe or a retransmission also covers what was sent long before it; the echo tells.
            sample = now - measured if echo_at is None else min(now - measured, now - echo_at + _STAMP_GRANULARITY)
            rtt.sample(sample, now)
            self.cubic.rtt_sampled(sample, self.snd_una, self.snd_nxt)
        elif echo_at is not None:
            rtt.sample(now - echo_at, now)
        else:
            rtt.progressed()
        self.progress_at = now
        self._persist_count = 0
        cubic = self.cubic
        if self.recovery_point is None or self.in_loss:
            slow_start = cubic.cwnd < cubic.ssthresh
            flight = self.snd_nxt - self.snd_una + acked
            if self._cwnd_limited or self.in_loss or (slow_start and 2 * flight >= cubic.cwnd):
                cubic.acknowledged(acked, rtt.srtt, now)
        if self.recovery_point is not None and self.snd_una >= self.recovery_point:
            self._leave_recovery()

    def _detect_losses(self, now: float) -> None:
        board = self.board
        self._reorder_at = None
        if board.is_clean and self.recovery_point is None:
            return
        patient = self.recovery_point is None and board.sacked_bytes < DUPLICATE_THRESHOLD * self.mss
        self._reorder_at = board.detect_losses(now, self.rtt.minimum, self.rtt.srtt, patient)
        if board.lost_bytes and self.recovery_point is None:
            self._enter_recovery()

    def _count_duplicates(self, acked: int, is_duplicate: bool, delivered: int) -> int:
        """NewReno (RFC 6582), for peers without SACK; returns how many bytes left the network."""
        una = self.snd_una
        if acked:
            if self.recovery_point is not None and not self.in_loss:
                # A partial ACK: the next hole begins where it ends.
                self.board.mark_lost(una, min(una + self.mss, self.snd_nxt))
                delivered = max(acked - self.dupacks * self.mss, 0)
                self.dupacks = max(self.dupacks - max(-(-acked // self.mss) - 1, 0), 0)
            else:
                self.dupacks = 0
            return delivered
        if not is_duplicate or self.in_loss:
            return delivered
        self.dupacks += 1
        outstanding = -(-(self.snd_nxt - una) // self.mss)
        threshold = DUPLICATE_THRESHOLD
        if outstanding <= threshold and self.snd_nxt == self.queue.end:
            threshold = max(outstanding - 1, 1)  # early retransmit (RFC 5827): no more duplicates can come
        if self.recovery_point is None and self.dupacks >= threshold:
            self._enter_recovery()
            self.board.mark_lost(una, min(una + self.mss, self.snd_nxt))
        return delivered + self.mss

    def _enter_recovery(self) -> None:
        self.recovery_point = self.snd_nxt
        self.in_loss = False
        self._prr_flight = max(self.snd_nxt - self.snd_una, 1)
        self._prr_delivered = self._prr_out = 0
        self.cubic.lost(self._prr_flight)
        self._tlp_end = None
        self._connection.layer.counters["tcp_fast_recoveries"] += 1

    def _in_recovery(self, delivered: int) -> None:
        """Proportional rate reduction (RFC 6937), slow start reduction bound."""
        if self.in_loss:
            return
        cubic = self.cubic
        self._prr_delivered += delivered
        pipe = self._pipe()
        if pipe > cubic.ssthresh:
            share = -(-self._prr_delivered * cubic.ssthresh // self._prr_flight) - self._prr_out
        else:
            limit = max(self._prr_delivered - self._prr_out, delivered) + self.mss
            share = min(cubic.ssthresh - pipe, limit)
        if not self._prr_out:
            share = max(share, self.mss)  # the first retransmission leaves at once
        cubic.cwnd = max(pipe + max(share, 0), self.mss)

    def _leave_recovery(self) -> None:
        if not self.in_loss:
            self.cubic.cwnd = max(self.cubic.ssthresh, self.mss)
        self.recovery_point = None
        self.in_loss = False
        self.dupacks = 0
        self._reorder_at = None

    def _loss_probe_acknowledged(self, ack: int, dsack: bool, bare_duplicate: bool) -> None:
        """RFC 8985 section 7.4.2."""
        end = self._tlp_end
        if end is None or ack < end:
            return
        if self._tlp_is_retransmission and not dsack and not bare_duplicate:
            if ack == end:
                return
            self.cubic.lost(self.snd_nxt - self.snd_una)  # the probe repaired a loss
            self.cubic.cwnd = min(self.cubic.cwnd, self.cubic.ssthresh)
        self._tlp_end = None

    # Timers

    def arm(self, now: float, *, restart: bool) -> None:
        """Choose what to wait for. A running retransmission timer goes on unless `restart` (RFC 6298 section 5)."""
        rtt = self.rtt
        if self.snd_nxt == self.snd_una:
            if self.queue.end > self.snd_nxt or (self.fin_requested and not self.fin_sent):
                if self.timer is not Timer.PERSIST:
                    if not self._persist_count:
                        self.progress_at = now  # the wait begins
                    self._set(Timer.PERSIST, now + self._persist_interval())
            else:
                self.timer, self.timer_at = Timer.NONE, _NEVER
            return
        if self._reorder_at is not None:
            self._set(Timer.REORDERING, self._reorder_at)
            return
        if self.sack and self.recovery_point is None and self._tlp_end is None and self.board.is_clean and rtt.srtt:
            probe = max(2 * rtt.srtt, _PROBE_MINIMUM)
            if self.snd_nxt - self.snd_una <= self.mss:
                probe += _PEER_ACK_DELAY
            if not rtt.backoff:
                self._set(Timer.LOSS_PROBE, now + min(probe, rtt.rto))
                return
        if restart or self.timer is not Timer.RETRANSMISSION:
            self._set(Timer.RETRANSMISSION, now + rtt.rto)

    def _set(self, timer: Timer, at: float) -> None:
        self.timer, self.timer_at = timer, at
        wake_at = self._connection.wake_at
        if wake_at is None or at < wake_at:
            self._connection.layer.timers.schedule(self._connection, at)

    def _persist_interval(self) -> float:
        return min(self.rtt.base_rto * (1 << min(self._persist_count, 10)), _PERSIST_MAXIMUM)

    def handle_timer(self, now: float) -> None:
        """`timer_at` has come."""
        timer, self.timer, self.timer_at = self.timer, Timer.NONE, _NEVER
        if timer is Timer.RETRANSMISSION:
            self._timed_out(now)
        elif timer is Timer.LOSS_PROBE:
            self._probe_for_loss(now)
        elif timer is Timer.REORDERING:
            self._detect_losses(now)
            if self.recovery_point is not None:
                self._in_recovery(0)
            self.arm(now, restart=True)
            self.transmit(now)
        elif timer is Timer.PERSIST:
            self._probe_window(now)

    def _timed_out(self, now: float) -> None:
        """The retransmission timer (RFC 6298 (5.4) to (5.6))."""
        board = self.board
        self._connection.layer.counters["tcp_retransmission_timeouts"] += 1
        self.rtt.back_off()
        flight = self._pipe()
        if not self.in_loss:
            self.cubic.timed_out(max(flight, self.mss))
        else:
            self.cubic.collapse()
        self.recovery_point = self.snd_nxt
        self.in_loss = True
        self.dupacks = 0
        self._tlp_end = None
        self._reorder_at = None
        if board.flights and board.flights[0].sacked:
            board.forget_sacks()
        board.mark_lost(self.snd_una, self.snd_nxt)
        self._retransmit(now)
        self._set(Timer.RETRANSMISSION, now + self.rtt.rto)

    def _probe_for_loss(self, now: float) -> None:
        """A tail loss probe (RFC 8985 section 7.3): a new segment if there is one, else the last one again."""
        before = self.snd_nxt
        if before < self.queue.end:
            self._transmit_new(now, self.mss)
        self._tlp_is_retransmission = self.snd_nxt == before
        if self._tlp_is_retransmission:
            flight = self.board.split_last(self._last_segment_size())
            if flight is None:
                self._set(Timer.RETRANSMISSION, now + self.rtt.rto)
                return
            self._retransmit_front(flight, self.mss, now)
        self._connection.layer.counters["tcp_loss_probes"] += 1
        self._tlp_end = self.snd_nxt
        self._set(Timer.RETRANSMISSION, now + self.rtt.rto)

    def _last_segment_size(self) -> int:
        """Sequence numbers that the segment sent last takes."""
        if self.fin_sent:
            return 1
        run = self.queue.find(self.snd_nxt - 1)
        return (self.snd_nxt - 1 - run.start) % run.mss + 1

    def _probe_window(self, now: float) -> None:
        """The peer's window is closed or too small, and nothing is in flight that would make it say so."""
        before = self.snd_nxt
        if self.snd_wnd and before < self.queue.end:
            size = min(self.snd_wnd, self.mss, self.queue.end - before)
            self._send_copy(before, size, now)
            self._sent(before, before + size, now)
            self.arm(now, restart=True)
            return
        self._persist_count += 1
        self.transmit(now)
        if self.snd_nxt != before:
            return
        # An old sequence number makes any peer repeat its ACK, and with it its window, without a byte that it would
        # have to throw away.
        self._connection.send_segment(self.snd_una - 1, ACK, now)
        self._set(Timer.PERSIST, now + self._persist_interval())

    def set_mss(self, mss: int, now: float) -> None:
        """The path takes less: what is in flight in larger packets is gone (RFC 1191 section 6.4 wants it sent
        again)."""
        self.mss = mss
        self.cubic.mss_changed(mss)
        self.queue.set_mss(mss)
        self._headers = None
        self.board.mark_lost(self.snd_una, self.snd_nxt)
        if self.recovery_point is None and self.snd_nxt > self.snd_una:
            self.recovery_point = self.snd_nxt
            self.in_loss = True
        self.arm(now, restart=True)

    def clear(self) -> None:
        """Give the buffers back."""
        self.queue.clear()
        self.board.clear()
        self.timer, self.timer_at = Timer.NONE, _NEVER

    def release(self) -> None:
        """Let go of the connection, which is closed: nothing but what the owner may ask still works."""
        del self._connection
