"""Ports of the host's own addresses, which stand for its tailnet addresses here: real sockets to devices and back."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from ipaddress import ip_address

import pytest

from lopower.devices.exposures import Exposure
from lopower.netstack.errors import FlowReset
from lopower.tailnet import host_inbound
from lopower.tailnet.host_inbound import HostListeners
from lopower.wire.proxy_protocol import Transport
from tests.support.bridge_devices import make_device
from tests.support.bridge_world import TestDevice, World, running

KITCHEN = make_device(2, name="kitchen")
ADDRESSES = [ip_address("127.0.0.1"), ip_address("::1")]


def free_port(transport: Transport) -> int:
    """A port that is free at both addresses."""
    kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
    while True:
        with socket.socket(socket.AF_INET, kind) as four, socket.socket(socket.AF_INET6, kind) as six:
            four.bind(("127.0.0.1", 0))
            port: int = four.getsockname()[1]
            try:
                six.bind(("::1", port))
            except OSError:
                continue
            return port


class Host:
    """Listeners before a bridge, with one port exposed."""

    def __init__(self, world: World, transport: Transport, permitted: bool) -> None:
        self.world = world
        self.port = free_port(transport)
        self.transport: Transport = transport
        self.listeners = HostListeners(world.loop, world.bridge.inbound_opened)
        exposure = Exposure(
            device_id=KITCHEN.id, kind="port", transport=transport, port=self.port, target_port=80
        )  # fmt: skip
        world.bridge.set_exposures([exposure], world.now())
        self.listeners.set_ports({(transport, self.port): lambda _source: permitted})

    @property
    def device(self) -> TestDevice:
        return self.world.devices[0]

    def client(self, version: int = 4) -> socket.socket:
        """A connected, non-blocking socket."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        made = socket.socket(family, socket.SOCK_STREAM if self.transport == "tcp" else socket.SOCK_DGRAM)
        try:
            made.connect((str(ADDRESSES[version == 6]), self.port))
        except OSError:
            made.close()
            raise
        made.setblocking(False)
        return made

    async def read(self, client: socket.socket) -> bytes:
        return await asyncio.wait_for(self.world.loop.sock_recv(client, 65_536), 10)


@asynccontextmanager
async def host(transport: Transport, permitted: bool = True) -> AsyncIterator[Host]:
    async with running(KITCHEN) as world:
        made = Host(world, transport, permitted)
        made.listeners.set_addresses(ADDRESSES)
        try:
            yield made
        finally:
            made.listeners.close()


@contextmanager
def taken(transport: Transport, port: int) -> Iterator[socket.socket]:
    """Another program has the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        if transport == "tcp":
            other.listen()
        yield other


@pytest.mark.parametrize("version", [4, 6])
async def test_a_stream_with_half_close(version: int) -> None:
    async with host("tcp") as made:
        made.device.listening.add(80)
        with closing(made.client(version)) as client:
            # All is said before the device has answered: the kernel has accepted already.
            client.send(b"question")
            client.shutdown(socket.SHUT_WR)
            stream = await asyncio.wait_for(made.device.accepted.get(), 5)
            # The peer's address is none of a tailnet here, so that the device sees the gateway.
            assert stream.connection.local[1] == 80
            assert await stream.read_all() == b"question"
            await stream.write(b"answer")
            stream.finish()
            assert await made.read(client) == b"answer"
            assert await made.read(client) == b""
        await made.world.until(lambda: not len(made.world.bridge.flows))


async def test_what_the_device_refuses_is_reset() -> None:
    async with host("tcp") as made:
        with closing(made.client()) as client, pytest.raises(ConnectionResetError):
            await made.read(client)
        assert made.device.state.counters["inbound_dial_refused"] == 1


async def test_a_silent_device_is_given_up_in_time_and_a_peer_that_goes_at_once() -> None:
    async with host("tcp") as made:
        made.device.down.loss = 1.0
        with closing(made.client()) as client:
            await made.world.until(lambda: len(made.world.bridge.flows) == 1)
            made.world.elapse(made.world.bridge.config.inbound_timeout)
            with pytest.raises(ConnectionResetError):
                await made.read(client)
        client = made.client()
        await made.world.until(lambda: len(made.world.bridge.flows) == 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await made.world.until(lambda: not len(made.world.bridge.flows))
        assert made.device.state.counters["inbound_cancelled"] == 1


async def test_resets_both_ways() -> None:
    async with host("tcp") as made:
        made.device.listening.add(80)
        with closing(made.client()) as client:
            stream = await asyncio.wait_for(made.device.accepted.get(), 5)
            client.send(b"x")
            assert await stream.read() == b"x"
            stream.abort()
            with pytest.raises(ConnectionResetError):
                await made.read(client)
        with closing(made.client()) as client:
            stream = await asyncio.wait_for(made.device.accepted.get(), 5)
            client.send(b"x")
            assert await stream.read() == b"x"
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with pytest.raises(FlowReset):
            await stream.read()


@pytest.mark.parametrize("version", [4, 6])
async def test_datagrams_of_several_senders_stay_apart(version: int) -> None:
    async with host("udp") as made:
        made.device.listening.add(80)
        with closing(made.client(version)) as one, closing(made.client(version)) as two:
            one.send(b"one")
            first = await asyncio.wait_for(made.device.datagrams.get(), 5)
            two.send(b"two")
            second = await asyncio.wait_for(made.device.datagrams.get(), 5)
            assert (await first.receive(), await second.receive()) == (b"one", b"two")
            one.send(b"")
            one.send(b"again")
            assert [await first.receive(), await first.receive()] == [b"", b"again"]
            second.send(b"b", b"c")
            first.send(b"a")
            assert [await made.read(two), await made.read(two), await made.read(one)] == [b"b", b"c", b"a"]
        assert len(made.world.bridge.flows) == 2
        made.world.elapse(301)
        await made.world.until(lambda: not len(made.world.bridge.flows))


async def test_a_sender_comes_again_after_its_flow_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_inbound, "MAX_SENDERS", 1)
    async with host("udp") as made:
        made.device.listening.add(80)
        with closing(made.client()) as one, closing(made.client()) as two:
            one.send(b"1")
            first = await asyncio.wait_for(made.device.datagrams.get(), 5)
            assert await first.receive() == b"1"
            two.send(b"2")  # there is no room for another
            one.send(b"3")
            assert await first.receive() == b"3"
            made.world.elapse(301)
            await made.world.until(lambda: not len(made.world.bridge.flows))
            two.send(b"4")
            second = await asyncio.wait_for(made.device.datagrams.get(), 5)
            assert await second.receive() == b"4"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_who_is_not_permitted_reaches_nothing(transport: Transport) -> None:
    async with host(transport, permitted=False) as made:
        made.device.listening.add(80)
        with closing(made.client()) as client:
            if transport == "tcp":
                with pytest.raises(ConnectionResetError):
                    await made.read(client)
            else:
                client.send(b"x")
                await asyncio.sleep(0.1)
        assert not len(made.world.bridge.flows)
        assert not made.device.accepted.qsize()


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_port_in_use_is_told_and_taken_when_it_is_free(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_inbound, "RETRY_SECONDS", 0.05)
    async with running(KITCHEN) as world:
        made = Host(world, transport, True)
        key = (transport, made.port)
        with taken(transport, made.port):
            made.listeners.set_addresses(ADDRESSES)
            state = made.listeners.state(key)
            assert state.addresses == (ADDRESSES[1],)
            assert [address for address, _ in state.failures] == [ADDRESSES[0]]
            assert "another program has it" in state.failures[0][1]
        await world.until(lambda: len(made.listeners.state(key).addresses) == 2)
        assert made.listeners.state(key).failures == ()
        made.listeners.close()
        with taken(transport, made.port):
            pass  # it was given back


async def test_addresses_and_ports_come_and_go() -> None:
    async with host("tcp") as made:
        assert made.listeners.state(("tcp", made.port)).addresses == tuple(ADDRESSES)
        made.listeners.set_addresses(ADDRESSES[1:])
        assert made.listeners.state(("tcp", made.port)).addresses == tuple(ADDRESSES[1:])
        with pytest.raises(ConnectionRefusedError):
            made.client(4)
        made.client(6).close()
        made.listeners.set_addresses([*ADDRESSES, ip_address("192.0.2.77")])
        assert len(made.listeners.state(("tcp", made.port)).failures) == 1
        made.listeners.set_ports({})
        assert made.listeners.state(("tcp", made.port)) == host_inbound.PortState((), ())


def test_reasons_are_told() -> None:
    assert "CAP_NET_BIND_SERVICE" in host_inbound._explain(OSError(errno.EACCES, "x"), "tcp", 80)
    assert "ss -ulpn" in host_inbound._explain(OSError(errno.EADDRINUSE, "x"), "udp", 80)
