"""UDP and echo through the bridge, with real sockets upstream."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from lopower.bridge import icmp
from lopower.bridge.config import BridgeConfig
from lopower.devices.device import ServedPort
from lopower.netstack.errors import FlowProhibited, FlowRefused, FlowUnreachable
from lopower.tailnet.driver import DialForbidden, DialUnreachable
from tests.support.bridge_devices import make_device
from tests.support.bridge_driver import LOOPBACK
from tests.support.bridge_world import TestDevice, World, running

NODE = "100.64.0.9"
NODE6 = "fd7a:115c:a1e0::9"


@pytest.fixture(params=[True, False], ids=["epoll", "portable"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with running(make_device(2), use_epoll=request.param) as made:
        yield made


class Upstream:
    """A UDP socket on loopback that the test answers from."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]

    async def receive(self) -> tuple[bytes, tuple[str, int]]:
        """The next datagram and where it came from."""
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recvfrom(self.socket, 70_000), 5)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    made = Upstream(socket.AF_INET)
    yield made
    made.socket.close()


def device_of(world: World) -> TestDevice:
    return world.devices[0]


async def nothing_left(world: World) -> None:
    await world.until(lambda: not len(world.bridge.flows))
    assert not len(world.poller)
    for device in world.devices:
        assert (device.state.udp_flows, device.state.echoes) == (0, 0)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
async def test_datagrams_both_ways_whole_and_in_order(world: World, family: socket.AddressFamily) -> None:
    upstream = Upstream(family)
    flow = device_of(world).open_udp(NODE if family == socket.AF_INET else NODE6, upstream.port)
    sent = [os.urandom(size) for size in (0, 1, 64, 512, 1200, 1372, 1500, 9000, 65_507)]
    flow.send(*sent)
    source = None
    for datagram in sent:
        received, address = await upstream.receive()
        assert received == datagram
        assert source in (None, address), "one flow, one source"
        source = address
    assert source is not None
    for datagram in sent:
        upstream.socket.sendto(datagram, source)
        assert await flow.receive() == datagram
    upstream.socket.close()


async def test_only_who_was_asked_may_answer(world: World, upstream: Upstream) -> None:
    flow = device_of(world).open_udp(NODE, upstream.port)
    flow.send(b"question")
    _, source = await upstream.receive()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"forged", source)
    upstream.socket.sendto(b"answer", source)
    assert await flow.receive() == b"answer"
    assert flow.queue.empty()


async def test_a_dead_port_comes_back_as_port_unreachable(world: World) -> None:
    upstream = Upstream(socket.AF_INET)
    upstream.socket.close()
    flow = device_of(world).open_udp(NODE, upstream.port)
    flow.send(b"anybody?")
    await asyncio.wait_for(flow.failed.wait(), 5)
    assert flow.flow.error is FlowRefused
    assert device_of(world).state.counters["udp_unreachable"] >= 1


async def test_a_port_that_comes_back_to_life(world: World) -> None:
    """The datagram after an ICMP error is not lost to the error of the one before."""
    first = Upstream(socket.AF_INET)
    first.socket.close()
    flow = device_of(world).open_udp(NODE, first.port)
    flow.send(b"lost")
    await asyncio.wait_for(flow.failed.wait(), 5)
    second = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    second.bind(("127.0.0.1", first.port))
    second.settimeout(5)
    flow.send(b"found")
    assert await asyncio.to_thread(second.recv, 100) == b"found"
    second.close()


async def test_a_forbidden_address_is_told_by_icmp(world: World) -> None:
    flow = device_of(world).open_udp("192.168.1.1", 53)
    flow.send(b"question")
    await asyncio.wait_for(flow.failed.wait(), 5)
    assert flow.flow.error is FlowProhibited
    state = device_of(world).state
    assert state.counters["refused_not_allowed"] == 1
    assert next(iter(state.refusals.values())).message.startswith("nothing permits it")
    await nothing_left(world)


@pytest.mark.parametrize(("error", "told"), [(DialUnreachable, FlowUnreachable), (DialForbidden, FlowProhibited)])
async def test_without_a_way_there_is_an_icmp_error(
    world: World, error: type[DialUnreachable], told: type[FlowUnreachable]
) -> None:
    world.driver.errors[NODE] = error
    flow = device_of(world).open_udp(NODE, 5000)
    flow.send(b"x")
    await asyncio.wait_for(flow.failed.wait(), 5)
    assert flow.flow.error is told
    await nothing_left(world)


async def test_the_gateways_closed_ports_say_port_unreachable(world: World) -> None:
    flow = device_of(world).open_udp("10.90.0.1", 9999)
    flow.send(b"x")
    await asyncio.wait_for(flow.failed.wait(), 5)
    assert flow.flow.error is FlowRefused
    assert device_of(world).state.counters["refused_no_service"] == 1


async def test_idle_flows_end_and_traffic_keeps_them(world: World, upstream: Upstream) -> None:
    flow = device_of(world).open_udp(NODE, upstream.port)
    flow.send(b"one")
    _, source = await upstream.receive()
    world.elapse(299)
    await asyncio.sleep(0.05)
    assert len(world.bridge.flows) == 1
    upstream.socket.sendto(b"answer", source)
    await flow.receive()
    world.elapse(299)
    await asyncio.sleep(0.05)
    assert len(world.bridge.flows) == 1, "an answer counts as life"
    world.elapse(2)
    await nothing_left(world)
    assert device_of(world).state.counters["udp_idle"] == 1


async def test_dns_flows_end_sooner(world: World) -> None:
    flow = device_of(world).open_udp(NODE, 53)
    flow.send(b"x")
    await world.until(lambda: len(world.bridge.flows) == 1)
    world.elapse(31)
    await nothing_left(world)


async def test_the_cap_replaces_the_oldest_flow(upstream: Upstream) -> None:
    async with running(make_device(2), config=BridgeConfig(max_udp_flows_per_device=3)) as world:
        device = device_of(world)
        flows = [device.open_udp(NODE, upstream.port) for _ in range(4)]
        sources = []
        for flow in flows[:3]:
            flow.send(b"x")
            sources.append((await upstream.receive())[1])
        flows[0].send(b"again")
        assert (await upstream.receive())[1] == sources[0]
        flows[3].send(b"one more")
        await upstream.receive()
        assert device.state.udp_flows == 3
        assert device.state.counters["udp_flow_replaced"] == 1
        flows[0].send(b"still the same")
        assert (await upstream.receive())[1] == sources[0], "the one used last longest ago went, not this one"


async def test_bursts_in_both_directions(world: World, upstream: Upstream) -> None:
    flow = device_of(world).open_udp(NODE, upstream.port)
    upstream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sent = [number.to_bytes(4, "big") for number in range(200)]
    flow.send(*sent)
    received = [await upstream.receive() for _ in sent]
    assert [datagram for datagram, _ in received] == sent
    for datagram in sent:
        upstream.socket.sendto(datagram, received[0][1])
    assert [await flow.receive() for _ in sent] == sent


async def test_served_udp_ports(world: World, upstream: Upstream) -> None:
    world.bridge.set_served([ServedPort(protocol="udp", port=5683, target=(LOOPBACK[4], upstream.port))], world.now())
    flow = device_of(world).open_udp("10.90.0.1", 5683)
    flow.send(b"coap")
    received, source = await upstream.receive()
    assert received == b"coap"
    upstream.socket.sendto(b"ack", source)
    assert await flow.receive() == b"ack"
    world.bridge.set_served([], world.now())
    await nothing_left(world)


@pytest.mark.parametrize(("protocol", "port"), [("tcp", 53), ("udp", 53), ("udp", 123), ("tcp", 80)])
async def test_serve_does_not_take_the_gateways_own_ports(world: World, protocol: str, port: int) -> None:
    entry = ServedPort(protocol=protocol, port=port, target=(LOOPBACK[4], 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose another one"):
        world.bridge.set_served([entry], world.now())
    assert not world.bridge.gateway.served


# Echo.


async def test_the_gateway_answers_for_itself(world: World) -> None:
    device = device_of(world)
    for gateway in ("10.90.0.1", "fd7a:115c:a1e0:9909::1"):
        device.ping(gateway, payload=b"hello")
        reply = await asyncio.wait_for(device.echo_replies.get(), 5)
        assert reply.payload == b"hello"


async def test_a_forbidden_address_is_not_pinged(world: World) -> None:
    device = device_of(world)
    device.ping("192.168.1.1")
    await world.until(lambda: world.stack.counters["icmp_errors_sent"] == 1)
    assert device.state.counters["refused_not_allowed"] == 1
    assert device.echo_replies.empty()
    await nothing_left(world)


async def test_where_ping_sockets_are_not_permitted_there_is_silence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a faked reply."""

    def refuse(destination: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(icmp, "open_ping_socket", refuse)
    device = device_of(world)
    device.ping(NODE)
    await world.until(lambda: device.state.counters["echo_not_permitted"] == 1)
    await asyncio.sleep(0.05)
    assert device.echo_replies.empty()
    assert world.stack.counters["icmp_errors_sent"] == 0
    status = world.bridge.status()
    assert not status["ping_sockets"]
    assert "ping_group_range" in status["ping_advice"]
    await nothing_left(world)
