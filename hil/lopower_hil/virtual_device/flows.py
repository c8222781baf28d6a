"""What a program on the virtual device holds: a TCP stream, or a UDP flow, over the tunnel."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from collections.abc import Callable

from lopower.netstack.errors import FlowError, FlowProhibited, FlowRefused, FlowReset, FlowTimedOut, FlowUnreachable
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.states import TcpState
from lopower.netstack.udp import UdpFlow

# What the program has not read yet; beyond it the TCP window closes, and UDP datagrams are dropped.
MAX_UNREAD_BYTES = 1 << 20
MAX_UNREAD_DATAGRAMS = 1024


def os_error(error: type[FlowError]) -> OSError:
    """What a socket of the kernel's would raise."""
    if issubclass(error, FlowRefused):
        return ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
    if issubclass(error, FlowReset):
        return ConnectionResetError(errno.ECONNRESET, "connection reset by peer")
    if issubclass(error, FlowTimedOut):
        return TimeoutError(errno.ETIMEDOUT, "connection timed out")
    if issubclass(error, FlowProhibited):
        return PermissionError(errno.EACCES, "administratively prohibited")
    if issubclass(error, FlowUnreachable):
        return OSError(errno.EHOSTUNREACH, "no route to host")
    return ConnectionAbortedError(errno.ECONNABORTED, "connection aborted")


class VirtualStream:
    """One TCP connection of the virtual device, with asyncio's manners."""

    def __init__(self, connection: Connection, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.connection = connection
        connection.owner = self
        self._clock = clock
        self._wake = wake
        self._unread: deque[bytes] = deque()
        self._unread_bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def advance(self, now: float) -> None:
        """The stack has news for this connection. Called by the device within its turn."""
        connection = self.connection
        room = MAX_UNREAD_BYTES - self._unread_bytes
        if connection.received and room > 0:
            taken = 0
            for view in connection.received:
                part = bytes(view[: room - taken])
                self._unread.append(part)
                taken += len(part)
                if taken == room:
                    break
            self._unread_bytes += taken
            connection.consume(taken, now)
        if connection.peer_closed and not connection.received:
            self._ended = True
        self._changed.set()

    async def connected(self) -> None:
        """Wait until the connection is established.

        Raises:
            ConnectionError, OSError: how it ended instead (refused, unreachable, timed out).
        """
        while self.connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            await self._change()
        self._raise_if_closed()

    async def read(self, most: int = MAX_UNREAD_BYTES) -> bytes:
        """Up to `most` bytes, at least one; empty after the peer's FIN.

        Raises:
            ConnectionError, OSError: the connection was reset or timed out.
        """
        while not self._unread:
            if self._ended:
                return b""
            self._raise_if_closed()
            await self._change()
        part = self._unread.popleft()
        if len(part) > most:
            self._unread.appendleft(part[most:])
            part = part[:most]
        was_full = self._unread_bytes >= MAX_UNREAD_BYTES
        self._unread_bytes -= len(part)
        if was_full or (self.connection.received and self._unread_bytes < MAX_UNREAD_BYTES // 2):
            self.advance(self._clock())
            self._wake()
        return part

    async def read_all(self) -> bytes:
        """Everything until the peer's FIN."""
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    async def read_exactly(self, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            EOFError: the peer's FIN came first.
        """
        parts = []
        while count:
            part = await self.read(count)
            if not part:
                raise EOFError("the peer closed before all was there")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes | memoryview[int]) -> None:
        """Send all of `data`; returns once the stack has taken it.

        Raises:
            ConnectionError, OSError: the connection was reset or timed out.
        """
        rest = memoryview(data)
        while rest:
            self._raise_if_closed()
            taken = self.connection.send(rest, self._clock())
            self._wake()
            rest = rest[taken:]
            if rest:
                await self._change()

    def write_eof(self) -> None:
        """FIN after what was written."""
        self.connection.shutdown(self._clock())
        self._wake()

    async def close(self) -> None:
        """Close both ways in order; resets if the program left data unread."""
        if not self.connection.is_closed:
            if self._unread or not self._ended:
                self.connection.abort(self._clock())
            else:
                self.connection.shutdown(self._clock())
            self._wake()
        await asyncio.sleep(0)

    def abort(self) -> None:
        """RST."""
        self.connection.abort(self._clock())
        self._wake()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _raise_if_closed(self) -> None:
        error = self.connection.error
        if error is not None:
            raise os_error(error)
        if self.connection.is_closed:
            raise ConnectionAbortedError("the connection is closed")


class VirtualDatagrams:
    """One UDP flow of the virtual device."""

    def __init__(self, flow: UdpFlow, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.flow = flow
        flow.owner = self
        self._clock = clock
        self._wake = wake
        self._unread: deque[bytes] = deque(maxlen=MAX_UNREAD_DATAGRAMS)
        self._changed = asyncio.Event()

    def advance(self, now: float) -> None:
        """The stack has news for this flow. Called by the device within its turn."""
        self._unread.extend(bytes(view) for view in self.flow.received)
        self._changed.set()

    def send(self, *payloads: bytes) -> None:
        """Send datagrams."""
        self.flow.send(payloads, self._clock())
        self._wake()

    async def receive(self) -> bytes:
        """The next datagram.

        Raises:
            OSError: the peer's host said that nothing answers there.
        """
        while not self._unread:
            if self.flow.error is not None:
                raise os_error(self.flow.error)
            self._changed.clear()
            await self._changed.wait()
        return self._unread.popleft()

    def close(self) -> None:
        """Forget the flow."""
        self.flow.close()
        self._wake()
