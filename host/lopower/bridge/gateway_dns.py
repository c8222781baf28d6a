"""DNS on port 53 of the gateway: datagrams, and messages framed by their length on TCP (RFC 1035 section 4.2).

What the server knows at once is answered at once. The rest is a task for each question; they are few per device and in
all, so that a device whose questions nobody answers waits alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.policy import Protocol as TransportProtocol
from lopower.bridge.policy import Via

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.gateway import GatewayUdp
    from lopower.netstack.tcp.connection import Connection

log = logging.getLogger(__name__)

# Answers that a device on TCP has not taken; until it has, no further question is read.
_MAX_PENDING: Final = 128 << 10
_LENGTH: Final = 2


class Resolver(Protocol):
    """The DNS server, as the gateway needs it."""

    def answer_now(self, query: bytes, transport: Literal["udp", "tcp"], client: Any, now: float) -> bytes | None:
        """The answer, if no waiting is needed."""

    async def resolve(self, query: bytes, transport: Literal["udp", "tcp"], client: Any) -> bytes:
        """The answer, within 5 s; empty if there is none to give."""


class DnsService:
    """Hands questions to the DNS server, and its answers back.

    Args (`clock` is an attribute as well):
        table: the flows.
        resolver: the DNS server.
        loop: runs the tasks.
        clock: monotonic seconds.
    """

    def __init__(
        self, table: FlowTable, resolver: Resolver, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._resolver = resolver
        self._loop = loop
        self.clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def receive(self, flow: GatewayUdp, payloads: list[Any], now: float) -> None:
        """As `UdpService.receive`."""
        answers = []
        for payload in payloads:
            query = bytes(payload)
            answer = self._resolver.answer_now(query, "udp", flow.state.device.name, now)
            if answer is None:
                self.resolve(flow.state, query, "udp", lambda late: self._send_late(flow, late))
            elif answer:
                answers.append(answer)
        if answers:
            flow.send(answers, now)

    def accept(self, state: DeviceState, connection: Connection, now: float) -> None:
        """As `TcpService.accept`."""
        DnsTcp(self, self._table, state, connection, now)

    def answer_now(self, state: DeviceState, query: bytes, now: float) -> bytes | None:
        """As `Resolver.answer_now`, for TCP."""
        return self._resolver.answer_now(query, "tcp", state.device.name, now)

    def resolve(
        self, state: DeviceState, query: bytes, transport: Literal["udp", "tcp"], answered: Callable[[bytes], None]
    ) -> bool:
        """Resolve in a task, which calls `answered` (with nothing, if it failed); False if there are too many."""
        config = self._table.config
        if state.queries >= config.max_queries_per_device or len(self._tasks) >= config.max_queries:
            self._table.count(state, "dns_limit")
            return False
        state.queries += 1
        task = self._loop.create_task(self._resolve(state, query, transport, answered), name="dns query")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def close(self) -> None:
        """Give up what is being resolved."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _send_late(self, flow: GatewayUdp, answer: bytes) -> None:
        if answer:
            flow.send([answer], self.clock())

    async def _resolve(
        self, state: DeviceState, query: bytes, transport: Literal["udp", "tcp"], answered: Callable[[bytes], None]
    ) -> None:
        answer = b""
        try:
            answer = await self._resolver.resolve(query, transport, state.device.name)
        except Exception:
            self._table.count(state, "faults")
            log.exception("internal error in the DNS server; one question stays unanswered")
        finally:
            state.queries -= 1
        answered(answer)
        self._table.poller.wake()


class DnsTcp(Flow):
    """A connection with questions, answered in the order in which the answers are known (RFC 7766 section 6.2.1.1)."""

    kind: TransportProtocol = "tcp"
    via: Via = Via.GATEWAY

    def __init__(
        self, service: DnsService, table: FlowTable, state: DeviceState, connection: Connection, now: float
    ) -> None:
        super().__init__(table, state, now)
        self._service = service
        self._connection = connection
        self._buffer = bytearray()
        self._pending = bytearray()
        self._waiting = 0
        self._latest = now
        self._finished = False
        connection.owner = self
        state.tcp_flows += 1
        table.add(self)
        connection.accept(now)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self.table.config.connection_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self._connection.local

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        connection = self._connection
        if connection.is_closed:
            self._finish()
            return False
        self._send(now)
        if len(self._pending) < _MAX_PENDING and connection.received:
            for data in connection.received:
                self._buffer += data
            connection.consume(connection.received_bytes, now)
            self._latest = now
        self._answer(now)
        if connection.peer_closed and not connection.received and not self._pending and not self._waiting:
            connection.close(now)
            self._finish()
        return False

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        self.table.count(self.state, "gateway_idle")
        self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        self._connection.abort(now)
        self._finish()

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        connection = self._connection
        return {
            "protocol": "tcp",
            "remote": connection.remote,
            "local": connection.local,
            "via": "gateway",
            "state": connection.state.name.lower(),
        }

    def _answer(self, now: float) -> None:
        buffer = self._buffer
        while len(buffer) >= _LENGTH and len(self._pending) < _MAX_PENDING:
            end = _LENGTH + int.from_bytes(buffer[:_LENGTH], "big")
            if len(buffer) < end:
                return
            query = bytes(buffer[_LENGTH:end])
            del buffer[:end]
            answer = self._service.answer_now(self.state, query, now)
            if answer is None:
                if not self._service.resolve(self.state, query, "tcp", self._answered):
                    self.abort(now)
                    return
                self._waiting += 1
            elif answer:
                self._queue(answer, now)

    def _answered(self, answer: bytes) -> None:
        self._waiting -= 1
        if not self._finished:
            if answer:
                self._queue(answer, self._service.clock())
            self.table.ready[self] = None

    def _queue(self, answer: bytes, now: float) -> None:
        self._pending += len(answer).to_bytes(_LENGTH, "big") + answer
        self._send(now)

    def _send(self, now: float) -> None:
        if self._pending:
            taken = self._connection.send(bytes(self._pending), now)
            del self._pending[:taken]
            if taken:
                self._latest = now

    def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._connection.owner = None
            self.state.tcp_flows -= 1
            self.table.discard(self)
