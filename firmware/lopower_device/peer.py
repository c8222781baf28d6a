"""The proxy as a WireGuard peer: handshakes, sessions and their timers (whitepaper section 6), without I/O.

Time is `ticks`; packets lie in `rx` and `tx`, one buffer, 16 bytes of header before the plaintext, and leave
through `transmit(buffer, length)`. `step` goes on with a handshake's computation, a slice at a time.
"""

from . import _forget, _load, ticks
from . import kernels as k
from .counters import (
    HANDSHAKES_COMPLETED,
    INITIATIONS_RECEIVED,
    INITIATIONS_SENT,
    MALFORMED,
    MALFORMED_PACKET,
    NO_MEMORY,
    NOT_AUTHENTIC,
    NOT_LOADED,
    QUEUE_DROPPED,
    RATE_LIMITED,
    REPLAYED,
    SESSION_EXPIRED,
    SOURCE_NOT_ALLOWED,
    UNKNOWN_INDEX,
    WRONG_MAC1,
)
from .keypair import LOCAL

REKEY_AFTER_TIME = 120_000
REKEY_ON_RECEIVE = 165_000  # REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
REKEY_TIMEOUT = 5_000
REKEY_JITTER = 333
KEEPALIVE_TIMEOUT = 10_000
SILENCE_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
FORGET_KEYS = 540_000
MAX_QUEUED = 4
"""Packets kept until there is a session; without a limit a program that sends would exhaust the heap."""
INITIATION_SIZE = 148
RESPONSE_SIZE = 92
COOKIE_REPLY_SIZE = 64

PROGRAM = ("blake2s", "x25519", "noise", "handshake")
"""What only handshakes need: modules that are loaded for them, one at each slice, so that no turn is long."""
KEEP_PROGRAM = 8_000
"""Milliseconds without a handshake after which they go: more than lies between one that is not answered and the next."""

HEADER = 16
BUFFER_SIZE = HEADER + 1536 + 16
RETRANSMIT, KEEPALIVE, SILENCE, PERSISTENT, FORGET = range(5)
NEVER = -1


class Peer:
    """Keyword arguments:

    transmit(buffer, length), entropy(n) -> bytes, jitter(limit) -> int below it, timestamp() -> 12 bytes of TAI64N or
    None if none can be had that is newer than all before; `counters`: words, as `counters` names them.
    """

    def __init__(self, *, static, mtu, allowed, persistent_keepalive, transmit, entropy, jitter, timestamp, counters):
        self.static = static
        self.mtu = mtu
        self.allowed = allowed
        self.persistent_keepalive = persistent_keepalive
        self._transmit, self._entropy, self._jitter, self._timestamp = transmit, entropy, jitter, timestamp
        self.tx = self.rx = bytearray(BUFFER_SIZE)  # one: nothing is sent before what has arrived was read
        self.previous = self.current = self.next = None
        self.counters = counters
        self.rx_bytes = self.tx_bytes = 0
        self.attempts = 0
        self.round_trip = None
        self.answered = 0
        self.last_received = None
        self.error = None
        self.now = 0
        self._timers = [NEVER] * 5
        self._job = None
        self._program = None
        self._program_used = 0
        self._initiating = None
        self._initiation_sent = None
        self._response_allowed = None
        self._greatest_timestamp = bytes(12)
        self._sent = self._cookie = None  # (our index, mac1) of the message sent last; (the cookie, when it came)
        self._queue = []

    # --- what the tunnel asks

    def has_session(self, now):
        """Whether data can leave now."""
        return self.current is not None and self.current.is_alive(now)

    def next_timer(self, now):
        """Milliseconds until `handle_timers` or `step` has something to do."""
        if self._job is not None or (self._queue and self.has_session(now)):
            return 0
        least = 60_000
        for at in self._timers:
            if at != NEVER:
                left = ticks.diff(at, now)
                if left < least:
                    least = left
        return max(least, 0)

    def connect(self, now):
        """Start a handshake, unless one is under way or was less than five seconds ago."""
        if self._job is None and (
            self._initiation_sent is None or ticks.diff(now, self._initiation_sent) >= REKEY_TIMEOUT
        ):
            self._job = self._handshake(None, now)

    def send(self, length, now):
        """Send the `length` bytes of a packet that lie at tx[16]; an empty one is a keepalive."""
        session = self.current
        if session is None or not session.is_alive(now):
            if length:
                if len(self._queue) >= MAX_QUEUED:
                    self._queue.pop(0)
                    self.drop(QUEUE_DROPPED)
                self._queue.append(bytes(memoryview(self.tx)[HEADER : HEADER + length]))
            self.connect(now)
            return
        packet = self.tx
        padded = min(length + 15 & ~15, max(self.mtu, length))
        at = HEADER + length
        while at < HEADER + padded:
            packet[at] = 0
            at += 1
        exhausted = session.seal(packet, padded)
        self.tx_bytes = self.tx_bytes + padded + 32 & ticks.MASK
        self._timers[KEEPALIVE] = NEVER
        if length and self._timers[SILENCE] == NEVER:
            self.set_timer(SILENCE, now, SILENCE_TIMEOUT)
        self._set_persistent(now)
        self._transmit(packet, padded + 32)
        if exhausted or (session.is_initiator and session.age(now) >= REKEY_AFTER_TIME):
            self.connect(now)

    def receive(self, length, now):
        """Process the datagram of `length` bytes in rx; the length of the packet that it brought, at rx[16], or 0."""
        if length < 32:
            return self.drop(MALFORMED)
        kind = k.message_type(self.rx)
        if kind == 4:
            return self._receive_data(length, now)
        if length == (0, INITIATION_SIZE, RESPONSE_SIZE, COOKIE_REPLY_SIZE)[kind]:
            return self._receive_handshake(kind, bytes(memoryview(self.rx)[:length]), now)
        return self.drop(MALFORMED)

    def step(self, now):
        """Go on with the handshake for a slice (some milliseconds on a board); whether there is more to do."""
        self.now = now
        if self._queue and self.has_session(now):
            self.flush(now)
        if self._job is None:
            if self._program is not None and ticks.diff(now, self._program_used) >= KEEP_PROGRAM:
                self._unload()
            return False
        self._program_used = now
        try:
            next(self._job)
            return True
        except StopIteration:
            self._job = self.error = None
            return False
        except MemoryError as error:
            self.error = error
            self.drop(NO_MEMORY)
        except OSError as error:  # of `load`
            self.error = error
            self.drop(NOT_LOADED)
        self._job = None
        self._unload()
        self.set_timer(RETRANSMIT, now, REKEY_TIMEOUT)
        return False

    def handle_timers(self, now):
        """Do what is due; early calls are harmless."""
        timers = self._timers
        for timer in range(5):
            at = timers[timer]
            if at != NEVER and ticks.diff(now, at) >= 0:
                if self._job is not None and (timer == RETRANSMIT or timer == SILENCE):
                    continue  # they begin a handshake: after this one
                timers[timer] = NEVER
                if timer == RETRANSMIT or timer == SILENCE:
                    self.connect(now)
                elif timer == KEEPALIVE or timer == PERSISTENT:
                    self.send(0, now)
                    if timer == PERSISTENT:
                        self._set_persistent(now)
                else:
                    self.previous = self.current = self.next = self._initiating = None

    def restart(self, now):
        """The endpoint changed: the next handshake need not wait."""
        self._initiation_sent = None
        self.connect(now)

    def resume(self, public_key, static_static, session, now):
        """Go on after a deep sleep with what `noise.prepare` had computed then, and with the session, if it lives."""
        self.static.public_key, self.static.static_static = public_key, static_static
        if session is not None and session.is_alive(now):
            self.current = session
            self.established(now)
            self.flush(now)

    # --- handshakes

    def _handshake(self, message, arrived):
        """A generator: what `handshake.work` does, once that is loaded."""
        if self._program is None:
            for name in PROGRAM:
                program = _load(name)
                yield
            self._program = program
        yield from self._program.work(self, message, arrived)

    def _unload(self):
        self._program = None
        for name in PROGRAM:
            _forget(name)

    def _receive_handshake(self, kind, message, now):
        """Nothing is loaded for what cannot be an answer to what was sent, nor computed while there is something else."""
        if kind == 1:
            self.counters[INITIATIONS_RECEIVED] += 1
            static = self.static
            if self._program is not None and static.public_key and not self._program.is_for_us(static, message):
                return self.drop(WRONG_MAC1)
        else:
            index, given = (self._initiating, message[8:12]) if kind == 2 else (self._sent, message[4:8])
            if index is None or index[0] != given:
                return self.drop(UNKNOWN_INDEX)
        if self._job is not None:
            return self.drop(RATE_LIMITED)
        self._job = self._handshake(message, now)
        return 0

    def established(self, now):
        """A session is there."""
        self.attempts = 0
        self.answered = self.counters[INITIATIONS_SENT]
        self._timers[RETRANSMIT] = self._timers[SILENCE] = NEVER
        self.set_timer(FORGET, now, FORGET_KEYS)
        self._set_persistent(now)

    def flush(self, now):
        """Send what has waited for a session; whether anything has."""
        queue, self._queue = self._queue, []
        for packet in queue:
            k.copy(self.tx, HEADER, packet, 0, len(packet))
            self.send(len(packet), now)
        return bool(queue)

    # --- data

    def _receive_data(self, length, now):
        packet = self.rx
        session = self.current
        if session is None or not k.same_word(packet, 1, session.words, LOCAL):
            session = self.previous
            if session is None or not k.same_word(packet, 1, session.words, LOCAL):
                session = self.next
                if session is None or not k.same_word(packet, 1, session.words, LOCAL):
                    return self.drop(UNKNOWN_INDEX)
        if not session.is_alive(now):
            return self.drop(SESSION_EXPIRED)
        opened = session.open(packet, length)
        if opened <= 0:
            return self.drop(NOT_AUTHENTIC if opened < 0 else REPLAYED)
        self.rx_bytes = self.rx_bytes + length & ticks.MASK
        self.last_received = now
        self._timers[SILENCE] = NEVER
        self._set_persistent(now)
        if session is self.next:
            # The proxy has confirmed what it initiated (whitepaper section 5.4.6)
            self.previous, self.current, self.next = self.current, session, None
            self.counters[HANDSHAKES_COMPLETED] += 1
            self._initiating = None
            self.established(now)  # what waits leaves with the next step: the buffer still has what came
        elif session.is_initiator and session.age(now) >= REKEY_ON_RECEIVE:
            self.connect(now)
        if length == 32:
            return 0
        if self._timers[KEEPALIVE] == NEVER:
            self.set_timer(KEEPALIVE, now, KEEPALIVE_TIMEOUT)
        return self._inner_length(length - 32)

    def _inner_length(self, length):
        """The length of the packet within `length` bytes of plaintext, whose source the proxy may use."""
        packet = self.rx
        version = packet[HEADER] >> 4
        if version == 4 and length >= 20:
            total = packet[HEADER + 2] << 8 | packet[HEADER + 3]
            header = (packet[HEADER] & 15) * 4
            source = HEADER + 12
        elif version == 6 and length >= 40:
            total = 40 + (packet[HEADER + 4] << 8 | packet[HEADER + 5])
            header = 40
            source = HEADER + 8
        else:
            return self.drop(MALFORMED_PACKET)
        if header < 20 or not header <= total <= length:
            return self.drop(MALFORMED_PACKET)
        if not self.allowed.contains(packet, source, version):
            return self.drop(SOURCE_NOT_ALLOWED)
        return total

    def drop(self, reason):
        """One more; 0."""
        self.counters[reason] += 1
        return 0

    def set_timer(self, timer, now, delay):
        """Due in `delay` milliseconds."""
        self._timers[timer] = ticks.add(now, delay)

    def _set_persistent(self, now):
        if self.persistent_keepalive:
            self.set_timer(PERSISTENT, now, self.persistent_keepalive)
