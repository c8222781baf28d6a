"""The tunnel's shell: the outer UDP socket, time, randomness, and who pumps.

Whoever calls `pump` moves packets: every socket call does, and a timer or a task between. One lock makes that safe with
threads; a timer that finds it taken lets it be.
"""

import errno
import os
import select
import time

from . import _once, ticks
from . import kernels as k
from .counters import (
    COUNT,
    ENDPOINT_CHANGES,
    LONGEST_TURN,
    NO_MEMORY,
    NOT_LOADED,
    OF_A_PROXY,
    OUTER_ERRORS,
    OUTER_OVERSIZED,
)
from .crypto import words
from .keypair import Static
from .peer import Peer
from .stack import Stack

try:
    import _thread

    _allocate_lock = _thread.allocate_lock
except ImportError:

    class _allocate_lock:  # noqa: N801 - stands for a function
        """Without threads nothing but a timer can come between."""

        def __init__(self):
            self._taken = False

        def acquire(self, wait=1):
            if self._taken:
                return False
            self._taken = True
            return True

        def release(self):
            self._taken = False


MAX_DATAGRAM = 1536
TURN = 12
"""Milliseconds after which a turn takes no further datagram, nor another connection's timers.

What it has begun it ends: a datagram with what that makes a connection send, and one connection's timers, each some 4 ms
at most on a board. So no turn holds the program for 25 ms, whoever floods it.
"""
VISIT_PORT = 9909
"""Where the gateway, and nobody else, reaches the board: TCP. The board announces itself at the same port of it: UDP."""
ATTEMPTS = 3
"""Initiations that may go unanswered before the next endpoint is tried."""
RESOLVE_AGAIN = 30_000

if hasattr(time, "ticks_ms"):

    def clock():
        """Now, as `ticks`."""
        return time.ticks_ms() & ticks.MASK

    UNIX = 0 if time.gmtime(0)[0] == 1970 else 946_684_800

    def wall_clock():
        """Seconds since 1970, or None while the clock is not set."""
        seconds = int(time.time()) + UNIX
        return seconds if seconds > 1_700_000_000 else None

else:

    def clock():
        """Now, as `ticks`."""
        return int(time.monotonic() * 1000) & ticks.MASK

    UNIX = 0

    def wall_clock():
        """Seconds since 1970."""
        return int(time.time())


def _jitter(limit):
    random = os.urandom(2)
    return (random[0] << 8 | random[1]) % limit


class Tunnel:
    """One proxy at a time, out of the settings' list; `sockets` is the original socket module."""

    def __init__(self, settings, sockets, counter_path, wlan=None, station=None, trial=None):
        self.settings = settings
        self.wlan, self._station = wlan, station
        self._sockets = sockets
        self.stamps = _once("stamps").begin(counter_path, settings.written)
        self.trial = trial
        self.lock = _allocate_lock()
        self.generation = 0
        self.peer = self.stack = self.outer = self.proxy = None
        self.endpoint = None
        self.remote = None
        self.remembered = None
        self.outer_error = None
        self.synchronized = None
        self.time_due = clock() if settings.sntp else None
        self._query = None
        self._door = self._visit = None
        self._announcement = None
        self.is_announced = False
        self.counters = words(COUNT)
        self._poller = None
        self._proxy_number = -1
        self._endpoint_number = 0
        self._retry_at = None
        self._use_proxy(0)

    # --- who pumps

    def pump(self):
        """One turn, unless another thread, or the program under this timer, is in one."""
        if not self.lock.acquire(0):
            return
        try:
            self.turn()
        except MemoryError:
            self.counters[NO_MEMORY] += 1  # what was lost is sent again by whoever has sent it
        except OSError:  # of `_once`
            self.counters[NOT_LOADED] += 1
        finally:
            self.lock.release()

    def turn(self):
        """Move what waits, do what is due; the caller holds the lock."""
        now = began = clock()
        has_network = self.wlan is None or self._has_link(now)
        if self.trial is not None and self.trial.watch(now, self.peer.has_session(now)):
            self.trial = None
        if not has_network:
            return
        if self.outer is None:
            self._open(now)
            if self.outer is None:
                return
        peer, stack, poller = self.peer, self.stack, self._poller
        peer.step(now)
        while ticks.diff(clock(), began) < TURN:
            ready = False
            for _ in poller.ipoll(0):
                ready = True
            if not ready:
                break
            try:
                datagram = self.outer.recv(MAX_DATAGRAM + 1)
            except OSError as error:
                self._outer_failed(error)
                break
            length = len(datagram)
            if length > MAX_DATAGRAM:
                self.counters[OUTER_OVERSIZED] += 1
                continue
            k.copy(peer.rx, 0, datagram, 0, length)
            length = peer.receive(length, now)
            if length:
                stack.receive(length, now)
        now = clock()
        peer.handle_timers(now)
        while stack.handle_timers(now):
            now = clock()
            if ticks.diff(now, began) >= TURN:
                break
        if peer.attempts >= ATTEMPTS:
            self._next_endpoint(now)
        if self.time_due is not None and ticks.diff(now, self.time_due) >= 0 and peer.has_session(now):
            self._ask_time(now)
        if not self.is_announced and self.trial is None and peer.has_session(now):
            self._announce(now)
        if self._visit is not None or self._door.ready:
            self._receive_visit(now)
        took = ticks.diff(clock(), began)
        if took > self.counters[LONGEST_TURN]:
            self.counters[LONGEST_TURN] = took

    def poller(self):
        """A poll object for the outer socket: each waiting thread has one of its own."""
        made = select.poll()
        if self.outer is not None:
            made.register(self.outer, select.POLLIN)
        return made

    def wait(self, poller, milliseconds):
        """Sleep until a datagram comes, a timer is due or the time is over; without the lock."""
        if self.peer is None:
            time.sleep_ms(min(milliseconds, 50))
            return
        now = clock()
        left = min(milliseconds, self.peer.next_timer(now), self.stack.next_timer(now))
        if self._visit is not None:
            left = min(left, 10)
        if self.outer is None:
            time.sleep_ms(min(left + 1, 50))
        elif left > 0:
            poller.poll(min(left, 1000))

    def is_up(self):
        """Whether data can leave."""
        return self.peer.has_session(clock())

    def close(self):
        """Everything that was open ends."""
        self.lock.acquire()
        try:
            self.stack.fail_all(errno.ECONNABORTED)
            self._close_outer()
        finally:
            self.lock.release()

    def _has_link(self, now):
        if self.wlan.isconnected():
            if self._station is not None:
                self._station.joined()
                self._station = None
            return True
        self.station().watch(now)
        return False

    def station(self):
        """What joins a Wi-Fi network while there is none."""
        if self._station is None:
            self._station = _once("wifi").Station(self.settings, self.wlan)
        return self._station

    def _timestamp(self):
        return _once("stamps").stamp(self.stamps, wall_clock)

    def _ask_time(self, now):
        if self._query is None:
            self._query = _once("sntp").Query(self)
        delay = self._query.watch(now)
        if delay is not None:
            self._query, self.time_due = None, ticks.add(now, delay) if delay else None

    def _announce(self, now):
        if self._announcement is None:
            if not self.proxy.dns:
                self.is_announced = True
                return
            self._announcement = _once("announce").Announcement(self, VISIT_PORT)
        if self._announcement.watch(now):
            self._announcement, self.is_announced = None, True

    def _receive_visit(self, now):
        """Somebody of the gateway has come: an update, questions, a console."""
        if self._visit is None:
            connection = self._door.ready.pop(0)
            try:
                self._visit = _once("visit").Visit(self, connection, now)
            except MemoryError:
                connection.is_detached = True
                connection.abort(now)
                raise
        if self._visit.watch(now):
            self._visit = None

    # --- the outer side

    def use(self, proxy, endpoint):
        """Begin with another one of the proxies and its endpoints than the first."""
        self._use_proxy(proxy)
        self._endpoint_number = endpoint % len(self.proxy.endpoints)

    def _use_proxy(self, number):
        """Another proxy: what was open at the old one fails."""
        if number == self._proxy_number:
            return
        if self.stack is not None:
            self.stack.fail_all(errno.ECONNRESET)
        self._proxy_number = number
        self.proxy = proxy = self.settings.proxies[number]
        for reason in range(OF_A_PROXY):
            self.counters[reason] = 0
        self.peer = Peer(
            static=Static(proxy.private_key, proxy.public_key, proxy.preshared_key),
            mtu=proxy.mtu,
            allowed=proxy.allowed,
            persistent_keepalive=proxy.persistent_keepalive,
            transmit=self._transmit,
            entropy=os.urandom,
            jitter=_jitter,
            timestamp=self._timestamp,
            counters=self.counters,
        )
        self.stack = Stack(peer=self.peer, addresses=proxy.addresses, mtu=proxy.mtu, entropy=os.urandom)
        self._door = self.stack.listen(VISIT_PORT, 1, proxy.dns)

    def _open(self, now):
        """A socket to the current endpoint; its name is resolved anew each time."""
        if self._retry_at is not None and ticks.diff(now, self._retry_at) < 0:
            return
        host, port = self.proxy.endpoints[self._endpoint_number]
        address = self.remembered[0] if self.remembered is not None else None
        try:
            found = self._sockets.getaddrinfo(address or host, port, 0, self._sockets.SOCK_DGRAM)[0]
            outer = self._sockets.socket(found[0], self._sockets.SOCK_DGRAM)
            outer.setblocking(False)
            outer.connect(found[-1])
        except OSError as error:
            self.outer_error = error
            self.counters[OUTER_ERRORS] += 1
            self._retry_at = ticks.add(now, 1000)
            self._advance()
            return
        self._retry_at = self.outer_error = None
        self.outer = outer
        self.endpoint, self.remote = (host, port), found[-1]
        self.generation += 1
        self._poller = self.poller()
        if self.remembered is None or not self.recall(now):
            self.peer.restart(now)

    def recall(self, now):
        """Go on as before a deep sleep, now that there is a network; whether there is still a session."""
        keys, self.remembered = self.remembered[1:], None
        self.peer.resume(*keys, now)
        return self.peer.has_session(now)

    def _next_endpoint(self, now):
        """Nobody answers: the next endpoint, or the next proxy; names are resolved again on the way."""
        self.peer.attempts = 0
        self.counters[ENDPOINT_CHANGES] += 1
        self._close_outer()
        self._advance()
        self._open(now)

    def _advance(self):
        self._endpoint_number += 1
        if self._endpoint_number >= len(self.proxy.endpoints):
            self._endpoint_number = 0
            self._use_proxy((self._proxy_number + 1) % len(self.settings.proxies))

    def _close_outer(self):
        if self.outer is not None:
            self.outer.close()
            self.outer = self._poller = None
            self.generation += 1

    def _transmit(self, buffer, length):
        if self.outer is None:
            return
        try:
            _send(self.outer, buffer, length)
        except OSError as error:
            self._outer_failed(error)

    def _outer_failed(self, error):
        """Nothing of this is lasting: a full queue, an ICMP error, a network that has gone."""
        if error.errno != errno.EAGAIN:
            self.outer_error = error
            self.counters[OUTER_ERRORS] += 1


if hasattr(time, "ticks_ms"):

    def _send(outer, buffer, length):
        outer.write(buffer, length)  # makes no object, as a slice would

else:

    def _send(outer, buffer, length):
        outer.send(memoryview(buffer)[:length])
