"""Flows from the tailnet to devices: answered only after the device, refused in time, ended when not permitted."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import pytest

from lopower.bridge.config import BridgeConfig
from lopower.devices.exposures import Exposure, parse_sources
from lopower.netstack.errors import FlowReset
from lopower.tailnet.tsnet_inbound import InboundRequest
from lopower.wire.proxy_protocol import Transport
from tests.support.bridge_devices import make_device
from tests.support.bridge_world import TestDevice, World, running

KITCHEN, HALL = make_device(2, name="kitchen"), make_device(3, name="hall")
PEER = "100.64.0.7"
PEER6 = "fd7a:115c:a1e0::7"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with running(KITCHEN, HALL) as made:
        made.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all")], made.now())
        yield made


class PeerFlow:
    """The sidecar's end of a flow from the tailnet."""

    def __init__(
        self,
        world: World,
        port: int,
        *,
        transport: Transport = "tcp",
        source: str = PEER,
        destination: str = "100.64.0.3",
        node: str = "proxy",
        user: str = "",
        tags: tuple[str, ...] = (),
    ) -> None:
        self.stream, ours = socket.socketpair()
        self.stream.setblocking(False)
        ours.setblocking(False)
        self.loop = asyncio.get_running_loop()
        world.bridge.inbound_opened(
            InboundRequest(
                node=node,
                transport=transport,
                source=ip_address(source),
                source_port=40_000 + port % 1000,
                destination=ip_address(destination),
                destination_port=port,
                name="phone",
                user=user,
                tags=tags,
                stream=ours,
            )
        )

    async def answer(self) -> bytes:
        """The one byte."""
        return await self.read(1)

    async def read(self, size: int = 65_536) -> bytes:
        """What comes next; empty at the end."""
        return await asyncio.wait_for(self.loop.sock_recv(self.stream, size), 10)

    async def read_all(self) -> bytes:
        """Everything up to the end."""
        parts = []
        while part := await self.read():
            parts.append(part)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """Write all of it."""
        await asyncio.wait_for(self.loop.sock_sendall(self.stream, data), 10)

    async def __aenter__(self) -> PeerFlow:
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.stream.close()


def device(world: World, number: int = 0) -> TestDevice:
    return world.devices[number]


async def quiet(flow: PeerFlow) -> None:
    """Nothing is answered yet."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flow.loop.sock_recv(flow.stream, 1), 0.1)


@pytest.mark.parametrize(("source", "version"), [(PEER, 4), (PEER6, 6)])
async def test_a_connection_reaches_the_device_from_the_peers_own_address(
    world: World, source: str, version: int
) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80, source=source) as flow:
        assert await flow.answer() == b"\x00"
        stream = await device(world).accepted.get()
        assert stream.connection.remote == (ip_address(source).packed, 40_080)
        assert stream.connection.local == (device(world).address(version), 80)
        await flow.write(b"question")
        flow.stream.shutdown(socket.SHUT_WR)
        assert await stream.read_all() == b"question"
        await stream.write(b"answer")
        stream.finish()
        assert await flow.read_all() == b"answer"
    await world.until(lambda: not len(world.bridge.flows))


async def test_large_transfers_both_ways(world: World) -> None:
    device(world).listening.add(80)
    data = bytes(range(256)) * 8192
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x00"
        stream = await device(world).accepted.get()

        async def send() -> None:
            await flow.write(data)
            flow.stream.shutdown(socket.SHUT_WR)

        async def send_back() -> None:
            await stream.write(data)
            stream.finish()

        _, _, up, down = await asyncio.gather(send(), send_back(), stream.read_all(), flow.read_all())
        assert hashlib.sha256(up).digest() == hashlib.sha256(down).digest() == hashlib.sha256(data).digest()


async def test_the_peer_is_answered_after_the_device_and_not_before(world: World) -> None:
    device(world).down.loss = 1.0
    device(world).listening.add(80)
    async with PeerFlow(world, 80) as flow:
        await quiet(flow)
        device(world).down.loss = 0.0
        assert await flow.answer() == b"\x00"


async def test_a_port_that_the_device_refuses_is_refused(world: World) -> None:
    async with PeerFlow(world, 81) as flow:
        assert await flow.answer() == b"\x01"
        assert await flow.read() == b""
    assert device(world).state.counters["inbound_dial_refused"] == 1
    assert not len(world.bridge.flows)
    assert device(world).state.dials == device(world).state.tcp_flows == 0


async def test_a_silent_device_is_refused_in_time(world: World) -> None:
    device(world).down.loss = 1.0
    async with PeerFlow(world, 80) as flow:
        await quiet(flow)
        world.elapse(world.bridge.config.inbound_timeout)
        assert await flow.answer() == b"\x01"
    await world.until(lambda: not len(world.bridge.flows))


@pytest.mark.parametrize(("contact", "seconds"), [(None, 5.0), (True, 9.0)])
async def test_a_device_that_must_be_woken_gets_five_seconds(contact: bool | None, seconds: float) -> None:
    async with running(KITCHEN, contact=lambda _peer, _now: contact) as world:
        world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all")], world.now())
        device(world).down.loss = 1.0
        async with PeerFlow(world, 80) as flow:
            world.elapse(seconds - 0.5)
            await quiet(flow)
            world.elapse(0.6)
            assert await flow.answer() == b"\x01"


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_a_device_that_cannot_be_woken_is_refused_at_once(transport: Transport) -> None:
    async with running(KITCHEN, contact=lambda _peer, _now: False) as world:
        world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all")], world.now())
        async with PeerFlow(world, 80, transport=transport) as flow:
            assert await flow.answer() == b"\x01"
        assert world.bridge.flows.counters["inbound_device_off"] == 1


async def test_a_peer_that_gives_up_ends_the_attempt(world: World) -> None:
    device(world).down.loss = 1.0
    async with PeerFlow(world, 80) as flow:
        await quiet(flow)
    await world.until(lambda: not len(world.bridge.flows))
    assert device(world).state.counters["inbound_cancelled"] == 1


async def test_a_reset_by_the_peer_resets_the_device(world: World) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x00"
        stream = await device(world).accepted.get()
        await flow.write(b"x")
        assert await stream.read() == b"x"
    with pytest.raises(FlowReset):
        await stream.read()


async def test_a_reset_by_the_device_resets_the_peer(world: World) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x00"
        stream = await device(world).accepted.get()
        stream.abort()
        assert await flow.read() == b""
        with pytest.raises(BrokenPipeError):  # both directions at once: a reset
            await flow.write(b"x")


async def test_what_is_not_exposed_is_refused(world: World) -> None:
    world.bridge.set_exposures([], world.now())
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x01"
    assert world.bridge.flows.counters["inbound_not_exposed"] == 1


async def test_a_port_goes_before_the_rest_and_to_another_port(world: World) -> None:
    exposures = [
        Exposure(device_id=KITCHEN.id, kind="all"),
        Exposure(device_id=HALL.id, kind="port", port=8080, target_port=80),
        Exposure(device_id=HALL.id, kind="node", hostname="hall"),
    ]
    world.bridge.set_exposures(exposures, world.now())
    device(world, 1).listening.update({80, 22})
    device(world, 0).listening.add(80)
    for port, node, number in ((8080, "proxy", 1), (80, "proxy", 0), (22, "device-3", 1)):
        async with PeerFlow(world, port, node=node) as flow:
            assert await flow.answer() == b"\x00"
            await asyncio.wait_for(device(world, number).accepted.get(), 5)
    async with PeerFlow(world, 80, node="device-2") as flow:
        assert await flow.answer() == b"\x01"


async def test_https_is_ended_by_the_node_and_goes_to_port_80(world: World) -> None:
    exposure = Exposure(device_id=KITCHEN.id, kind="https", port=443, target_port=80)
    world.bridge.set_exposures([exposure], world.now())
    device(world).listening.add(80)
    async with PeerFlow(world, 443) as flow:
        assert await flow.answer() == b"\x02"
        await flow.write(b"GET / HTTP/1.1")
        stream = await device(world).accepted.get()
        assert await stream.read() == b"GET / HTTP/1.1"
    async with PeerFlow(world, 443, transport="udp") as flow:
        assert await flow.answer() == b"\x01"


@pytest.mark.parametrize(
    ("destination", "version"),
    [("10.90.0.3", 4), ("fd7a:115c:a1e0:9909::3", 6), ("fd7a:115c:a1e0:b1a:0:7:a5a:3", 4)],
)
async def test_an_address_behind_a_route_is_that_device(world: World, destination: str, version: int) -> None:
    device(world, 1).listening.add(80)
    assert device(world, 1).address(4) == ip_address("10.90.0.3").packed
    source = PEER if "." in destination else PEER6
    async with PeerFlow(world, 80, destination=destination, source=source) as flow:
        assert await flow.answer() == b"\x00"
        stream = await device(world, 1).accepted.get()
        assert len(stream.connection.local[0]) == (4 if version == 4 else 16)


@pytest.mark.parametrize(
    ("who", "permitted"),
    [
        ({"user": "ada@example.org"}, True),
        ({"tags": ("tag:phone",)}, True),
        ({"source": "100.64.9.1"}, True),
        ({"user": "eve@example.org"}, False),
        ({}, False),
    ],
)
async def test_who_may_connect(world: World, who: dict[str, Any], permitted: bool) -> None:
    sources = parse_sources(["ada@example.org", "tag:phone", "100.64.9.0/24"])
    world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all", sources=sources)], world.now())
    device(world).listening.add(80)
    async with PeerFlow(world, 80, **who) as flow:
        assert await flow.answer() == (b"\x00" if permitted else b"\x01")
    assert world.bridge.flows.counters["inbound_not_permitted"] == (not permitted)


@pytest.mark.parametrize(
    ("port", "user", "permitted"),
    [(80, "ada@example.org", True), (80, "eve@example.org", False), (22, "eve@example.org", True)],
)
async def test_who_may_connect_holds_for_routes_too(world: World, port: int, user: str, permitted: bool) -> None:
    sources = parse_sources(["ada@example.org"])
    exposure = Exposure(device_id=KITCHEN.id, kind="port", port=8080, target_port=80, sources=sources)
    world.bridge.set_exposures([exposure], world.now())
    device(world).listening.update({80, 22})
    async with PeerFlow(world, port, destination="10.90.0.2", user=user) as flow:
        assert await flow.answer() == (b"\x00" if permitted else b"\x01")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
async def test_flows_end_when_they_are_not_permitted_any_more(world: World, transport: Transport) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80, transport=transport) as flow:
        assert await flow.answer() == b"\x00"
        world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all")], world.now())
        assert len(world.bridge.flows) == 1
        sources = parse_sources(["tag:phone"])
        world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all", sources=sources)], world.now())
        assert await flow.read() == b""
        assert not len(world.bridge.flows)


async def test_datagrams_both_ways(world: World) -> None:
    device(world).listening.add(5683)
    async with PeerFlow(world, 5683, transport="udp") as flow:
        assert await flow.answer() == b"\x00"
        await flow.write(b"\x00\x01a\x00\x00\x00\x02bc")
        datagrams = await asyncio.wait_for(device(world).datagrams.get(), 5)
        assert [await datagrams.receive() for _ in range(3)] == [b"a", b"", b"bc"]
        datagrams.send(b"x", b"yz")
        assert await flow.read() == b"\x00\x01x\x00\x02yz"
    await world.until(lambda: not len(world.bridge.flows))


async def test_a_udp_port_that_the_device_refuses_is_told(world: World) -> None:
    async with PeerFlow(world, 9, transport="udp") as flow:
        assert await flow.answer() == b"\x00"
        await flow.write(b"\x00\x01a")
        assert await flow.read() == b"\xff\xff\x05"


async def test_a_device_that_is_removed_is_reached_no_longer(world: World) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x00"
        world.bridge.remove_peer(device(world).peer, world.now())
        assert await flow.read() == b""
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x01"


async def test_rules_of_devices_are_not_about_who_comes_to_them(world: World) -> None:
    device(world).listening.add(80)
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x00"
        world.bridge.set_rules([], world.now())
        assert len(world.bridge.flows) == 1


async def test_nothing_is_accepted_while_the_daemon_ends(world: World) -> None:
    await world.bridge.close(0)
    async with PeerFlow(world, 80) as flow:
        assert await flow.answer() == b"\x01"


async def test_only_so_many_bulk_flows_hold_much_in_the_kernel() -> None:
    """A device faster than the tailnet: its streams to the sidecar grow, up to the limit; their end gives it back."""
    size = 3 << 20
    async with running(KITCHEN, config=BridgeConfig(max_large_streams=1)) as world:
        world.bridge.set_exposures([Exposure(device_id=KITCHEN.id, kind="all")], world.now())
        kitchen = device(world)
        kitchen.listening.add(80)
        flows = world.bridge.flows
        async with PeerFlow(world, 80) as first, PeerFlow(world, 80, source="100.64.0.8") as second:
            for flow in (first, second):
                assert await flow.answer() == b"\x00"
                sending = asyncio.create_task((await kitchen.accepted.get()).write(bytes(size)))
                received = 0
                while received < size:
                    received += len(await flow.read())
                await asyncio.wait_for(sending, 10)
                assert flows.large_streams == 1
        await world.until(lambda: flows.large_streams == 0 and not len(flows))
