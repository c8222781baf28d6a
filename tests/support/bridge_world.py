"""A bridge with devices: the proxy's stack and each device's own, back to back, with the kernel's loopback upstream.

There is no WireGuard in between: what one stack puts out is what the other receives, in batches. Time is real.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from lopower.bridge.bridge import Bridge
from lopower.bridge.config import BridgeConfig
from lopower.bridge.device_state import DeviceState
from lopower.bridge.inbound import Contact
from lopower.bridge.poller import Poller
from lopower.bridge.sntp import ClockState
from lopower.devices.device import Device
from lopower.devices.policy import Rule
from lopower.netstack.config import StackConfig
from lopower.netstack.events import EchoReplyReceived, EchoRequested, TcpSynReceived, UdpFlowOpened
from lopower.netstack.stack import Stack
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.states import TcpState
from lopower.netstack.udp import UdpFlow
from lopower.tailnet.driver import Driver, IPAddress
from lopower.tailnet.host import HostDialer
from lopower.wire.rows import PacketBatch, PacketRows
from tests.support.bridge_devices import GATEWAY
from tests.support.bridge_driver import LoopbackDriver

if TYPE_CHECKING:
    from typing_extensions import Buffer

BATCH = 256
STRIDE = 1424


class Peer:
    """What both stacks call the other side."""

    def __init__(self, context: DeviceState | None = None) -> None:
        self.context = context


class Wire:
    """One direction: takes packets from a stack, gives them to the other in batches; loses some if told to.

    Attributes:
        loss: the share of packets that are lost.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.loss = 0.0
        self.random = random.Random(1)
        self._batch = PacketBatch(PacketRows(BATCH, STRIDE))
        self.packets: deque[bytes] = deque()

    def deliver(self, stack: Stack, now: float) -> bool:
        """Hand on one batch; True if there was one."""
        packets = self.packets
        if not packets:
            return False
        batch, rows = self._batch, self._batch.rows
        batch.clear()
        while packets and batch.count < BATCH:
            packet = packets.popleft()
            if self.random.random() < self.loss:
                continue
            row = batch.count
            rows.view[row * STRIDE : row * STRIDE + len(packet)] = packet
            batch.lengths[row] = len(packet)
            batch.count += 1
        if batch.count:
            batch.runs.append((self._peer, 0, batch.count))
            stack.receive(batch, now)
        return True


class Output:
    """What a stack sends to: a wire for each peer."""

    def __init__(self) -> None:
        self.wires: dict[Any, Wire] = {}

    def send_packets(self, peer: Any, packets: Sequence[Buffer], now: float) -> None:
        """As `PacketOutput.send_packets`."""
        wire = self.wires.get(peer)
        if wire is not None:
            wire.packets.extend(map(bytes, packets))

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        """As `PacketOutput.send_rows`."""
        wire = self.wires.get(peer)
        if wire is not None:
            wire.packets.extend(bytes(rows.packet(row, packet_length)) for row in range(first, first + count - 1))
            wire.packets.append(bytes(rows.packet(first + count - 1, last_length)))


class Stream:
    """A device's own end of a connection, for a test to read and write."""

    def __init__(self, world: World, connection: Connection) -> None:
        self.connection = connection
        self._world = world
        self._news = asyncio.Event()
        connection.owner = self

    def notify(self) -> None:
        """The stack has news of the connection."""
        self._news.set()

    async def established(self) -> Stream:
        """Wait for the handshake.

        Raises:
            FlowError: there is no connection; the class says why.
        """
        while self.connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            await self._wait()
        if self.connection.error is not None:
            raise self.connection.error()
        return self

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            taken = self.connection.send(view, self._world.now())
            view = view[taken:]
            self._world.wake()
            if self.connection.error is not None:
                raise self.connection.error()
            if not taken:
                await self._wait()
            await asyncio.sleep(0)

    async def read(self) -> bytes:
        """What there is; empty at the end."""
        connection = self.connection
        while not connection.received:
            if connection.error is not None:
                raise connection.error()
            if connection.peer_closed:
                return b""
            await self._wait()
        data = b"".join(connection.received)
        connection.consume(len(data), self._world.now())
        self._world.wake()
        return data

    async def read_all(self) -> bytes:
        """Everything up to the end."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    async def read_exactly(self, size: int) -> bytes:
        """So many bytes, from a peer that sends no more than those."""
        data = b""
        while len(data) < size:
            part = await self.read()
            assert part, f"the end after {len(data)} of {size} bytes"
            data += part
        return data

    def finish(self) -> None:
        """Say that there is no more to come."""
        self.connection.shutdown(self._world.now())
        self._world.wake()

    def abort(self) -> None:
        """Send a RST."""
        self.connection.abort(self._world.now())
        self._world.wake()

    async def closed(self) -> None:
        """Wait until the connection is over."""
        while not self.connection.is_closed:
            await self._wait()

    async def _wait(self) -> None:
        self._news.clear()
        await asyncio.wait_for(self._news.wait(), 20)


class Datagrams:
    """A device's own end of a UDP flow."""

    def __init__(self, world: World, flow: UdpFlow) -> None:
        self.flow = flow
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.failed = asyncio.Event()
        self._world = world
        flow.owner = self

    def notify(self) -> None:
        """The stack has news of the flow."""
        for payload in self.flow.received:
            self.queue.put_nowait(bytes(payload))
        self.flow.received.clear()
        if self.flow.error is not None:
            self.failed.set()

    def send(self, *payloads: bytes) -> None:
        """Send datagrams."""
        self.flow.send(payloads, self._world.now())
        self._world.wake()

    async def receive(self) -> bytes:
        """The next datagram."""
        return await asyncio.wait_for(self.queue.get(), 10)


class TestDevice:
    """A device with a stack of its own."""

    __test__ = False

    def __init__(self, world: World, device: Device) -> None:
        self.device = device
        self.state = DeviceState(device)
        self.peer = Peer(self.state)  # what the proxy calls the device
        self.proxy = Peer()  # what the device calls the proxy
        self.echo_replies: asyncio.Queue[EchoReplyReceived] = asyncio.Queue()
        self.accepted: asyncio.Queue[Stream] = asyncio.Queue()
        self.datagrams: asyncio.Queue[Datagrams] = asyncio.Queue()
        self.listening: set[int] = set()
        output = Output()
        self.up = output.wires[self.proxy] = Wire(self.peer)
        self.down = Wire(self.proxy)
        self._world = world
        addresses = frozenset(self.state.addresses)
        self.stack = Stack(
            config=StackConfig(local_addresses=addresses),
            entropy=secrets.token_bytes,
            uniform=random.uniform,
            output=output,
        )

    def address(self, version: int) -> bytes:
        """The device's packed address."""
        return next(packed for packed in self.state.addresses if len(packed) == (4 if version == 4 else 16))

    def dial(self, destination: str, port: int, source_port: int = 0) -> Stream:
        """Begin to connect."""
        remote = ip_address(destination)
        local = self.address(remote.version), source_port
        connection = self.stack.tcp.connect(self.proxy, local, (remote.packed, port), self._world.now())
        self._world.wake()
        return Stream(self._world, connection)

    async def connect(self, destination: str, port: int) -> Stream:
        """Connect.

        Raises:
            FlowError: as `Stream.established`.
        """
        return await self.dial(destination, port).established()

    def open_udp(self, destination: str, port: int) -> Datagrams:
        """A UDP flow."""
        remote = ip_address(destination)
        local = self.address(remote.version), 0
        return Datagrams(self._world, self.stack.udp.open(self.proxy, local, (remote.packed, port), self._world.now()))

    def ping(self, destination: str, identifier: int = 7, sequence: int = 1, payload: bytes = b"ping") -> None:
        """Send an echo request."""
        remote = ip_address(destination)
        source = self.address(remote.version)
        self.stack.send_echo_request(
            self.proxy, source, remote.packed, identifier, sequence, payload, self._world.now()
        )
        self._world.wake()

    def turn(self, now: float) -> None:
        """Handle what arrived."""
        for event in self.stack.take_events():
            if isinstance(event, EchoReplyReceived):
                self.echo_replies.put_nowait(event)
            elif isinstance(event, TcpSynReceived):
                if event.connection.local[1] in self.listening:
                    event.connection.accept(now)
                    self.accepted.put_nowait(Stream(self._world, event.connection))
                else:
                    event.connection.reject(now)
            elif isinstance(event, UdpFlowOpened):
                if event.flow.local[1] in self.listening:
                    self.datagrams.put_nowait(Datagrams(self._world, event.flow))
                else:
                    event.flow.unreachable("port", now)
                    event.flow.close()
            else:
                assert isinstance(event, EchoRequested)
        for item in self.stack.take_dirty():
            if item.owner is not None:
                item.owner.notify()


class World:
    """The proxy's side with its bridge, and devices.

    Attributes:
        bridge, stack, driver: the proxy's; flows go through another driver if one is given.
        dns: answers what it is told to (`DnsDouble`).
    """

    def __init__(
        self,
        devices: Iterable[Device],
        *,
        dns: Any,
        rules: Sequence[str] = (),
        config: BridgeConfig | None = None,
        use_epoll: bool = True,
        sources: Sequence[IPAddress] = (),
        clock_state: ClockState | None = None,
        driver: Driver | None = None,
        contact: Contact = lambda _peer, _now: True,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.driver = LoopbackDriver()
        self.dns = dns
        self.skew = 0.0
        self.turns = 0
        output = Output()
        self.stack = Stack(
            config=StackConfig(local_addresses=frozenset(address.packed for address in GATEWAY)),
            entropy=secrets.token_bytes,
            uniform=random.uniform,
            output=output,
        )
        self.poller = Poller(self.loop, self.wake, use_epoll)
        self.bridge = Bridge(
            stack=self.stack,
            driver=driver or self.driver,
            contact=contact,
            dialer=HostDialer(sources=sources, never_self=False),
            poller=self.poller,
            loop=self.loop,
            dns=dns,
            clock=self.now,
            gateway=GATEWAY,
            ranges=(ip_network("10.90.0.0/24"), ip_network("fd7a:115c:a1e0:9909::/64")),
            rules=tuple(map(Rule.parse, rules)),
            config=config,
            clock_state=lambda: clock_state or ClockState(False),
        )
        self.devices: list[TestDevice] = []
        self._output = output
        self._woken = False
        self._running = True
        self._timer: asyncio.TimerHandle | None = None
        for device in devices:
            self.add(device)

    def now(self) -> float:
        """Monotonic seconds, with what the test added."""
        return self.loop.time() + self.skew

    def add(self, device: Device) -> TestDevice:
        """Connect a device."""
        made = TestDevice(self, device)
        self.devices.append(made)
        self._output.wires[made.peer] = made.down
        self.bridge.add_peer(made.peer)
        return made

    def wake(self) -> None:
        """Have a turn soon."""
        if not self._woken and self._running:
            self._woken = True
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._woken = False
        if not self._running:
            return
        self.turns += 1
        now = self.now()
        for device in self.devices:
            device.up.deliver(self.stack, now)
        more = self.bridge.turn(now)
        self.stack.flush(now)
        for device in self.devices:
            device.down.deliver(device.stack, now)
            device.turn(now)
            device.stack.flush(now)
        parts: list[Any] = [self.stack, self.bridge, *(device.stack for device in self.devices)]
        deadlines = []
        for part in parts:
            due = part.next_timer()
            if due is not None and due <= now:
                part.handle_timer(now)
                more = True
                due = part.next_timer()
            if due is not None:
                deadlines.append(due)
        if more or any(device.up.packets or device.down.packets for device in self.devices):
            self.wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadlines:
            self._timer = self.loop.call_at(max(min(deadlines), now) - self.skew, self.wake)

    async def until(self, condition: Any, timeout: float = 10.0) -> None:
        """Wait until `condition()`."""
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 (what is waited for has no event)
                await asyncio.sleep(0.002)

    def elapse(self, seconds: float) -> None:
        """Let time pass at once."""
        self.skew += seconds
        self.wake()

    async def close(self) -> None:
        """End everything."""
        await self.bridge.close(0)
        await self.driver.close()
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        self.poller.close()


class DnsDouble:
    """A DNS server whose answers the test gives: `now` at once, `later` after an event."""

    def __init__(self) -> None:
        self.now: dict[bytes, bytes] = {}
        self.later: dict[bytes, bytes] = {}
        self.go = asyncio.Event()
        self.asked: list[tuple[bytes, str, Any]] = []

    def answer_now(self, query: bytes, transport: str, client: Any, now: float) -> bytes | None:
        """As `DnsServer.answer_now`."""
        self.asked.append((query, transport, client))
        return self.now.get(query)

    async def resolve(self, query: bytes, transport: str, client: Any) -> bytes:
        """As `DnsServer.resolve`."""
        await self.go.wait()
        return self.later.get(query, b"")


@contextlib.asynccontextmanager
async def running(*devices: Device, **options: Any) -> AsyncIterator[World]:
    """A world, and its end."""
    dns = options.pop("dns", None) or DnsDouble()
    world = World(devices, dns=dns, **options)
    try:
        yield world
    finally:
        await world.close()
