"""The proxy as a WireGuard peer: handshakes, sessions and their timers (whitepaper section 6), without I/O.

Time is `ticks`; packets lie in `rx` and `tx`, 16 bytes of header before the plaintext, and leave through
`transmit(buffer, length)`. `step` goes on with a handshake's computation, a slice at a time.
"""

from . import kernels as k
from . import noise, ticks
from .crypto import blake2s, open_xchacha20
from .keypair import LOCAL, Keypair

REKEY_AFTER_TIME = 120_000
REKEY_ON_RECEIVE = 165_000  # REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
REKEY_TIMEOUT = 5_000
REKEY_JITTER = 333
KEEPALIVE_TIMEOUT = 10_000
SILENCE_TIMEOUT = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT
FORGET_KEYS = 540_000
COOKIE_LIFE = 120_000
RESPONSE_INTERVAL = 1_000
"""Whoever knows our public key can make us compute: one initiation is looked at per second, at most."""
MAX_QUEUED = 4
"""Packets kept until there is a session; without a limit a program that sends would exhaust the heap."""

HEADER = 16
BUFFER_SIZE = HEADER + 1536 + 16
RETRANSMIT, KEEPALIVE, SILENCE, PERSISTENT, FORGET = range(5)
NEVER = -1

COUNTERS = (
    "initiations_sent", "responses_received", "initiations_received", "responses_sent", "handshakes_completed",
    "cookie_replies_received", "malformed", "wrong_mac1", "unknown_index", "not_authentic", "replayed",
    "timestamp_not_newer", "rate_limited", "session_expired", "source_not_allowed", "malformed_packet",
    "queue_dropped", "no_timestamp", "response_not_authentic", "no_memory",
)  # fmt: skip


class Peer:
    """Keyword arguments:

    transmit(buffer, length), entropy(n) -> bytes, jitter(limit) -> int below it, timestamp() -> 12 bytes of TAI64N or
    None if none can be had that is newer than all before.
    """

    def __init__(self, *, static, mtu, allowed, persistent_keepalive, transmit, entropy, jitter, timestamp):
        self.static = static
        self.mtu = mtu
        self.allowed = allowed
        self.persistent_keepalive = persistent_keepalive
        self._transmit, self._entropy, self._jitter, self._timestamp = transmit, entropy, jitter, timestamp
        self.tx = bytearray(BUFFER_SIZE)
        self.rx = bytearray(BUFFER_SIZE)
        self.previous = self.current = self.next = None
        self.counters = {name: 0 for name in COUNTERS}
        self.rx_bytes = self.tx_bytes = 0
        self.attempts = 0
        self.round_trip = None
        self.answered = 0
        self.last_received = None
        self._timers = [NEVER] * 5
        self._job = None
        self._completed = None
        self._initiating = None
        self._initiation_sent = None
        self._response_allowed = None
        self._greatest_timestamp = bytes(12)
        self._mac1 = self._cookie = None
        self._cookie_received = 0
        self._queue = []
        self._is_wanted = False
        self._start(static.prepare(), self._prepared)

    # --- what the tunnel asks

    def has_session(self, now):
        """Whether data can leave now."""
        return self.current is not None and self.current.is_alive(now)

    def next_timer(self, now):
        """Milliseconds until `handle_timers` has something to do; 0 if a handshake is being computed."""
        if self._job is not None:
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
        self._is_wanted = True
        if self._job is not None:
            return
        if self.static.static_static is None:
            self._start(self.static.prepare(), self._prepared)
            return
        if self._initiation_sent is not None and ticks.diff(now, self._initiation_sent) < REKEY_TIMEOUT:
            return
        timestamp = self._timestamp()
        if timestamp is None:
            self.counters["no_timestamp"] += 1
            self._set(RETRANSMIT, now, REKEY_TIMEOUT)
            return
        index = self._new_index()
        job = noise.create_initiation(self.static, index, self._entropy(32), timestamp)
        self._start(job, lambda result, then: self._send_initiation(index, result, then))

    def send(self, length, now):
        """Send the `length` bytes of a packet that lie at tx[16]; an empty one is a keepalive."""
        session = self.current
        if session is None or not session.is_alive(now):
            if length:
                if len(self._queue) >= MAX_QUEUED:
                    self._queue.pop(0)
                    self.counters["queue_dropped"] += 1
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
            self._set(SILENCE, now, SILENCE_TIMEOUT)
        self._set_persistent(now)
        self._transmit(packet, padded + 32)
        if exhausted or (session.is_initiator and session.age(now) >= REKEY_AFTER_TIME):
            self.connect(now)

    def receive(self, length, now):
        """Process the datagram of `length` bytes in rx; the length of the packet that it brought, at rx[16], or 0."""
        packet = self.rx
        if length < 32:
            return self._drop("malformed")
        kind = k.message_type(packet)
        if kind == 4:
            return self._receive_data(length, now)
        if kind == 1 and length == noise.INITIATION_SIZE:
            self._receive_initiation(bytes(memoryview(packet)[:length]), now)
        elif kind == 2 and length == noise.RESPONSE_SIZE:
            self._receive_response(bytes(memoryview(packet)[:length]), now)
        elif kind == 3 and length == noise.COOKIE_REPLY_SIZE:
            self._receive_cookie(bytes(memoryview(packet)[:length]), now)
        else:
            self._drop("malformed")
        return 0

    def step(self, now):
        """Go on with the handshake for a slice (some milliseconds on a board); whether there is more to do."""
        if self._job is None:
            return False
        try:
            next(self._job)
        except StopIteration as stop:
            completed = self._completed
            self._job = self._completed = None
            completed(stop.value, now)
        except MemoryError:
            self._job = self._completed = None
            self._drop("no_memory")
            self._set(RETRANSMIT, now, REKEY_TIMEOUT)
        return self._job is not None

    def handle_timers(self, now):
        """Do what is due; early calls are harmless."""
        timers = self._timers
        for timer in range(5):
            at = timers[timer]
            if at != NEVER and ticks.diff(now, at) >= 0:
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
        """Go on after a deep sleep with what `Static.prepare` had computed then, and with the session, if it lives."""
        self._job = self._completed = None
        self.static.restore(public_key, static_static)
        if session is not None and session.is_alive(now):
            self.current = session
            self._established(now)
            self._flush(now)

    # --- handshakes

    def _start(self, job, completed):
        self._job, self._completed = job, completed

    def _prepared(self, result, now):
        if result and self._is_wanted:
            self.connect(now)

    def _new_index(self):
        while True:
            index = self._entropy(4)
            number = int.from_bytes(index, "little")
            used = [pair.words[LOCAL] for pair in (self.previous, self.current, self.next) if pair is not None]
            if number not in used and (self._initiating is None or index != self._initiating[0]):
                return index

    def _with_macs(self, message, now):
        mac1 = blake2s(message, self.static.mac1_key, 16)
        message += mac1
        if self._cookie is not None and ticks.diff(now, self._cookie_received) < COOKIE_LIFE:
            mac2 = blake2s(message, self._cookie, 16)
        else:
            self._cookie = None
            mac2 = bytes(16)
        self._mac1 = mac1
        return message + mac2

    def _send_initiation(self, index, result, now):
        if result is None:
            return
        message, state = result
        self._initiating = (index, state)
        self._initiation_sent = now
        self.attempts += 1
        self.counters["initiations_sent"] += 1
        message = self._with_macs(message, now)
        self._set(RETRANSMIT, now, REKEY_TIMEOUT + self._jitter(REKEY_JITTER))
        self._transmit(message, len(message))

    def _receive_response(self, message, now):
        if self._initiating is None or message[8:12] != self._initiating[0]:
            self._drop("unknown_index")
            return
        if not self._check_mac1(message):
            return
        if self._job is not None:
            self._drop("rate_limited")
            return
        index, state = self._initiating
        job = noise.consume_response(self.static, state, message)
        round_trip = ticks.diff(now, self._initiation_sent) if self._initiation_sent is not None else None
        self._start(job, lambda keys, then: self._complete(index, message[4:8], keys, round_trip, then))

    def _complete(self, index, remote_index, keys, round_trip, now):
        if keys is None:
            self._drop("response_not_authentic")
            return
        self.counters["responses_received"] += 1
        self.counters["handshakes_completed"] += 1
        self.round_trip = round_trip
        self.last_received = now
        self._initiating = None
        if self.next is not None:
            self.previous, self.next = self.next, None
        else:
            self.previous = self.current
        self.current = Keypair(keys[0], keys[1], index, remote_index, True, now)
        self._established(now)
        if not self._flush(now):
            self.send(0, now)

    def _receive_initiation(self, message, now):
        self.counters["initiations_received"] += 1
        if self.static.own_mac1_key is None or not self._check_mac1(message):
            return
        busy = self._job is not None
        if busy or (self._response_allowed is not None and ticks.diff(now, self._response_allowed) < 0):
            self._drop("rate_limited")
            return
        self._response_allowed = ticks.add(now, RESPONSE_INTERVAL)
        job = noise.consume_initiation(self.static, message)
        self._start(job, lambda result, then: self._answer(message[4:8], result, then))

    def _answer(self, remote_index, result, now):
        if result is None:
            self._drop("not_authentic")
            return
        timestamp, state = result
        if timestamp <= self._greatest_timestamp:
            self._drop("timestamp_not_newer")
            return
        self._greatest_timestamp = timestamp
        index = self._new_index()
        job = noise.create_response(self.static, state, index, remote_index, self._entropy(32))
        self._start(job, lambda made, then: self._send_response(index, remote_index, made, then))

    def _send_response(self, index, remote_index, result, now):
        if result is None:
            return
        message, sending, receiving = result
        self.next = Keypair(sending, receiving, index, remote_index, False, now)
        self.counters["responses_sent"] += 1
        message = self._with_macs(message, now)
        self._set(FORGET, now, FORGET_KEYS)
        self._transmit(message, len(message))

    def _receive_cookie(self, message, now):
        mac1, self._mac1 = self._mac1, None  # it counts once, for the message sent last
        if mac1 is None:
            self._drop("unknown_index")
            return
        cookie = open_xchacha20(self.static.cookie_key, message[8:32], message[32:64], mac1)
        if cookie is None:
            self._mac1 = mac1
            self._drop("not_authentic")
            return
        self.counters["cookie_replies_received"] += 1
        self._cookie, self._cookie_received = cookie, now

    def _check_mac1(self, message):
        end = len(message) - 32
        if k.differ(blake2s(message[:end], self.static.own_mac1_key, 16), 0, message, end, 16):
            self._drop("wrong_mac1")
            return False
        return True

    def _established(self, now):
        self.attempts = 0
        self.answered = self.counters["initiations_sent"]
        self._timers[RETRANSMIT] = self._timers[SILENCE] = NEVER
        self._set(FORGET, now, FORGET_KEYS)
        self._set_persistent(now)

    def _flush(self, now):
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
                    return self._drop("unknown_index")
        if not session.is_alive(now):
            return self._drop("session_expired")
        opened = session.open(packet, length)
        if opened <= 0:
            return self._drop("not_authentic" if opened < 0 else "replayed")
        self.rx_bytes = self.rx_bytes + length & ticks.MASK
        self.last_received = now
        self._timers[SILENCE] = NEVER
        self._set_persistent(now)
        if session is self.next:
            # The proxy has confirmed what it initiated (whitepaper section 5.4.6)
            self.previous, self.current, self.next = self.current, session, None
            self.counters["handshakes_completed"] += 1
            self._initiating = None
            self._established(now)
            self._flush(now)
        elif session.is_initiator and session.age(now) >= REKEY_ON_RECEIVE:
            self.connect(now)
        if length == 32:
            return 0
        if self._timers[KEEPALIVE] == NEVER:
            self._set(KEEPALIVE, now, KEEPALIVE_TIMEOUT)
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
            return self._drop("malformed_packet")
        if header < 20 or not header <= total <= length:
            return self._drop("malformed_packet")
        if not self.allowed.contains(packet, source, version):
            return self._drop("source_not_allowed")
        return total

    def _drop(self, reason):
        self.counters[reason] += 1
        return 0

    def _set(self, timer, now, delay):
        self._timers[timer] = ticks.add(now, delay)

    def _set_persistent(self, now):
        if self.persistent_keepalive:
            self._set(PERSISTENT, now, self.persistent_keepalive)
