"""One TCP connection, as its owner sees it, and its deadlines.

What segments do to it is in `state_machine` (the general path, RFC 9293 section 3.10.7) and `fast_path`; the two
halves of the stream are `receiver` and `sender`.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final

from lopower.netstack.errors import FlowAborted, FlowError, FlowRefused, FlowReset, FlowTimedOut
from lopower.netstack.tcp.receiver import WINDOW_SCALE, Receiver
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.sender import Sender, Timer
from lopower.netstack.tcp.sequence import MASK
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, RST, SYN, TIMESTAMP_OPTION_WORD, TcpOptions

if TYPE_CHECKING:
    from lopower.netstack.tcp.layer import TcpLayer

_TIMESTAMPS = struct.Struct("!III")
_NEVER: Final = float("inf")
_CHALLENGES_PER_SECOND: Final = 5  # RFC 5961 section 7

_CAN_SEND: Final = frozenset({TcpState.ESTABLISHED, TcpState.CLOSE_WAIT})
_FINISHED: Final = frozenset({TcpState.CLOSED, TcpState.TIME_WAIT})


class Connection:
    """A flow between `remote` (the device) and `local` (what it dialled, or what we call from).

    Attributes:
        peer: whose tunnel it runs through; opaque.
        local, remote: (packed address, port).
        owner: whoever stitches the flow on; never looked into.
        state: RFC 9293 section 3.3.2; SYN_RECEIVED also while a SYN waits for `accept`.
        error: None, or the `FlowError` that says how it ended.
    """

    __slots__ = (
        "_challenge_second",
        "_challenges",
        "_keepalive_idle",
        "builder",
        "delayed_ack_at",
        "error",
        "half_open",
        "handshake_at",
        "handshake_rto",
        "is_pending",
        "keepalive_probes",
        "key",
        "last_data_at",
        "last_heard_at",
        "layer",
        "lifetime_at",
        "local",
        "owner",
        "passive",
        "peer",
        "receiver",
        "remote",
        "sender",
        "state",
        "syn_options",
        "syn_packet",
        "syn_retransmitted",
        "syn_sent_at",
        "timestamp_offset",
        "wake_at",
    )

    def __init__(
        self,
        layer: TcpLayer,
        peer: Hashable,
        key: bytes,
        local: tuple[bytes, int],
        remote: tuple[bytes, int],
        *,
        passive: bool,
        now: float,
    ) -> None:
        self.layer = layer
        self.peer = peer
        self.key = key
        self.local = local
        self.remote = remote
        self.owner: Any = None
        self.error: type[FlowError] | None = None
        self.passive = passive
        self.state = TcpState.SYN_RECEIVED if passive else TcpState.SYN_SENT
        self.is_pending = passive
        self.half_open = True
        self.builder = SegmentBuilder(local[0], remote[0], local[1], remote[1])
        iss, self.timestamp_offset = layer.isn.draw(key, now)
        self.receiver = Receiver(layer.config, layer.budget)
        self.sender = Sender(self, iss, now)
        self.syn_packet = b""
        self.syn_options = TcpOptions()
        self.syn_retransmitted = False
        self.syn_sent_at = now
        self.handshake_at = _NEVER
        self.handshake_rto = 1.0
        self.lifetime_at = _NEVER
        self.delayed_ack_at = _NEVER
        self.last_heard_at = self.last_data_at = now
        self.keepalive_probes = 0
        self.wake_at: float | None = None
        # Flows that were set up together shall not all be probed in one turn.
        self._keepalive_idle = layer.config.keepalive_idle * layer.uniform(0.9, 1.0)
        self._challenge_second = 0.0
        self._challenges = 0

    def __repr__(self) -> str:
        return f"<Connection {self.state.name} port {self.remote[1]} to port {self.local[1]}>"

    # What the owner calls

    @property
    def is_closed(self) -> bool:
        """Nothing more will happen; the stack has forgotten it."""
        return self.state in _FINISHED

    @property
    def received(self) -> list[bytes | memoryview[int]]:
        """Data in order, not yet consumed; views are valid until the turn's `flush`."""
        return self.receiver.received

    @property
    def received_bytes(self) -> int:
        """How many bytes `received` holds."""
        return self.receiver.received_bytes

    @property
    def peer_closed(self) -> bool:
        """The peer's FIN was received; all data before it is in `received`, or consumed."""
        return self.receiver.fin_received

    @property
    def unsent_bytes(self) -> int:
        """What was committed and has not left yet."""
        return max(self.sender.queue.end - self.sender.snd_nxt, 0)

    @property
    def unacknowledged_bytes(self) -> int:
        """What was committed and not acknowledged yet, sent or not."""
        return self.sender.queue.end - self.sender.queue.start

    def accept(self, now: float) -> None:
        """Answer the SYN with a SYN-ACK. Does nothing if the device has given up meanwhile."""
        if not self.is_pending:
            return
        self.is_pending = False
        self.syn_packet = b""
        self.syn_sent_at = now
        self.lifetime_at = now + self.layer.config.syn_received_timeout
        self.send_syn(now)

    def reject(self, now: float) -> None:
        """Answer the SYN with a RST: connection refused."""
        if self.is_pending:
            self.layer.send_reset(self.peer, self.builder, 0, self.receiver.rcv_nxt, now)
            self.terminate(FlowAborted, now)

    def reject_unreachable(self, code: Any, now: float) -> None:
        """Answer the SYN with the ICMP error `code`, and its first retransmission with a RST: lwIP ignores ICMP."""
        if self.is_pending:
            packet, irs = self.syn_packet, self.receiver.irs
            self.terminate(FlowAborted, now)
            self.layer.refuse(self, packet, irs, code, now)

    def consume(self, size: int, now: float) -> None:
        """`size` bytes from the front of `received` went on; the window opens. ValueError: so many are not there."""
        self.receiver.consume(size, self.sender.rtt.minimum, now)
        if not self.is_closed:
            self.layer.active[self] = None

    def send_slots(self) -> Sequence[memoryview[int]]:
        """Payload slots to be filled from the first on; valid until `flush`.

        Empty: there is no room, and the flow becomes dirty once there is; or nothing may be sent any more.
        """
        if self.state not in _CAN_SEND or self.sender.fin_requested:
            return ()
        self.layer.active[self] = None
        return self.sender.slots()

    def commit(self, size: int, now: float) -> None:
        """`size` bytes lie in the slots given last. What the windows permit leaves at once, the rest as they open."""
        if size and self.state in _CAN_SEND:
            self.last_data_at = now
            self.sender.queue.commit(size)
            self.sender.transmit(now)

    def send(self, data: bytes | bytearray | memoryview[int], now: float) -> int:
        """Copy `data` in, as much as there is room for; returns how many bytes. It leaves with the turn's `flush`."""
        if self.state not in _CAN_SEND or self.sender.fin_requested:
            return 0
        self.last_data_at = now
        self.layer.active[self] = None
        return self.sender.write(memoryview(data))

    def shutdown(self, now: float) -> None:
        """FIN after what was committed. What arrives is still received."""
        if self.state in _CAN_SEND and not self.sender.fin_requested:
            self.sender.fin_requested = True
            self.sender.progress_at = now
            self.layer.active[self] = None
        elif self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            if self.is_pending or self.state is TcpState.SYN_SENT:
                self.abort(now)
            else:
                self.sender.fin_requested = True

    def close(self, now: float) -> None:
        """`shutdown`, and nobody reads any more: data not consumed, or still to come, gets a RST (RFC 2525 2.17)."""
        if self.is_closed:
            return
        if self.receiver.received_bytes:
            self.abort(now)
            return
        self.receiver.stop()
        self.shutdown(now)
        if self.state is TcpState.FIN_WAIT_2:
            self._set_lifetime(now + self.layer.config.fin_wait_2)

    def abort(self, now: float) -> None:
        """End the flow with a RST."""
        if self.is_closed:
            return
        if self.is_pending:
            self.reject(now)
            return
        if self.state is not TcpState.SYN_SENT:
            self.send_segment(self.sender.snd_nxt, RST | ACK, now)
        self.terminate(FlowAborted, now)

    def release(self) -> None:
        """The owner is done with it, and calls nothing of it any more; only between calls of the stack's.

        A closed flow's parts are freed at once: they refer to each other, and would wait for the garbage collector.
        """
        self.owner = None
        if self.is_closed:
            self.sender.release()

    # What the state machine and the sender call

    def timestamp(self, now: float) -> int:
        """TSval: milliseconds from an offset of the flow's own (RFC 7323 section 5.4, 7.1)."""
        return int(now * 1000) + self.timestamp_offset & MASK

    def send_segment(self, sequence: int, flags: int, now: float, payload: bytes | memoryview[int] = b"") -> None:
        """Queue one segment for the turn's `flush`, with ACK, window, time stamps and SACK blocks."""
        receiver = self.receiver
        options = b""
        if self.sender.timestamps:
            options = _TIMESTAMPS.pack(TIMESTAMP_OPTION_WORD, self.timestamp(now), receiver.ts_recent)
        if self.sender.sack and not payload and len(receiver.reassembly):
            options += self._sack_option(3 if self.sender.timestamps else 4)
        window = receiver.window_field()
        packet = self.builder.build(sequence, receiver.rcv_nxt, flags, window, options, payload)
        receiver.acknowledged()
        self.delayed_ack_at = _NEVER
        self.layer.queue_packet(self.peer, packet)

    def _sack_option(self, limit: int) -> bytes:
        blocks = self.receiver.reassembly.sack_blocks(limit)
        edges = [edge & MASK for block in blocks for edge in block]
        return struct.pack(f"!BBBB{len(edges)}I", 1, 1, 5, 2 + 4 * len(edges), *edges)

    def send_ack(self, now: float) -> None:
        """An empty segment that says how far we are."""
        self.send_segment(self.sender.snd_nxt, ACK, now)

    def send_challenge_ack(self, now: float) -> None:
        """RFC 5961: an ACK in answer to a SYN, RST or ACK that may be forged; so many per second and no more."""
        if now - self._challenge_second >= 1.0:
            self._challenge_second, self._challenges = now, 0
        self._challenges += 1
        if self._challenges <= _CHALLENGES_PER_SECOND:
            self.layer.counters["tcp_challenge_acks"] += 1
            self.send_ack(now)

    def send_syn(self, now: float) -> None:
        """The SYN, or SYN-ACK, and the time to repeat it."""
        sender, receiver, offered = self.sender, self.receiver, self.syn_options
        mss = self.layer.receive_mss(self)
        stamp = self.timestamp(now)
        if self.state is TcpState.SYN_SENT:
            options = TcpOptions(mss, WINDOW_SCALE, True, stamp, 0)
            packet = self.builder.build(sender.iss, 0, SYN, receiver.syn_window(), options.to_bytes())
        else:
            options = TcpOptions(
                mss,
                receiver.scale if offered.window_scale is not None else None,
                sender.sack,
                stamp if sender.timestamps else None,
                receiver.ts_recent,
            )
            window = receiver.syn_window()
            packet = self.builder.build(sender.iss, receiver.rcv_nxt, SYN | ACK, window, options.to_bytes())
            receiver.acknowledged()
        sender.snd_nxt = max(sender.snd_nxt, sender.iss + 1)
        self.layer.queue_packet(self.peer, packet)
        self.handshake_at = now + self.handshake_rto
        self.wake(self.handshake_at)

    def establish(self, now: float) -> None:
        """The handshake is complete."""
        self.state = TcpState.ESTABLISHED
        self.handshake_at = self.lifetime_at = _NEVER
        sender = self.sender
        sender.snd_una = sender.iss + 1
        sender.progress_at = now
        if self.syn_retransmitted:
            sender.rtt.syn_was_lost()
        else:
            sender.rtt.sample(now - self.syn_sent_at, now)
        self.last_heard_at = self.last_data_at = now
        self.layer.established(self)
        self.wake(now + self._keepalive_idle)
        self.layer.dirty[self] = None
        if sender.fin_requested:
            self.layer.active[self] = None

    def fin_left(self, now: float) -> None:
        """Our FIN was sent."""
        self.state = TcpState.FIN_WAIT_1 if self.state is TcpState.ESTABLISHED else TcpState.LAST_ACK
        self.sender.progress_at = now

    def data_acknowledged(self, now: float) -> None:
        """SND.UNA moved: is the FIN acknowledged, is there room again?"""
        sender = self.sender
        if sender.fin_sent and sender.snd_una == sender.snd_nxt:
            if self.state is TcpState.FIN_WAIT_1:
                self.state = TcpState.FIN_WAIT_2
                if self.receiver.discarding:
                    self._set_lifetime(now + self.layer.config.fin_wait_2)
            elif self.state is TcpState.CLOSING:
                self.enter_time_wait(now)
            elif self.state is TcpState.LAST_ACK:
                self.terminate(None, now)
        elif sender.starved and sender.room():
            sender.starved = False
            self.layer.dirty[self] = None

    def enter_time_wait(self, now: float) -> None:
        """Both sides have said all; what is left is to repeat the last ACK."""
        self.layer.active.pop(self, None)
        self.send_ack(now)
        self._close(TcpState.TIME_WAIT, None, now)

    def terminate(self, error: type[FlowError] | None, now: float) -> None:
        """The end, without a word to the peer."""
        if not self.is_closed:
            self._close(TcpState.CLOSED, error, now)

    def _close(self, state: TcpState, error: type[FlowError] | None, now: float) -> None:
        self.receiver.detach()  # the owner may still read what came before the end
        self.state = state
        self.error = error
        self.is_pending = False
        self.sender.clear()
        self.layer.forget(self, now)

    def received_reset(self, now: float) -> None:
        """A RST that RFC 5961 accepts."""
        refused = not self.passive and self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED)
        self.terminate(FlowRefused if refused else FlowReset, now)

    def acknowledge_later(self, now: float) -> None:
        """In-order data came: an ACK by the turn's end, or a little later if it is one small segment alone."""
        receiver = self.receiver
        if receiver.unacked_segments >= 2 or receiver.unacked >= receiver.mss:
            receiver.ack_due = True
        elif self.delayed_ack_at == _NEVER:
            self.delayed_ack_at = now + self.layer.config.ack_delay
            self.wake(self.delayed_ack_at)
        self.layer.active[self] = None

    def flush(self, now: float) -> None:
        """The turn ends: keep what was not consumed, send what may leave, acknowledge what is due."""
        if self.is_closed:
            return
        receiver, sender = self.receiver, self.sender
        if receiver.received:
            receiver.keep()
        if self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            return
        queue = sender.queue
        queue.trim()
        if queue.end > sender.snd_nxt or sender.board.lost_bytes or (sender.fin_requested and not sender.fin_sent):
            sender.transmit(now)
        if receiver.ack_due or (not receiver.fin_received and receiver.window_update_due()):
            self.send_ack(now)

    # Deadlines

    def wake(self, at: float) -> None:
        """There is something to do at `at`."""
        if self.wake_at is None or at < self.wake_at:
            self.layer.timers.schedule(self, at)

    def _set_lifetime(self, at: float) -> None:
        self.lifetime_at = at
        self.wake(at)

    def _patience(self) -> float:
        """When the peer's silence has lasted too long, or its window has been closed too long after our FIN."""
        sender, config = self.sender, self.layer.config
        if sender.snd_nxt > sender.snd_una:
            limit = config.user_timeout
            if sender.fin_requested and (self.receiver.discarding or self.receiver.fin_received):
                limit = min(limit, config.close_timeout)
            return sender.progress_at + limit
        if sender.timer is Timer.PERSIST:
            if sender.fin_requested:
                return sender.progress_at + config.close_timeout
            return max(sender.progress_at, self.last_heard_at) + config.user_timeout
        return _NEVER

    def _keepalive_at(self) -> float:
        if self.sender.snd_nxt > self.sender.snd_una or self.sender.timer is Timer.PERSIST:
            return _NEVER  # the retransmission and persist timers do the asking
        config = self.layer.config
        return self.last_heard_at + self._keepalive_idle + self.keepalive_probes * config.keepalive_interval

    def next_deadline(self) -> float:
        """When something is due, if nothing else happens; infinity: never."""
        if self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            return min(self.handshake_at, self.lifetime_at)
        return min(
            self.sender.timer_at,
            self.delayed_ack_at,
            self.lifetime_at,
            self._patience(),
            self._keepalive_at(),
            self.last_data_at + self.layer.config.idle_timeout,
        )

    def handle_timer(self, now: float) -> None:
        """Do what is due; calling early is harmless."""
        if self.lifetime_at <= now:
            self.layer.counters["tcp_timed_out"] += 1
            if not self.is_pending and self.state is not TcpState.FIN_WAIT_2:
                self.abort_with(FlowTimedOut, now)
            else:
                self.terminate(FlowTimedOut, now)
        elif self.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            if self.handshake_at <= now:
                self.syn_retransmitted = True
                self.handshake_rto *= 2
                self.send_syn(now)
        else:
            self._handle_open_timers(now)
        if not self.is_closed:
            deadline = self.next_deadline()
            if deadline != _NEVER:
                self.wake(deadline)

    def _handle_open_timers(self, now: float) -> None:
        config = self.layer.config
        if self._patience() <= now or self.last_data_at + config.idle_timeout <= now:
            self.layer.counters["tcp_timed_out"] += 1
            self.abort_with(FlowTimedOut, now)
            return
        if self.delayed_ack_at <= now:
            self.send_ack(now)
        if self.sender.timer_at <= now:
            self.sender.handle_timer(now)
        if self._keepalive_at() <= now:
            if self.keepalive_probes >= config.keepalive_probes:
                self.layer.counters["tcp_timed_out"] += 1
                self.abort_with(FlowTimedOut, now)
                return
            self.keepalive_probes += 1
            self.send_segment(self.sender.snd_una - 1, ACK, now)

    def abort_with(self, error: type[FlowError], now: float) -> None:
        """End the flow with a RST, for a reason that is not the owner's."""
        if self.state is not TcpState.SYN_SENT:
            self.send_segment(self.sender.snd_nxt, RST | ACK, now)
        self.terminate(error, now)
