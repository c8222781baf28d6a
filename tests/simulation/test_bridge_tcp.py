"""TCP through the bridge: a device's stack, the proxy's, and real sockets upstream."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from lopower.bridge.config import BridgeConfig
from lopower.devices.device import ServedPort
from lopower.netstack.errors import FlowRefused, FlowReset, FlowUnreachable
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.states import TcpState
from lopower.tailnet.driver import DialForbidden, DialTimedOut, DialUnreachable
from tests.support.bridge_devices import make_device
from tests.support.bridge_driver import LOOPBACK
from tests.support.bridge_world import TestDevice, World, running

NODE = "100.64.0.9"
NODE6 = "fd7a:115c:a1e0::9"
MEGABYTE = 1 << 20

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[True, False], ids=["epoll", "portable"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with running(make_device(2), use_epoll=request.param) as made:
        yield made


class Listener:
    """A server on loopback, of either family."""

    def __init__(self) -> None:
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, handler: Handler) -> int:
        """Serve with `handler` on a free port of 127.0.0.1 and ::1."""

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await handler(reader, writer)
            except ConnectionError:
                pass
            finally:
                writer.close()

        async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            try:
                await handle(reader, writer)
            finally:
                self._writers.discard(writer)

        while True:
            first = await asyncio.start_server(tracked, "127.0.0.1", 0, limit=4 * MEGABYTE)
            self.port = first.sockets[0].getsockname()[1]
            try:
                second = await asyncio.start_server(tracked, "::1", self.port, limit=4 * MEGABYTE)
            except OSError:  # another test's connection has this port over IPv6
                first.close()
                continue
            self._servers = [first, second]
            return self.port

    async def close(self) -> None:
        """End."""
        for server in self._servers:
            server.close()
        for writer in self._writers:  # since Python 3.12 a server waits for its connections
            writer.transport.abort()
        for server in self._servers:
            await server.wait_closed()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    made = Listener()
    yield made
    await made.close()


def device_of(world: World) -> TestDevice:
    return world.devices[0]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def nothing_left(world: World) -> None:
    """Wait until the bridge and the stack know of no flow any more."""
    await world.until(lambda: not len(world.bridge.flows) and not world.stack.tcp.connection_count)
    assert not len(world.poller)
    for device in world.devices:
        state = device.state
        assert (state.tcp_flows, state.udp_flows, state.dials, state.echoes, state.queries) == (0, 0, 0, 0, 0)
        assert not state.flows
    assert world.bridge.next_timer() is None


@pytest.mark.parametrize("destination", [NODE, NODE6])
async def test_an_echo_server(world: World, listener: Listener, destination: str) -> None:
    port = await listener.start(echo)
    stream = await device_of(world).connect(destination, port)
    for size in (1, 100, 5000, 70_000):
        message = os.urandom(size)
        await stream.write(message)
        assert await stream.read_exactly(size) == message
    stream.finish()
    assert await stream.read() == b""
    await stream.closed()
    await nothing_left(world)


@pytest.mark.parametrize("destination", [NODE, NODE6])
async def test_ten_megabytes_each_way_at_once(world: World, listener: Listener, destination: str) -> None:
    size = 10 * MEGABYTE
    up, down = random.Random(1).randbytes(size), random.Random(2).randbytes(size)
    digest = asyncio.get_running_loop().create_future()

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send() -> None:
            writer.write(down)
            await writer.drain()
            writer.write_eof()

        task = asyncio.create_task(send())
        digest.set_result(hashlib.sha256(await reader.read(-1)).digest())
        await task

    port = await listener.start(exchange)
    stream = await device_of(world).connect(destination, port)

    async def upload() -> None:
        await stream.write(up)
        stream.finish()

    task = asyncio.create_task(upload())
    received = await stream.read_all()
    await task
    assert hashlib.sha256(received).digest() == hashlib.sha256(down).digest()
    assert await digest == hashlib.sha256(up).digest()
    await nothing_left(world)


@pytest.mark.parametrize("seed", range(3))
async def test_a_lossy_link_changes_nothing(listener: Listener, seed: int) -> None:
    port = await listener.start(echo)
    async with running(make_device(2)) as world:
        device = device_of(world)
        for wire in (device.up, device.down):
            wire.loss = 0.02
            wire.random.seed(seed)
        data = random.Random(seed).randbytes(2 * MEGABYTE)
        stream = await device.connect(NODE, port)

        async def upload() -> None:
            await stream.write(data)
            stream.finish()

        task = asyncio.create_task(upload())
        received = await stream.read_all()
        await task
        assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


async def test_half_close_by_the_device_first(world: World, listener: Listener) -> None:
    """The request ends with FIN; the answer comes after it."""

    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read(-1)
        writer.write(request[::-1] * 1000)
        await writer.drain()

    port = await listener.start(answer_at_the_end)
    stream = await device_of(world).connect(NODE, port)
    await stream.write(b"abc")
    stream.finish()
    assert await stream.read_all() == b"cba" * 1000
    await nothing_left(world)


async def test_half_close_by_upstream_first(world: World, listener: Listener) -> None:
    """Upstream says all it has to say; what the device says afterwards, FIN and all in one turn, still arrives."""
    got = asyncio.get_running_loop().create_future()

    async def greet_and_listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        got.set_result(await reader.read(-1))

    port = await listener.start(greet_and_listen)
    stream = await device_of(world).connect(NODE, port)
    assert await stream.read_all() == b"hello"
    await stream.write(b"x" * 300_000)
    stream.finish()
    assert await asyncio.wait_for(got, 10) == b"x" * 300_000
    await nothing_left(world)


async def test_last_words_that_upstream_takes_only_later(world: World, listener: Listener) -> None:
    """The device has ended and its connection is over, while upstream's buffers are still full."""
    got = asyncio.get_running_loop().create_future()
    go = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write_eof()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        got.set_result(len(await reader.read(-1)))

    port = await listener.start(slow)
    stream = await device_of(world).connect(NODE, port)
    assert await stream.read() == b""
    size = 12 * MEGABYTE
    task = asyncio.create_task(stream.write(bytes(size)))
    await asyncio.sleep(0.3)
    go.set()
    await task
    stream.finish()
    assert await asyncio.wait_for(got, 20) == size
    await nothing_left(world)


async def test_a_slow_reader_holds_the_device_back_and_memory_stays_flat(world: World, listener: Listener) -> None:
    go = asyncio.Event()
    got = asyncio.get_running_loop().create_future()

    async def stuck(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await go.wait()
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        got.set_result(len(await reader.read(-1)))

    port = await listener.start(stuck)
    stream = await device_of(world).connect(NODE, port)
    size = 40 * MEGABYTE
    task = asyncio.create_task(stream.write(bytes(size)))
    await asyncio.sleep(0.5)
    connection = next(iter(world.stack.tcp.connections()))
    assert not task.done()
    assert connection.received_bytes <= 4 * MEGABYTE
    go.set()
    await task
    stream.finish()
    assert await asyncio.wait_for(got, 30) == size
    await nothing_left(world)


async def test_a_device_that_does_not_read_holds_upstream_back(world: World, listener: Listener) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(400):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    port = await listener.start(flood)
    stream = await device_of(world).connect(NODE, port)
    await asyncio.sleep(0.5)
    before, turns = sent, world.turns
    await asyncio.sleep(0.3)
    assert sent == before, "upstream must wait"
    assert world.turns - turns < 50, "and nobody spins meanwhile"
    assert len(await stream.read_all()) == 40_000_000
    stream.finish()
    await nothing_left(world)


async def test_a_closed_port_is_refused(world: World, listener: Listener) -> None:
    port = await listener.start(echo)
    await listener.close()
    with pytest.raises(FlowRefused):
        await device_of(world).connect(NODE, port)
    assert device_of(world).state.counters["dial_refused"] == 1
    await nothing_left(world)


async def test_dial_first_then_answer(world: World) -> None:
    """The handshake is not complete before upstream's is."""
    world.driver.silent.add(NODE)
    stream = device_of(world).dial(NODE, 80)
    await asyncio.sleep(0.1)
    assert stream.connection.state is TcpState.SYN_SENT
    stream.abort()


@pytest.mark.parametrize(
    ("error", "counter"),
    [(DialUnreachable, "dial_unreachable"), (DialForbidden, "dial_forbidden")],
)
async def test_no_route_is_told_by_icmp_and_then_by_rst(
    world: World, error: type[DialUnreachable], counter: str
) -> None:
    world.driver.errors[NODE] = error
    device = device_of(world)
    stream = device.dial(NODE, 80)
    with pytest.raises((FlowUnreachable, FlowRefused)):
        await stream.established()
    assert device.state.counters[counter] == 1
    assert world.stack.counters["icmp_errors_sent"] == 1
    await nothing_left(world)


async def test_a_forbidden_address_gets_icmp_first_and_a_rst_at_the_retransmission(world: World) -> None:
    device = device_of(world)
    device.stack._icmp._on_unreachable = lambda *_: None  # as lwIP: TCP does not hear of ICMP errors
    stream = device.dial("192.168.1.1", 80)
    await world.until(lambda: world.stack.counters["icmp_errors_sent"] == 1)
    assert stream.connection.state is TcpState.SYN_SENT
    with pytest.raises(FlowRefused):
        await stream.established()
    assert device.state.counters["refused_not_allowed"] == 1, "a repeated SYN is no second refusal"
    refusal = next(iter(device.state.refusals.values()))
    assert (refusal.protocol, refusal.destination, refusal.port) == ("tcp", "192.168.1.1", 80)
    await nothing_left(world)


async def test_a_dial_that_times_out_ends_with_a_rst(world: World) -> None:
    world.driver.silent.add(NODE)
    device = device_of(world)
    stream = device.dial(NODE, 80)
    await world.until(lambda: len(world.bridge.flows) == 1)
    world.bridge.handle_timer(world.now() + world.bridge.config.dial_timeout - 0.5)
    assert len(world.bridge.flows) == 1
    world.bridge.handle_timer(world.now() + world.bridge.config.dial_timeout)
    world.wake()
    with pytest.raises(FlowRefused):
        await stream.established()
    assert device.state.counters["dial_timed_out"] == 1
    await nothing_left(world)


async def test_upstream_that_reports_a_timeout_ends_with_a_rst(world: World) -> None:
    world.driver.errors[NODE] = DialTimedOut
    with pytest.raises(FlowRefused):
        await device_of(world).connect(NODE, 80)
    assert device_of(world).state.counters["dial_timed_out"] == 1


async def test_a_retransmitted_syn_never_dials_twice(world: World) -> None:
    world.driver.silent.add(NODE)
    stream = device_of(world).dial(NODE, 80)
    await asyncio.sleep(0.05)
    for _ in range(3):
        world.elapse(2.5)
        await asyncio.sleep(0.05)
    assert world.driver.dials == [(NODE, 80)]
    stream.abort()


async def test_a_rst_of_the_device_cancels_the_dial(world: World) -> None:
    world.driver.silent.add(NODE)
    device = device_of(world)
    stream = device.dial(NODE, 80)
    await world.until(lambda: len(world.bridge.flows) == 1)
    # An active open that is given up says nothing by itself; a RST for its SYN is what an impatient stack sends.
    connection = stream.connection
    device.stack.tcp.send_reset(device.proxy, connection.builder, connection.sender.iss + 1, None, world.now())
    connection.abort(world.now())
    world.wake()
    await world.until(lambda: not len(world.bridge.flows))
    assert device.state.counters["dial_cancelled"] == 1
    await nothing_left(world)


async def test_a_rst_of_the_device_becomes_a_rst_upstream(world: World, listener: Listener) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            ended.set_result(await reader.read(-1))
        except ConnectionResetError as exc:
            ended.set_result(exc)

    port = await listener.start(wait)
    stream = await device_of(world).connect(NODE, port)
    stream.abort()
    assert isinstance(await asyncio.wait_for(ended, 5), ConnectionResetError)
    await nothing_left(world)


async def test_a_rst_of_upstream_becomes_a_rst_for_the_device(world: World, listener: Listener) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()

    port = await listener.start(reset)
    stream = await device_of(world).connect(NODE, port)
    await stream.write(b"x")
    with pytest.raises(FlowReset):
        await stream.read_all()
    assert device_of(world).state.counters["upstream_reset"] == 1
    await nothing_left(world)


async def test_forgotten_flows_end(world: World, listener: Listener) -> None:
    port = await listener.start(echo)
    device = device_of(world)
    stream = await device.connect(NODE, port)
    await stream.write(b"x")
    await stream.read_exactly(1)
    flow = next(iter(world.bridge.flows))
    assert flow.deadline - world.now() == pytest.approx(world.bridge.config.tcp_idle_timeout, abs=5)
    world.bridge.handle_timer(flow.deadline - 1)
    assert len(world.bridge.flows) == 1
    world.bridge.handle_timer(flow.deadline)
    world.wake()
    with pytest.raises(FlowReset):
        await stream.read()
    assert device.state.counters["tcp_idle"] == 1
    await nothing_left(world)


async def test_served_ports_reach_loopback(world: World, listener: Listener) -> None:
    port = await listener.start(echo)
    world.bridge.set_served([ServedPort(protocol="tcp", port=1883, target=(LOOPBACK[4], port))], world.now())
    device = device_of(world)
    for gateway in ("10.90.0.1", "fd7a:115c:a1e0:9909::1"):
        stream = await device.connect(gateway, 1883)
        await stream.write(b"hello")
        assert await stream.read_exactly(5) == b"hello"
    same = ServedPort(protocol="tcp", port=1883, target=(LOOPBACK[4], port))
    world.bridge.set_served([same, ServedPort(protocol="tcp", port=22, target=(LOOPBACK[4], port))], world.now())
    assert len(world.bridge.flows) == 2, "what did not change goes on"
    world.bridge.set_served([], world.now())
    with pytest.raises(FlowReset):
        await stream.read()
    with pytest.raises(FlowRefused):
        await device.connect("10.90.0.1", 1883)
    assert device.state.counters["policy_changed"] == 2
    await nothing_left(world)


async def test_loopback_is_never_reached_but_by_serve(world: World, listener: Listener) -> None:
    port = await listener.start(echo)
    with pytest.raises((FlowUnreachable, FlowRefused)):
        await device_of(world).connect("127.0.0.1", port)
    assert device_of(world).state.counters["refused_loopback"] == 1


async def test_the_flow_limit_is_the_devices_own(listener: Listener) -> None:
    port = await listener.start(echo)
    config = BridgeConfig(max_tcp_flows_per_device=3)
    async with running(make_device(2), make_device(3), config=config) as world:
        greedy, modest = world.devices
        for _ in range(3):
            await greedy.connect(NODE, port)
        with pytest.raises(FlowRefused):
            await greedy.connect(NODE, port)
        assert greedy.state.counters["flow_limit"] == 1
        await modest.connect(NODE, port)


async def test_a_flood_of_syns_leaves_the_others_alone(listener: Listener) -> None:
    port = await listener.start(echo)
    async with running(make_device(2), make_device(3)) as world:
        world.driver.silent.add("100.64.0.66")
        flooder, good = world.devices
        flood = [flooder.dial("100.64.0.66", number) for number in range(1, 501)]
        for _ in range(20):
            stream = await asyncio.wait_for(good.connect(NODE, port), 5)
            await stream.write(b"x")
            assert await stream.read_exactly(1) == b"x"
        assert flooder.state.dials == world.bridge.config.max_dials_per_device
        assert good.state.counters["dial_limit"] == 0
        world.bridge.handle_timer(world.now() + 11)
        assert flooder.state.dials == 0
        for stream in flood:
            stream.abort()


async def test_without_descriptors_new_flows_are_refused_and_old_ones_live(world: World, listener: Listener) -> None:
    port = await listener.start(echo)
    device = device_of(world)
    stream = await device.connect(NODE, port)
    await stream.write(b"x")
    await stream.read_exactly(1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # so that no number below the limit is free
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare[-1], limits[1]))
    try:
        with pytest.raises(FlowRefused):
            await device.connect(NODE, port)
        await stream.write(b"y")
        assert await stream.read_exactly(1) == b"y"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for number in spare:
            os.close(number)
    assert device.state.counters["dial_failed"] == 1
    await device.connect(NODE, port)


async def test_the_dial_limit() -> None:
    async with running(make_device(2), config=BridgeConfig(max_dials_per_device=2)) as world:
        world.driver.silent.add(NODE)
        device = device_of(world)
        waiting = [device.dial(NODE, port) for port in (1, 2)]
        with pytest.raises(FlowRefused):
            await device.connect(NODE, 3)
        assert device.state.counters["dial_limit"] == 1
        for stream in waiting:
            stream.abort()


async def test_a_device_that_goes_takes_its_flows_along(world: World, listener: Listener) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        except ConnectionResetError:
            ended.set_result(None)

    port = await listener.start(wait)
    device = device_of(world)
    await device.connect(NODE, port)
    world.bridge.remove_peer(device.peer, world.now())
    await asyncio.wait_for(ended, 5)
    assert not len(world.bridge.flows)
    assert not len(world.poller)
    assert not len(world.bridge.devices)


@pytest.mark.parametrize("use_epoll", [True, False], ids=["epoll", "portable"])
@pytest.mark.usefixtures("without_collector")
async def test_a_thousand_flows_leave_nothing(listener: Listener, use_epoll: bool) -> None:
    """No flow, timer, task or descriptor is left, however they ended, and no work for the garbage collector."""
    port = await listener.start(echo)
    async with running(make_device(2), make_device(3), use_epoll=use_epoll) as world:
        gc.collect()
        descriptors = len(os.listdir("/proc/self/fd"))
        tasks = len(asyncio.all_tasks())

        async def one(number: int) -> None:
            device = world.devices[number % 2]
            stream = await device.connect((NODE, NODE6)[number % 2], port)
            await stream.write(b"%d" % number)
            assert await stream.read_exactly(len(str(number))) == b"%d" % number
            if number % 3 == 0:
                stream.abort()
            else:
                stream.finish()
                assert await stream.read() == b""

        for first in range(0, 1000, 50):
            await asyncio.gather(*(one(number) for number in range(first, first + 50)))
        await nothing_left(world)
        await world.until(lambda: len(asyncio.all_tasks()) <= tasks)
        layer = world.stack.tcp
        alive = [it for it in gc.get_objects() if type(it) is Connection and it.layer is layer]
        assert len(alive) <= 70  # the timers keep up to 64 dead entries
        del alive
        gc.collect()
        await world.until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)
        assert not world.bridge.flows.ready
        assert not world.stack.tcp.connections()


async def test_closing_gives_flows_their_time(listener: Listener) -> None:
    port = await listener.start(echo)
    async with running(make_device(2)) as world:
        stream = await device_of(world).connect(NODE, port)
        closing = asyncio.create_task(world.bridge.close(5))
        await asyncio.sleep(0.05)
        with pytest.raises(FlowRefused):
            await device_of(world).connect(NODE, port)
        await stream.write(b"still here")
        assert await stream.read_exactly(10) == b"still here"
        stream.finish()
        await asyncio.wait_for(closing, 4)


async def test_closing_ends_with_a_rst(listener: Listener) -> None:
    port = await listener.start(echo)
    async with running(make_device(2)) as world:
        stream = await device_of(world).connect(NODE, port)
        await world.bridge.close(0.1)
        world.wake()
        with pytest.raises(FlowReset):
            await stream.read()
