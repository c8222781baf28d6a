"""An asyncio transport over a connection of the stack, so that protocols written for asyncio serve devices.

The connection's window is the flow control: while a protocol does not read, nothing is consumed; while the device does
not take what was written, it waits here and the protocol is told to pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.policy import Protocol, Via

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.netstack.tcp.connection import Connection

_HIGH_WATER: Final = 64 << 10


class ConnectionTransport(asyncio.Transport, Flow):
    """One connection of a device to a service of the gateway.

    `get_extra_info` knows `peername`, `sockname` and `device_state`.
    """

    kind: Protocol = "tcp"
    via: Via = Via.GATEWAY

    def __init__(
        self,
        table: FlowTable,
        state: DeviceState,
        connection: Connection,
        protocol: asyncio.Protocol,
        clock: Callable[[], float],
        now: float,
    ) -> None:
        asyncio.Transport.__init__(self)
        Flow.__init__(self, table, state, now)
        self.connection = connection
        self._protocol = protocol
        self._clock = clock
        self._latest = now
        self._pending = bytearray()
        self._reading = True
        self._closing = False
        self._lost = False
        self._eof_sent = False
        self._eof_told = False
        self._protocol_paused = False
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        connection.owner = self
        state.tcp_flows += 1
        table.add(self)
        connection.accept(now)
        protocol.connection_made(self)

    # What the table asks.

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self.table.config.connection_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.connection.local

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        connection = self.connection
        if connection.is_closed:
            self._lose(ConnectionResetError() if connection.error is not None else None)
            return False
        if self._pending:
            self._send_pending(now)
        if connection.received and self._reading and not self._closing:
            data = b"".join(connection.received)
            connection.consume(len(data), now)
            self._latest = now
            self._protocol.data_received(data)
        if connection.peer_closed and not connection.received and not self._eof_told and not self._closing:
            self._eof_told = True
            if not self._protocol.eof_received():
                self.close()
        return False

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        self.table.count(self.state, "gateway_idle")
        self.abort(now)

    def abort(self, now: float | None = None) -> None:
        """As `Flow.abort` and `asyncio.WriteTransport.abort`."""
        if not self._lost:
            self.connection.abort(self._clock() if now is None else now)
            self._lose(None)
            self.table.poller.wake()

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {
            "protocol": "tcp",
            "remote": self.connection.remote,
            "local": self.connection.local,
            "via": "gateway",
            "state": self.connection.state.name.lower(),
        }

    # What the protocol asks.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As `asyncio.BaseTransport.get_extra_info`."""
        if name == "device_state":
            return self.state
        if name == "peername":
            return self.connection.remote
        if name == "sockname":
            return self.connection.local
        return default

    def is_closing(self) -> bool:
        """As `asyncio.BaseTransport.is_closing`."""
        return self._closing or self._lost

    def close(self) -> None:
        """As `asyncio.BaseTransport.close`: what was written still goes out."""
        if not self._closing:
            self._closing = True
            self._end_when_sent(self._clock())
            self.table.poller.wake()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As `asyncio.BaseTransport.set_protocol`."""
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As `asyncio.BaseTransport.get_protocol`."""
        return self._protocol

    def is_reading(self) -> bool:
        """As `asyncio.ReadTransport.is_reading`."""
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        """As `asyncio.ReadTransport.pause_reading`."""
        self._reading = False

    def resume_reading(self) -> None:
        """As `asyncio.ReadTransport.resume_reading`."""
        self._reading = True
        self.table.ready[self] = None
        self.table.poller.wake()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As `asyncio.WriteTransport.set_write_buffer_limits`."""
        self._high = _HIGH_WATER if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        """As `asyncio.WriteTransport.get_write_buffer_size`."""
        return len(self._pending)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """As `asyncio.WriteTransport.get_write_buffer_limits`."""
        return self._low, self._high

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As `asyncio.WriteTransport.write`."""
        if self._lost or self._eof_sent or not data:
            return
        now = self._clock()
        taken = 0 if self._pending else self.connection.send(data, now)
        if taken < len(data):
            self._pending += memoryview(data)[taken:]
            if len(self._pending) > self._high and not self._protocol_paused:
                self._protocol_paused = True
                self._protocol.pause_writing()
        self._latest = now
        self.table.poller.wake()

    def can_write_eof(self) -> bool:
        """As `asyncio.WriteTransport.can_write_eof`."""
        return True

    def write_eof(self) -> None:
        """As `asyncio.WriteTransport.write_eof`."""
        self._closing = True
        self._end_when_sent(self._clock())
        self.table.poller.wake()

    def _send_pending(self, now: float) -> None:
        taken = self.connection.send(bytes(self._pending), now)
        if taken:
            del self._pending[:taken]
            self._latest = now
        if self._protocol_paused and len(self._pending) <= self._low:
            self._protocol_paused = False
            self._protocol.resume_writing()
        if self._closing:
            self._end_when_sent(now)

    def _end_when_sent(self, now: float) -> None:
        if self._pending or self._eof_sent or self._lost:
            return
        self._eof_sent = True
        self.connection.close(now)  # whatever the device still says finds no reader
        self._lose(None)

    def _lose(self, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._pending.clear()
        self.connection.owner = None
        self.state.tcp_flows -= 1
        self.table.discard(self)
        self._protocol.connection_lost(error)
