"""The receiving half of a connection: what arrived, what is promised, and when an ACK is due."""

from __future__ import annotations

from typing import Final

from lopower.netstack.tcp.chunks import MemoryBudget
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.reassembly import Reassembly

WINDOW_SCALE: Final = 7  # 65,535 << 7 is 8 MB

# What was received and waits for its reader lies in pieces of at least this size, so that a peer that sends single
# bytes into a flow nobody reads cannot turn a window of 4 MB into 4 million objects.
_COALESCE_BELOW: Final = 2048

# Rounding up to a whole unit of the scale adds up over many ACKs; a peer that sends single bytes gains no more than
# this. Beyond it the field is rounded down, and what was promised is still accepted (RFC 7323 section 2.4).
_ROUNDING_SLACK: Final = 512

# What a flow may hold for its reader even when the budget is exhausted, so that none starves.
_MINIMUM_HOLD: Final = 4096

# A window that its peer fills and its reader empties within this time (seconds), or within two of the path's shortest
# round trips, may be what holds the flow up, and grows. One that takes longer only makes the queues on the way longer,
# in which other flows wait too.
_ENOUGH_SECONDS: Final = 0.008

_TIGHT_WINDOW: Final = 16 << 10  # the window of new promises while memory is tight


class Receiver:
    """RCV.NXT and RCV.WND of RFC 9293 section 3.3.1.

    Attributes:
        irs, rcv_nxt: initial and next expected sequence number.
        rcv_adv: right edge of what was promised; it never moves left (RFC 9293 section 3.8.6).
        limit: how much may be held for the reader, at most; grows while it is what holds the flow up.
        received, received_bytes: in order, not yet consumed.
        reassembly: out-of-order data.
        ts_recent, ts_recent_at: RFC 7323 section 4.3, and when it was set.
        last_ack_sent: RFC 7323's Last.ACK.sent.
        unacked: bytes received since the last ACK left; unacked_segments: how many segments.
        ack_due: an ACK must leave by the turn's end.
        fin_received: the peer's FIN was reached.
        discarding: nobody reads any more.
    """

    __slots__ = (
        "_budget",
        "_consumed",
        "_counted_from",
        "_held",
        "_maximum",
        "_stable",
        "ack_due",
        "discarding",
        "fin_received",
        "irs",
        "last_ack_sent",
        "limit",
        "mss",
        "rcv_adv",
        "rcv_nxt",
        "reassembly",
        "received",
        "received_bytes",
        "scale",
        "ts_recent",
        "ts_recent_at",
        "unacked",
        "unacked_segments",
    )

    def __init__(self, config: TcpConfig, budget: MemoryBudget) -> None:
        self._budget = budget
        self._maximum = config.receive_buffer
        self.limit = min(config.receive_buffer_initial, config.receive_buffer)
        self.irs = self.rcv_nxt = self.rcv_adv = self.last_ack_sent = 0
        self.mss = 0
        self.scale = 0
        self.received: list[bytes | memoryview[int]] = []
        self.received_bytes = 0
        self._stable = 0  # received[:_stable] are copies of ours, the rest views of the turn's rows
        self._held = 0  # bytes counted in the budget
        self._consumed = 0  # since `_counted_from`, monotonic seconds
        self._counted_from = 0.0
        self.reassembly = Reassembly()
        self.ts_recent = 0
        self.ts_recent_at = 0.0
        self.unacked = 0
        self.unacked_segments = 0
        self.ack_due = False
        self.fin_received = False
        self.discarding = False

    def start(self, irs: int, scale: int) -> None:
        """The peer's SYN was seen; our windows will be scaled by `scale`."""
        self.scale = scale
        self._maximum = min(self._maximum, 0xFFFF << scale)
        self.limit = min(self.limit, self._maximum)
        self.irs = irs
        self.rcv_nxt = self.rcv_adv = self.last_ack_sent = irs + 1

    def window_field(self) -> int:
        """The header's window for a segment that leaves now; moves `rcv_adv`."""
        rcv_nxt, rcv_adv = self.rcv_nxt, self.rcv_adv
        limit = self._limit_now()
        free = limit - self.received_bytes
        if self._budget.is_exhausted:
            free = 0
        edge = rcv_nxt + free
        # Silly window avoidance (RFC 9293 section 3.8.6.2.2): open by a segment or half the buffer, or not at all.
        if edge < rcv_adv + min(limit >> 1, self.mss):
            edge = rcv_adv
        scale = self.scale
        window = (edge - rcv_nxt) >> scale
        if window > 0xFFFF:
            window = 0xFFFF
        if rcv_nxt + (window << scale) < rcv_adv and rcv_adv - rcv_nxt <= free + _ROUNDING_SLACK:
            window = (rcv_adv - rcv_nxt + (1 << scale) - 1) >> scale  # rounding must not shrink it
        self.rcv_adv = max(rcv_adv, rcv_nxt + (window << scale))
        return window

    def syn_window(self) -> int:
        """The window of a SYN or SYN-ACK, which is never scaled (RFC 7323 section 2.2); moves `rcv_adv`."""
        window = min(self._limit_now(), 0xFFFF)
        self.rcv_adv = max(self.rcv_adv, self.rcv_nxt + window)
        return window

    def _limit_now(self) -> int:
        return min(self.limit, _TIGHT_WINDOW) if self._budget.is_tight else self.limit

    @property
    def is_overfull(self) -> bool:
        """Memory is exhausted and this flow holds its share: even promised data is dropped, as if it were lost."""
        return self._budget.is_exhausted and self._held >= _MINIMUM_HOLD

    def acknowledged(self) -> None:
        """A segment with our ACK leaves."""
        self.last_ack_sent = self.rcv_nxt
        self.unacked = self.unacked_segments = 0
        self.ack_due = False

    def window_update_due(self) -> bool:
        """The reader has drained a window that was nearly closed: worth a segment of its own.

        While there is room left the next ACK says it all.
        """
        known = self.rcv_adv - self.rcv_nxt
        if known > self.limit >> 3:
            return False
        limit = self._limit_now()
        free = limit - self.received_bytes
        return free >= 2 * known and free - known >= min(limit >> 1, 2 * self.mss) and not self._budget.is_exhausted

    def accept(self, payload: memoryview[int] | bytes) -> None:
        """Data at `rcv_nxt`, inside the window; then what waited behind it."""
        size = len(payload)
        self.rcv_nxt += size
        self.unacked += size
        self.unacked_segments += 1
        if not self.discarding:
            self.received.append(payload)
            self.received_bytes += size

    def take_reassembled(self) -> bool:
        """Move out-of-order data that is next now to `received`; True if there was any."""
        before = self.reassembly.byte_count
        pieces = self.reassembly.take(self.rcv_nxt)
        self._budget.used -= before - self.reassembly.byte_count
        for piece in pieces:
            self.accept(piece)
        return bool(pieces)

    def hold_out_of_order(self, start: int, payload: memoryview[int]) -> bool:
        """Keep data beyond a gap; False if there is no room for it."""
        reassembly = self.reassembly
        if self._budget.is_exhausted:
            return False
        before = reassembly.byte_count
        kept = reassembly.insert(start, payload)
        self._budget.used += reassembly.byte_count - before
        return kept

    def consume(self, size: int, shortest_rtt: float, now: float) -> None:
        """The reader has taken `size` bytes from the front; `shortest_rtt` is 0.0 if no round trip was timed."""
        if size > self.received_bytes or size < 0:
            raise ValueError(f"consume of {size} bytes while {self.received_bytes} are there")
        self.received_bytes -= size
        self._consumed += size
        received = self.received
        if not self.received_bytes:
            received.clear()
            self._stable = 0
            self._budget.used -= self._held
            self._held = 0
        else:
            done = 0
            for piece in received:
                if size < len(piece):
                    break
                size -= len(piece)
                done += 1
            if size:
                received[done] = memoryview(received[done])[size:]
            del received[:done]
            self._stable = max(self._stable - done, 0)
        if self._consumed >= self.limit:
            self._consumed = 0
            took, self._counted_from = now - self._counted_from, now
            if not shortest_rtt or took <= max(2 * shortest_rtt, _ENOUGH_SECONDS):
                self.limit = min(2 * self.limit, self._maximum)

    def keep(self) -> None:
        """The turn ends: copy what is left of its rows."""
        received = self.received
        stable = self._stable
        if stable == len(received):
            return
        if stable and len(received[stable - 1]) < _COALESCE_BELOW:
            stable -= 1
        received[stable:] = [b"".join(received[stable:])]
        self._stable = stable + 1
        self._budget.used += self.received_bytes - self._held
        self._held = self.received_bytes

    def stop(self) -> None:
        """Nobody reads any more."""
        self.discarding = True
        self.received.clear()
        self.received_bytes = self._stable = 0
        self.detach()

    def detach(self) -> None:
        """No more data will come. What is there is the owner's from now on, and off the budget."""
        self.keep()
        self.drop_out_of_order()
        self._budget.used -= self._held
        self._held = 0

    def drop_out_of_order(self) -> None:
        """Forget what lies beyond a gap."""
        self._budget.used -= self.reassembly.byte_count
        self.reassembly.clear()
