"""The turn of the loop: receive, open, terminate, hand on, transmit, timers; and its place in asyncio.

The one place where the cores meet a clock and a descriptor. A turn runs when the UDP socket is readable, when a timer
is due, or when the application asked for one (`wake`): a flow's upstream is ready, a dial ended, a name was resolved.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

from lopower.daemon.udp_socket import SocketFeatures, UdpSocket
from lopower.netstack.stack import Stack
from lopower.wireguard.events import Event
from lopower.wireguard.interface import Interface

log = logging.getLogger(__name__)

# Rounds of one turn before asyncio gets the loop back: a flood on the socket must not starve everything else.
MAX_ROUNDS: Final = 8
# While flows have bulk to send, busy devices' acknowledgments are looked at once in so many rounds: together they cost
# as much as one alone.
ROUNDS_FOR_ALL: Final = 4
# A timer that turns out to be due this much earlier than the armed one is worth arming anew; less is not.
TIMER_SLACK: Final = 0.001


class Application(Protocol):
    """What stands above the netstack: the bridge, or a virtual device's own programs."""

    def turn(self, now: float) -> bool:
        """Handle the stack's events and dirty flows, a bounded piece of work; True if there is more to do at once."""

    def interface_events(self, events: list[Event], now: float) -> None:
        """Handle what the WireGuard interface reports."""

    def next_timer(self) -> float | None:
        """When `handle_timer` is next due."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""


class DataPath:
    """Drives one UDP socket, one WireGuard interface and one stack.

    The parts refer to each other, so they are given in two steps: `open_socket`, whose `transmit` the interface needs,
    then `start` with the parts that were built on it.

    Attributes:
        counters: turns, and faults of our own that a turn survived.
    """

    socket: UdpSocket

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self.counters: Counter[str] = Counter()
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._running = False

    def open_socket(self, host: str, port: int, features: SocketFeatures) -> UdpSocket:
        """Bind the UDP socket.

        Raises:
            OSError: as `UdpSocket`.
        """
        self.socket = UdpSocket(host, port, features, self._want_write)
        return self.socket

    def start(self, interface: Interface, stack: Stack, application: Application) -> None:
        """Begin; the socket must be open."""
        self.interface = interface
        self.stack = stack
        self.application = application
        self._running = True
        self._loop.add_reader(self.socket.fileno(), self.turn)
        self.wake()

    def stop(self) -> None:
        """End: no turn runs any more. Closes the socket; harmless when it has stopped already."""
        if self._running:
            self._running = False
            self._loop.remove_reader(self.socket.fileno())
            if self._timer is not None:
                self._timer.cancel()
        self.socket.close()

    def wake(self) -> None:
        """Have a turn soon: something outside of a turn gave the cores work."""
        if not self._woken and self._running:
            self._woken = True
            self._loop.call_soon(self.turn)

    def release_unused(self) -> None:
        """Give up buffers that have not been needed since the last call; never from within a turn."""
        self.socket.release_unused()
        self.interface.release_unused()
        self.stack.release_unused()

    def _want_write(self, wanted: bool) -> None:
        if wanted:
            self._loop.add_writer(self.socket.fileno(), self.socket.flush)
        else:
            self._loop.remove_writer(self.socket.fileno())

    def turn(self) -> None:
        """Have a turn now; for the loop to call, never from within a turn."""
        self._woken = False
        if not self._running:
            return
        try:
            self._turn_unguarded()
        except Exception:
            # A fault of ours in one packet's or one flow's handling must not end the others.
            self.counters["faults"] += 1
            log.exception("internal error; the turn's remaining work was dropped and the daemon goes on")
            self.wake()

    def _turn_unguarded(self) -> None:
        interface, stack, application, clock = self.interface, self.stack, self.application, self._clock
        self.counters["turns"] += 1
        self.socket.arrivals.begin_turn(clock())
        pending = False
        for number in range(MAX_ROUNDS):
            now = clock()
            datagrams, more = self.socket.receive(pending and number % ROUNDS_FOR_ALL != 0)
            if datagrams.lengths:
                packets = interface.receive(datagrams, now)
                if packets.count or packets.large:
                    stack.receive(packets, now)
            pending = application.turn(now)
            stack.flush(now)
            if events := interface.take_events():
                application.interface_events(events, now)
            if not (more or pending):
                break
        else:
            self.wake()
        self._handle_timers(clock())

    def _handle_timers(self, now: float) -> None:
        deadline: float | None = None
        fired = False
        for part in (self.interface, self.stack, self.application):
            due = part.next_timer()
            if due is not None and due <= now:
                part.handle_timer(now)
                fired = True
                due = part.next_timer()
            if due is not None and (deadline is None or due < deadline):
                deadline = due
        if fired:
            # What timers produced (events, segments, news for the flows' owners) is the next turn's work.
            self.wake()
        if deadline is None:
            return
        armed = self._timer
        if armed is not None and not armed.cancelled():
            if armed.when() <= deadline + TIMER_SLACK:
                return
            armed.cancel()
        self._timer = self._loop.call_at(max(deadline, now), self._timer_due)

    def _timer_due(self) -> None:
        self._timer = None
        self.turn()
