"""TCP flows to the network: dial first, then answer the device, then move bytes.

Up, what the stack holds in order goes out with one gathered write; what the kernel does not take stays with the
stack, whose window closes until it does. Down, one scattered read puts upstream's bytes where the packets are to lie;
while the device's window or the send buffer is full nothing is read, and the kernel's window closes in turn. Nothing is
ever queued here.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.poller import END, READ, WRITE
from lopower.tailnet.driver import (
    DialError,
    DialForbidden,
    DialRefused,
    DialTimedOut,
    DialUnreachable,
    TcpDial,
)

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.policy import Protocol, Via
    from lopower.netstack.tcp.connection import Connection

MAX_BUFFERS: Final = 1024  # UIO_MAXIOV: a system call takes no more
# The kernel gives a unix stream 200 KB: a bulk flow fills it in each turn, and what is left over is copied.
# A flow that has moved so much gets more, with the right to it; without, as much as net.core.wmem_max permits.
_LARGE_STREAM_BYTES: Final = 1 << 20
_LARGE_STREAM_AFTER: Final = 1 << 20
_SO_SNDBUFFORCE: Final = 32
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def reset(upstream: socket.socket) -> None:
    """Close a connection with a RST instead of a FIN.

    A unix socket has no RST; there, closing without having shut down says the same.
    """
    with contextlib.suppress(OSError):
        upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    upstream.close()


def _enlarge(stream: socket.socket) -> None:
    try:
        stream.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _LARGE_STREAM_BYTES)
    except OSError:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGE_STREAM_BYTES)


def _hung_up(upstream: socket.socket) -> bool:
    """Whether both directions have ended, although ours was not shut down: how a unix socket shows a reset."""
    poll = select.poll()
    poll.register(upstream, 0)
    return any(event & select.POLLHUP for _, event in poll.poll(0))


class StitchedTcp(Flow):
    """One TCP connection of a device, and the one upstream that carries it on. Who opened it is the subclass's matter.

    Attributes:
        connection: the device's side.
        bytes_up, bytes_down: moved so far; up is from the device.
    """

    kind: Protocol = "tcp"

    def __init__(
        self, table: FlowTable, state: DeviceState, connection: Connection, dial: TcpDial, via: Via, now: float
    ) -> None:
        super().__init__(table, state, now)
        self.connection = connection
        self.via = via
        self.bytes_up = 0
        self.bytes_down = 0
        self._dial: TcpDial | None = dial
        self._upstream: socket.socket | None = dial.socket
        self._fd = dial.socket.fileno()
        self._latest = now
        self._readable = False
        self._writable = False
        self._ending = False  # upstream said that no more will come, or failed; reading will tell
        self._eof = False  # upstream's last byte was read, and FIN follows it to the device
        self._shut = False  # the device's last byte was written, and FIN follows it upstream
        self._finished = False
        # A unix stream is connected from its beginning; what a dial waits for there is the answer.
        self._is_unix = dial.socket.family == socket.AF_UNIX
        self._is_large = False
        connection.owner = self
        state.tcp_flows += 1
        state.dials += 1
        table.add(self)
        table.poller.add(self._fd, self._upstream_ready, write_on_demand=self._is_unix)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        config = self.table.config
        if self._dial is not None:
            return self.started + config.dial_timeout
        if self._upstream is None:
            return self._latest + config.tcp_linger_timeout
        if self._eof or self._shut:
            return self._latest + config.tcp_half_closed_timeout
        return self._latest + config.tcp_idle_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.connection.local

    @property
    def can_wait(self) -> bool:
        """As `Flow.can_wait`."""
        return not self.connection.received

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        connection = self.connection
        if connection.is_closed and not (self._upstream is not None and self._has_last_words(connection)):
            self._device_ended()
            return False
        if self._dial is not None and not self._advance(self._dial, now):
            return False
        upstream = self._upstream
        if upstream is None:
            return False
        try:
            if connection.received or (connection.peer_closed and not self._shut):
                self._write_up(connection, upstream, now)
            more = self._readable and not self._eof and self._read_down(connection, upstream, now)
            if self._ending and self._eof and not self._shut and _hung_up(upstream):
                raise ConnectionResetError("upstream closed both directions")
        except OSError:
            self._upstream_failed(now)
            return False
        if connection.is_closed and not connection.received:
            self._device_ended()
            return False
        if self._eof and self._shut:
            self._close_upstream(upstream)
            self._latest = now
            self.table.schedule(self.deadline)
            return False
        return more

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        if self._dial is not None:
            self._failed_to_open(DialTimedOut(), now)
            self._finish()
        else:
            self.table.count(self.state, "tcp_idle")
            self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        if self._dial is not None:
            self._gave_up(now)
        else:
            self.connection.abort(now)
        self._finish(with_reset=True)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {
            "protocol": "tcp",
            "remote": self.connection.remote,
            "local": self.connection.local,
            "via": self.via.value,
            "state": "dialling" if self._dial is not None else self.connection.state.name.lower(),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
        }

    def _upstream_ready(self, mask: int) -> None:
        if mask & READ:
            self._readable = True
        if mask & WRITE:
            self._writable = True
        if mask & END:
            self._ending = True
        self.table.ready[self] = None

    # What a subclass does while the flow is being opened.

    def _has_news(self) -> bool:
        """Whether it makes sense to look at the dial again."""
        raise NotImplementedError

    def _opened(self, now: float) -> None:
        """The far side has answered: answer the near one."""
        raise NotImplementedError

    def _failed_to_open(self, error: DialError, now: float) -> None:
        """The far side cannot be reached: tell the near one."""
        raise NotImplementedError

    def _gave_up(self, now: float) -> None:
        """The flow ends before the far side has answered, by our own decision."""
        raise NotImplementedError

    def _advance(self, dial: TcpDial, now: float) -> bool:
        """Go on with the dial; True once it succeeded."""
        if not self._has_news():
            return False
        try:
            if not dial.advance():
                self._readable = self._writable = False
                self.table.poller.rearm(self._fd, READ if self._is_unix else READ | WRITE)
                return False
        except DialError as exc:
            self._failed_to_open(exc, now)
            self._finish()
            return False
        self._dial = None
        self.state.dials -= 1
        self._latest = now
        # What was reported while dialling was about the dial. A first read and write find out.
        self._readable = self._writable = True
        self._opened(now)
        return True

    def _write_up(self, connection: Connection, upstream: socket.socket, now: float) -> None:
        received = connection.received
        while received and self._writable:
            offered = connection.received_bytes
            try:
                taken = upstream.sendmsg(received if len(received) <= MAX_BUFFERS else received[:MAX_BUFFERS])
            except BlockingIOError:
                taken = 0
            if (taken < offered and len(received) <= MAX_BUFFERS) or not taken:
                self._writable = False
                self.table.poller.rearm(self._fd, WRITE)
                if self._is_unix and not self._is_large and self.bytes_up > _LARGE_STREAM_AFTER:
                    self._want_large_stream(upstream)
            if taken:
                connection.consume(taken, now)
                self.bytes_up += taken
                self.table.moved += taken
                self._latest = now
                received = connection.received
        if connection.peer_closed and not received and not self._shut:
            self._shut = True
            self._latest = now
            with contextlib.suppress(OSError):  # upstream may have gone already; reading finds out how
                upstream.shutdown(socket.SHUT_WR)
            self.table.schedule(self.deadline)

    def _want_large_stream(self, upstream: socket.socket) -> None:
        table = self.table
        if table.large_streams < table.config.max_large_streams:
            self._is_large = True
            table.large_streams += 1
            _enlarge(upstream)

    def _read_down(self, connection: Connection, upstream: socket.socket, now: float) -> bool:
        slots = connection.send_slots()
        if not slots:
            if self._ending and (code := upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                raise OSError(code, "upstream failed while the device's window was full")
            return False
        if len(slots) > self.table.slots:
            slots = slots[: self.table.slots]
        try:
            taken = upstream.recvmsg_into(slots)[0]
        except BlockingIOError:
            self._readable = False
            self.table.poller.rearm(self._fd, READ)
            return False
        self._latest = now
        if not taken:
            if not self._shut and _hung_up(upstream):
                raise ConnectionResetError("upstream closed both directions")
            self._eof = True
            connection.shutdown(now)
            self.table.schedule(self.deadline)
            return False
        connection.commit(taken, now)
        self.bytes_down += taken
        self.table.moved += taken
        # An edge-triggered socket that has more to say than it gave says so again; one that has ended may not.
        if not self._ending and taken < len(slots) * len(slots[0]):
            self._readable = False
            self.table.poller.rearm(self._fd, READ)
            return False
        return True

    def _has_last_words(self, connection: Connection) -> bool:
        """Whether a device that has ended in order said something that upstream has not taken yet."""
        return self._dial is None and connection.error is None and bool(connection.received)

    def _device_ended(self) -> None:
        if self._dial is not None:
            self.table.count(self.state, "dial_cancelled")
        self._finish(with_reset=self.connection.error is not None)

    def _upstream_failed(self, now: float) -> None:
        self.table.count(self.state, "upstream_reset")
        self.connection.abort(now)
        self._finish()

    def _close_upstream(self, upstream: socket.socket, with_reset: bool = False) -> None:
        self.table.poller.remove(self._fd, closing=True)
        self._upstream = None
        if self._is_large:
            self._is_large = False
            self.table.large_streams -= 1
        if with_reset:
            reset(upstream)
        else:
            upstream.close()

    def _finish(self, with_reset: bool = False) -> None:
        if self._finished:
            return
        self._finished = True
        if self._upstream is not None:
            self._close_upstream(self._upstream, with_reset)
        if self._dial is not None:
            self.state.dials -= 1
            self._dial = None
        self.state.tcp_flows -= 1
        self.connection.release()
        self.table.discard(self)


class OutboundTcp(StitchedTcp):
    """A connection that a device opened."""

    def _has_news(self) -> bool:
        return self._writable or self._readable  # else the news is the device's alone

    def _opened(self, now: float) -> None:
        self.connection.accept(now)

    def _failed_to_open(self, error: DialError, now: float) -> None:
        reject_dial(self.table, self.state, self.connection, error, now)

    def _gave_up(self, now: float) -> None:
        self.connection.reject(now)


def reject_dial(table: FlowTable, state: DeviceState, connection: Connection, error: DialError, now: float) -> None:
    """Tell a device in TCP's own way why its connection does not come about."""
    name, answer = _ANSWERS.get(type(error), _FAILED)
    table.count(state, name)
    answer(connection, now)


_Answer = Callable[["Connection", float], None]


def _refuse(connection: Connection, now: float) -> None:
    connection.reject(now)


def _host_unreachable(connection: Connection, now: float) -> None:
    connection.reject_unreachable("host", now)


def _prohibited(connection: Connection, now: float) -> None:
    connection.reject_unreachable("prohibited", now)


_FAILED: Final[tuple[str, _Answer]] = ("dial_failed", _refuse)
_ANSWERS: Final[dict[type[DialError], tuple[str, _Answer]]] = {
    DialRefused: ("dial_refused", _refuse),
    DialTimedOut: ("dial_timed_out", _refuse),
    DialUnreachable: ("dial_unreachable", _host_unreachable),
    DialForbidden: ("dial_forbidden", _prohibited),
}
DIAL_COUNTERS: Final = {error: name for error, (name, _) in _ANSWERS.items()}
