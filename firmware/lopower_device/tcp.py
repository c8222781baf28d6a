"""TCP of a device (RFC 9293): a handful of connections, with rings of fixed size.

Sequence numbers stay in an array of words and are only ever seen as small differences: a segment's number relative to
RCV.NXT, an acknowledgment relative to SND.UNA. Offsets of what was sent count from SND.UNA likewise.

No window scaling, time stamps or SACK: rings are smaller than 64 KB. Checksums of what arrives are not verified:
WireGuard has authenticated it.
"""

import errno

from . import kernels as k
from . import ticks
from .counters import FAST_RETRANSMITS, MALFORMED_TCP, RETRANSMITS, TOO_MANY_GAPS
from .crypto import words
from .ip import TCP, Header

(CLOSED, SYN_SENT, SYN_RECEIVED, ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK,
 TIME_WAIT) = range(10)  # fmt: skip
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
SND_UNA, RCV_NXT, SND_WL1, SND_WL2 = range(4)

MIN_RTO, MAX_RTO, FIRST_RTO = 200, 60_000, 1_000  # RFC 6298, its minimum lowered as everywhere
DELAYED_ACK = 40
MAX_SYN_RETRIES, MAX_RETRIES = 5, 9
FIN_WAIT_2_LIFE = 60_000
TIME_WAIT_LIFE = 30_000
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES = 120_000, 15_000, 5
MAX_GAPS = 4
"""Runs of out-of-order data that are kept; a sender that leaves more holes sends the rest again."""
MAX_BURST = 4
"""Segments sent at once: a peer with a small MSS must not make one turn long."""
NEVER = -1


class Connection:
    """One connection. `stack` gives the buffer, sends what lies in its `tx`, counts.

    Whatever a segment leads to is sent when all of the segment has been read: it lies in that buffer.
    """

    # What most connections never change costs an entry in the class once, instead of one in each of them
    listener = None
    error = 0
    life_at = keepalive_at = NEVER
    is_detached = peer_closed = False
    _threshold = _recover = _duplicates = 0
    _gaps = ()
    _fin_wanted = _fin_sent = False
    _is_hole = False  # the first segment is to be sent again
    _fin_at = NEVER
    """Of the peer, relative to RCV.NXT, if it came before all data."""

    def __init__(self, stack, local, remote, listener=None):
        self.stack = stack
        self.local, self.remote = local, remote
        if listener is not None:
            self.listener = listener
        self.header = Header(local[0], remote[0], TCP)
        self.state = CLOSED
        self.received, self.outgoing = stack.take_rings()
        self._words = words(4)
        self.mss = stack.mss(self.header.size)
        self._advertised = self.received.size
        self._next = self._highest = 0  # SND.NXT and the greatest ever, from SND.UNA on
        self._window = self._congestion = 0
        self._acknowledge = False
        self._unacknowledged = 0
        self._srtt = self._rttvar = 0
        self._rto = FIRST_RTO
        self._timed, self._timed_at = 0, 0
        self._retries = 0
        self.retransmit_at = self.ack_at = NEVER

    # --- what the socket asks

    def connect(self, now):
        """Active open."""
        self._begin(now, SYN_SENT)

    def accept_syn(self, packet, at, now):
        """Passive open, by the SYN at `at`."""
        self._synchronise(packet, at)
        self._begin(now, SYN_RECEIVED)

    @property
    def can_write(self):
        """Whether bytes for the peer would be taken."""
        return self.state in (ESTABLISHED, CLOSE_WAIT) and not self._fin_wanted and self.outgoing.free > 0

    @property
    def is_open(self):
        """Whether the handshake is done and nothing has ended the connection."""
        return ESTABLISHED <= self.state < TIME_WAIT

    def write(self, data, offset, length, now):
        """Take bytes for the peer; how many."""
        n = min(length, self.outgoing.free)
        if n:
            self.outgoing.write(0, data, offset, n)
            self.outgoing.length += n
            self.output(now)
        return n

    def read(self, to, length, now):
        """Give up to `length` bytes; how many. The window opens once it is worth telling."""
        n = min(length, self.received.length)
        self.received.read(0, to, 0, n)
        self.received.drop(n)
        if self._room() - self._advertised >= min(self.mss, self.received.size >> 1) and self.is_open:
            self._acknowledge = True
            self.output(now)
        return n

    def shutdown(self, now):
        """No more data to send: FIN after what was taken."""
        if self._fin_wanted:
            return
        self._fin_wanted = True
        if self.state == SYN_SENT:
            self.finish(0)
        elif self.state != CLOSED:
            if self.state == ESTABLISHED or self.state == SYN_RECEIVED:
                self.state = FIN_WAIT_1
            elif self.state == CLOSE_WAIT:
                self.state = LAST_ACK
            self.output(now)

    def close(self, now):
        """The socket is gone. Unread data is answered with RST (RFC 2525 section 2.17)."""
        self.is_detached = True
        if self.received.length and self.state not in (CLOSED, TIME_WAIT):
            self.abort(now)
            return
        self.shutdown(now)
        if self.state == FIN_WAIT_2:
            self.life_at = ticks.add(now, FIN_WAIT_2_LIFE)
        elif self.state == TIME_WAIT:
            self.stack.release_rings(self)
        elif self.state == CLOSED:
            self.finish(0)

    def abort(self, now):
        """RST, at once."""
        if self.state not in (CLOSED, SYN_SENT, TIME_WAIT):
            self._send(RST | ACK, self._next, 0, now)
        self.finish(errno.ECONNABORTED)

    def set_keepalive(self, wanted, now):
        """SO_KEEPALIVE: whether a silent peer is asked if it still lives."""
        self.keepalive_at = ticks.add(now, KEEPALIVE_IDLE) if wanted else NEVER

    def finish(self, error):
        """The end, for any reason: the stack forgets the connection."""
        if self.state != CLOSED or not self.error:
            self.error = self.error or error
        self.state = CLOSED
        self.retransmit_at = self.ack_at = self.life_at = self.keepalive_at = NEVER
        self.stack.forget(self)

    # --- segments

    def receive(self, packet, at, length, now):
        """RFC 9293 section 3.10.7, in its order. The segment of `length` bytes lies at `at`."""
        flags = packet[at + 13]
        data_at = at + (packet[at + 12] >> 4) * 4
        data = at + length - data_at
        if data < 0 or data_at < at + 20:
            self.stack.count(MALFORMED_TCP)
            return
        if self.keepalive_at != NEVER:
            if not self._highest:
                self._retries = 0
            self.keepalive_at = ticks.add(now, KEEPALIVE_IDLE)
        ack = k.sequence_difference(packet, at + 8, self._words, SND_UNA)
        if self.state == SYN_SENT:
            self._receive_in_syn_sent(packet, at, flags, ack, now)
            return
        sequence = k.sequence_difference(packet, at + 4, self._words, RCV_NXT)
        room = self._room()
        occupies = data + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
        if occupies == 0:
            acceptable = sequence == 0 if room == 0 else 0 <= sequence < room
        else:
            acceptable = room > 0 and sequence < room and sequence + occupies > 0
        if flags & RST:
            if not acceptable:
                return
            if sequence:  # RFC 5961 section 3.2: a blind reset is answered, not obeyed
                self._acknowledge = True
            else:
                self.finish(errno.ECONNRESET)
            self.output(now)
            return
        if not acceptable:
            self._acknowledge = True
            if flags & FIN and self.state == TIME_WAIT:
                self.life_at = ticks.add(now, TIME_WAIT_LIFE)
            if sequence or flags & SYN or not flags & ACK:
                self.output(now)
                return
            data = 0  # a probe of a closed window: what it acknowledges counts
            flags &= ~FIN
        if flags & SYN:  # RFC 5961 section 4.2
            self._acknowledge = True
            self.output(now)
            return
        if not flags & ACK:
            return
        if ack > self._highest or ack < -0xFFFF:  # RFC 5961 section 5.2
            self._acknowledge = True
            self.output(now)
            return
        if not self._receive_ack(packet, at, ack, data, flags, now):
            return
        if flags & FIN and not self.peer_closed:
            self._fin_at = sequence + data
        if data:
            if self.is_detached:  # nobody will read it (RFC 2525 section 2.17)
                self.abort(now)
                return
            self._receive_data(packet, data_at, data, sequence)
        if self._fin_at == 0 and not self.peer_closed:
            self._receive_fin(now)
        if self._acknowledge or self._unacknowledged:
            if self._unacknowledged >= 2 * min(self.mss, self.received.size >> 2):
                self._acknowledge = True
            elif self.ack_at == NEVER:
                self.ack_at = ticks.add(now, DELAYED_ACK)
        self.output(now)

    def _receive_in_syn_sent(self, packet, at, flags, ack, now):
        if flags & ACK and ack != 1:
            if not flags & RST:
                self.stack.send_reset(packet, at, flags, 0, now)
            return
        if flags & RST:
            if flags & ACK:
                self.finish(errno.ECONNREFUSED)
            return
        if not flags & SYN:
            return
        self._synchronise(packet, at)
        self._acknowledge = True
        if flags & ACK:
            self._acknowledged(1, now)
            self._establish(packet, at)
        else:  # both opened at once
            self.state = SYN_RECEIVED
            self._next = 0
        self.output(now)

    def _receive_ack(self, packet, at, ack, data, flags, now):
        """Section 3.10.7.4, fifth check; whether to go on with the segment."""
        if self.state == SYN_RECEIVED:
            if ack != 1:
                return False
            self._acknowledged(1, now)
            self._establish(packet, at)
            if self._fin_wanted:
                self.state = FIN_WAIT_1
            if self.listener is not None and not self.listener.established(self):
                self.abort(now)
                return False
        elif ack > 0:
            self._acknowledged(ack, now)
        elif (
            ack == 0 and not data and not flags & FIN and self._highest and self._window == self._window_of(packet, at)
        ):
            self._duplicates += 1
            if self._duplicates == 3 and not self._recover:  # RFC 5681 section 3.2
                self._threshold = max(self._highest >> 1, 2 * self.mss)
                self._congestion = self._threshold
                self._recover = self._highest
                self._timed = 0
                self.stack.count(FAST_RETRANSMITS)
                self._is_hole = True
        newer = k.sequence_difference(packet, at + 4, self._words, SND_WL1)
        if newer > 0 or (newer == 0 and k.sequence_difference(packet, at + 8, self._words, SND_WL2) >= 0):
            self._set_window(packet, at)
        if self._fin_sent and not self._highest:
            if self.state == FIN_WAIT_1:
                self.state = FIN_WAIT_2
                if self.is_detached:
                    self.life_at = ticks.add(now, FIN_WAIT_2_LIFE)
            elif self.state == CLOSING:
                self._wait(now)
            elif self.state == LAST_ACK:
                self.finish(0)
                return False
        return True

    def _acknowledged(self, count, now):
        """SND.UNA moves on by `count`, at least 1."""
        k.add_word(self._words, SND_UNA, count)
        data = min(count, self.outgoing.length) if self.state >= ESTABLISHED else 0
        self.outgoing.drop(data)
        self._highest -= count
        self._next = max(self._next - count, 0)
        self._retries = 0
        if self._duplicates:
            self._duplicates = 0
        if self._timed:
            self._timed -= count
            if self._timed <= 0:
                self._timed = 0
                self._measure(max(ticks.diff(now, self._timed_at), 1))
        if self._recover:  # RFC 6582: a partial acknowledgment shows the next hole
            self._recover = max(self._recover - count, 0)
            self._is_hole = self._recover > 0
        elif self._congestion < self._threshold or not self._threshold:
            self._congestion += self.mss
        else:
            self._congestion += max(self.mss * self.mss // self._congestion, 1)
        self._congestion = min(self._congestion, 10 * self.mss)
        self.retransmit_at = ticks.add(now, self._rto) if self._highest else NEVER

    def _measure(self, sample):
        """RFC 6298 section 2, in eighths and quarters of milliseconds."""
        if not self._srtt:
            self._srtt = sample << 3
            self._rttvar = sample << 1
        else:
            error = sample - (self._srtt >> 3)
            self._srtt += error
            self._rttvar += abs(error) - (self._rttvar >> 2)
        self._rto = min(max((self._srtt >> 3) + max(self._rttvar, 10), MIN_RTO), MAX_RTO)

    def _receive_data(self, packet, data_at, data, sequence):
        if self.state not in (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2) or self.peer_closed:
            return
        if sequence < 0:
            data_at -= sequence
            data += sequence
            sequence = 0
            self._acknowledge = True
        data = min(data, self._room() - sequence)
        if data <= 0:
            return
        if sequence:
            self._acknowledge = True  # RFC 5681 section 4.2: at once, it tells of the hole
            if not self._note_gap(sequence, sequence + data):
                return
            self.received.write(sequence, packet, data_at, data)
            return
        self.received.write(0, packet, data_at, data)
        self._unacknowledged += data
        if self._gaps:
            data = self._close_gap(data)
        self.received.length += data
        self._advertised = max(self._advertised - data, 0)
        k.add_word(self._words, RCV_NXT, data)
        if self._fin_at != NEVER:
            self._fin_at -= data

    def _note_gap(self, start, end):
        """Remember data beyond a hole, joined with what it touches; false if there are too many runs."""
        for run in self._gaps:
            if start <= run[1] and end >= run[0]:
                run[0], run[1] = min(run[0], start), max(run[1], end)
                return True
        if len(self._gaps) >= MAX_GAPS:
            self.stack.count(TOO_MANY_GAPS)
            return False
        self._gaps = list(self._gaps) + [[start, end]]
        return True

    def _close_gap(self, data):
        """`data` bytes came in order; how many are in order now."""
        self._acknowledge = True
        found = True
        while found:
            found = False
            for run in self._gaps:
                if run[0] <= data < run[1]:
                    data = run[1]
                    found = True
        kept = []
        for run in self._gaps:
            if run[0] > data:
                kept.append([run[0] - data, run[1] - data])
        self._gaps = kept
        return data

    def _receive_fin(self, now):
        self.peer_closed = True
        k.add_word(self._words, RCV_NXT, 1)
        self._acknowledge = True
        if self.state == ESTABLISHED:
            self.state = CLOSE_WAIT
        elif self.state == FIN_WAIT_1:
            self.state = CLOSING
        elif self.state == FIN_WAIT_2:
            self._wait(now)

    def _wait(self, now):
        self.state = TIME_WAIT
        self.retransmit_at = NEVER
        self.life_at = ticks.add(now, TIME_WAIT_LIFE)
        if self.is_detached:
            self.stack.release_rings(self)

    # --- sending

    def output(self, now):
        """Send what may be sent, and the ACK that is due."""
        if self.state == CLOSED:
            return
        if self.state <= SYN_RECEIVED:
            if not self._next:
                self._send(SYN if self.state == SYN_SENT else SYN | ACK, 0, 0, now)
            elif self._acknowledge:
                self._send(SYN | ACK if self.state == SYN_RECEIVED else ACK, 0, 0, now)
            return
        if self._is_hole:
            self._is_hole = False
            self._retransmit_first(now)
        burst = MAX_BURST
        while burst and not (self._fin_sent and self._next > self.outgoing.length):
            burst -= 1
            unsent = self.outgoing.length - self._next
            n = min(unsent, self.mss, min(self._window, self._congestion) - self._next)
            if n < 0 or (n < unsent and n < self.mss and self._next):
                n = 0  # RFC 9293 section 3.8.6.2.1: no slivers while something is on its way
            fin = self._fin_wanted and n == unsent and self._next + n <= self._window + 1
            if not n and not (fin and unsent == 0):
                break
            if not self._timed and self._next == self._highest:
                self._timed, self._timed_at = self._next + n + (1 if fin else 0), now
            self._send(ACK | (PSH if n == unsent else 0) | (FIN if fin else 0), self._next, n, now)
            self._next += n
            if fin:
                self._next += 1
                self._fin_sent = True
            self._highest = max(self._highest, self._next)
            if self.retransmit_at == NEVER:
                self.retransmit_at = ticks.add(now, self._rto)
            if fin:
                break
        if self.retransmit_at == NEVER and self.outgoing.length and self.state != TIME_WAIT:
            self.retransmit_at = ticks.add(now, self._rto)  # the window is closed: it becomes a probe
        if self._acknowledge:
            self._send(ACK, self._next, 0, now)
        if not burst:
            self.ack_at = now  # there may be more: in the next turn

    def next_timer(self, now):
        """Milliseconds until `handle_timers` has something to do."""
        least = 60_000
        for at in (self.retransmit_at, self.ack_at, self.life_at, self.keepalive_at):
            if at != NEVER:
                least = min(least, ticks.diff(at, now))
        return least

    def handle_timers(self, now):
        """Do what is due."""
        if self.ack_at != NEVER and ticks.diff(now, self.ack_at) >= 0:
            self.ack_at = NEVER
            self._acknowledge = True
            self.output(now)
        if self.retransmit_at != NEVER and ticks.diff(now, self.retransmit_at) >= 0:
            self._retransmit(now)
        if self.keepalive_at != NEVER and ticks.diff(now, self.keepalive_at) >= 0:
            self.keepalive_at = ticks.add(now, KEEPALIVE_INTERVAL)
            if not self._highest and self.is_open:
                self._retries += 1
                if self._retries > KEEPALIVE_PROBES:
                    self.finish(errno.ETIMEDOUT)
                    return
                self._send(ACK, -1, 0, now)
        if self.life_at != NEVER and ticks.diff(now, self.life_at) >= 0:
            self.finish(0)

    def _retransmit(self, now):
        """RFC 6298 section 5: the first segment, half as often each time; or a probe of a closed window."""
        self.retransmit_at = NEVER
        self._timed = 0
        self._rto = min(self._rto * 2, MAX_RTO)
        probe = not self._window and self.state > SYN_RECEIVED and not (self._fin_sent and not self.outgoing.length)
        self._retries += 1
        if self._retries > (MAX_SYN_RETRIES if self.state <= SYN_RECEIVED else MAX_RETRIES) and not probe:
            self.finish(errno.ETIMEDOUT)
            return
        self.stack.count(RETRANSMITS)
        if self.state <= SYN_RECEIVED:
            self._next = 0
            self.output(now)
        elif probe:
            self._next = self._highest = max(self._highest, min(1, self.outgoing.length))
            self._send(ACK, 0, min(1, self.outgoing.length), now)
        else:
            self._threshold = max(self._highest >> 1, 2 * self.mss)
            self._congestion = self.mss
            self._recover = self._duplicates = 0
            self._next = 0
            self._fin_sent = False
            self.output(now)
        if self.retransmit_at == NEVER and self.state != CLOSED:
            self.retransmit_at = ticks.add(now, self._rto)

    def _retransmit_first(self, now):
        n = min(self.outgoing.length, self.mss)
        fin = self._fin_sent and n == self.outgoing.length
        self._send(ACK | (FIN if fin else 0), 0, n, now)

    def _send(self, flags, offset, length, now):
        """A segment with `length` bytes that lie `offset` after SND.UNA."""
        buffer = self.stack.tx
        at = self.header.payload
        size = 20
        if flags & SYN:
            size = 24
            mss = self.stack.mss(self.header.size)
            buffer[at + 20] = 2
            buffer[at + 21] = 4
            buffer[at + 22] = mss >> 8
            buffer[at + 23] = mss & 0xFF
            self._next = self._highest = 1
            if self.retransmit_at == NEVER:
                self.retransmit_at = ticks.add(now, self._rto)
        buffer[at] = self.local[1] >> 8
        buffer[at + 1] = self.local[1] & 0xFF
        buffer[at + 2] = self.remote[1] >> 8
        buffer[at + 3] = self.remote[1] & 0xFF
        k.put_word(buffer, at + 4, self._words, SND_UNA, offset)
        window = 0
        if flags & ACK:
            k.put_word(buffer, at + 8, self._words, RCV_NXT, 0)
            room = self._room()
            if room - self._advertised >= min(self.mss, self.received.size >> 1):
                self._advertised = room
            window = self._advertised
        else:
            buffer[at + 8] = buffer[at + 9] = buffer[at + 10] = buffer[at + 11] = 0
            window = self._advertised = self.received.size
        buffer[at + 12] = size << 2
        buffer[at + 13] = flags
        buffer[at + 14] = window >> 8
        buffer[at + 15] = window & 0xFF
        buffer[at + 18] = buffer[at + 19] = 0
        if length:
            self.outgoing.read(offset, buffer, at + size, length)
        self._acknowledge = False
        self._unacknowledged = 0
        self.ack_at = NEVER
        self.stack.send(self.header, size + length, 16, now)

    # --- small things

    def _begin(self, now, state):
        k.load_word(self.stack.entropy(4), 0, self._words, SND_UNA, 0)
        self.state = state
        self._timed, self._timed_at = 1, now
        self._congestion = 10 * self.mss
        self.output(now)

    def _synchronise(self, packet, at):
        """RCV.NXT and the peer's MSS, by its SYN."""
        k.load_word(packet, at + 4, self._words, RCV_NXT, 1)
        k.load_word(packet, at + 4, self._words, SND_WL1, 0)
        k.load_word(packet, at + 8, self._words, SND_WL2, 0)
        mss = 536  # RFC 9293 section 3.7.1
        option = at + 20
        end = at + (packet[at + 12] >> 4) * 4
        while option < end and packet[option]:
            if packet[option] == 1:
                option += 1
                continue
            if option + 1 >= end or packet[option + 1] < 2:
                break
            if packet[option] == 2 and packet[option + 1] == 4 and option + 4 <= end:
                mss = packet[option + 2] << 8 | packet[option + 3]
            option += packet[option + 1]
        self.mss = min(self.mss, max(mss, 64))

    def _establish(self, packet, at):
        self.state = ESTABLISHED
        self._window = self._window_of(packet, at)
        self._retries = 0
        self.retransmit_at = NEVER

    def _set_window(self, packet, at):
        was = self._window
        self._window = self._window_of(packet, at)
        k.load_word(packet, at + 4, self._words, SND_WL1, 0)
        k.load_word(packet, at + 8, self._words, SND_WL2, 0)
        if not was and self._window:
            self._next = 0  # what probes have sent was not taken
            self.retransmit_at = NEVER
            if self._srtt:
                self._rto = max((self._srtt >> 3) + max(self._rttvar, 10), MIN_RTO)

    def _window_of(self, packet, at):
        return packet[at + 14] << 8 | packet[at + 15]

    def _room(self):
        return self.received.size - self.received.length
