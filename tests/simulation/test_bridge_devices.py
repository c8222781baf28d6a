"""Devices to each other: both see real addresses, and policy decides who may begin."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
from collections.abc import AsyncIterator

import pytest

from lopower.netstack.errors import FlowRefused, FlowReset, FlowUnreachable
from lopower.netstack.events import EchoRequested
from tests.support.bridge_devices import GATEWAY, make_device
from tests.support.bridge_world import TestDevice, World, running

CELLAR = {4: "10.90.0.3", 6: "fd7a:115c:a1e0:9909::3"}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    kitchen = make_device(2, name="kitchen", rules=("device:cellar",))
    async with running(kitchen, make_device(3, name="cellar")) as made:
        yield made


def pair(world: World) -> tuple[TestDevice, TestDevice]:
    return world.devices[0], world.devices[1]


async def nothing_left(world: World) -> None:
    await world.until(lambda: not len(world.bridge.flows) and not world.stack.tcp.connection_count)
    for device in world.devices:
        state = device.state
        assert (state.tcp_flows, state.udp_flows, state.dials) == (0, 0, 0)
        assert not state.flows


@pytest.mark.parametrize("version", [4, 6])
async def test_a_connection_between_devices(world: World, version: int) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(1883)
    stream = await kitchen.connect(CELLAR[version], 1883)
    other = await asyncio.wait_for(cellar.accepted.get(), 5)
    assert other.connection.remote == (kitchen.address(version), stream.connection.local[1]), (
        "the real address and port"
    )
    up, down = random.Random(1).randbytes(2_000_000), random.Random(2).randbytes(2_000_000)

    async def send(sender: object, data: bytes) -> None:
        await sender.write(data)  # type: ignore[attr-defined]
        sender.finish()  # type: ignore[attr-defined]

    tasks = [asyncio.create_task(send(stream, up)), asyncio.create_task(send(other, down))]
    received = await asyncio.gather(stream.read_all(), other.read_all())
    await asyncio.gather(*tasks)
    assert hashlib.sha256(received[0]).digest() == hashlib.sha256(down).digest()
    assert hashlib.sha256(received[1]).digest() == hashlib.sha256(up).digest()
    await nothing_left(world)


async def test_half_close_between_devices(world: World) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(80)
    stream = await kitchen.connect(CELLAR[4], 80)
    other = await cellar.accepted.get()
    await stream.write(b"request")
    stream.finish()
    assert await other.read_all() == b"request"
    await other.write(b"answer")
    other.finish()
    assert await stream.read_all() == b"answer"
    await nothing_left(world)


async def test_the_other_devices_closed_port_is_refused(world: World) -> None:
    kitchen, _ = pair(world)
    with pytest.raises(FlowRefused):
        await kitchen.connect(CELLAR[4], 81)
    assert kitchen.state.counters["dial_refused"] == 1
    await nothing_left(world)


async def test_a_rst_passes_on(world: World) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(80)
    stream = await kitchen.connect(CELLAR[4], 80)
    other = await cellar.accepted.get()
    other.abort()
    with pytest.raises(FlowReset):
        await stream.read_all()
    await nothing_left(world)


async def test_without_a_rule_there_is_no_way_back(world: World) -> None:
    kitchen, cellar = pair(world)
    kitchen.listening.add(80)
    with pytest.raises((FlowUnreachable, FlowRefused)):
        await cellar.connect("10.90.0.2", 80)
    assert cellar.state.counters["refused_device_to_device"] == 1


async def test_a_device_that_is_off_times_out(world: World) -> None:
    kitchen, cellar = pair(world)
    world._output.wires.pop(cellar.peer)
    stream = kitchen.dial(CELLAR[4], 80)
    await world.until(lambda: len(world.bridge.flows) == 1)
    world.bridge.handle_timer(world.now() + world.bridge.config.dial_timeout)
    world.wake()
    with pytest.raises(FlowRefused):
        await stream.established()
    assert kitchen.state.counters["dial_timed_out"] == 1
    await nothing_left(world)


@pytest.mark.parametrize("version", [4, 6])
async def test_datagrams_between_devices(world: World, version: int) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(5683)
    flow = kitchen.open_udp(CELLAR[version], 5683)
    flow.send(b"one", b"two")
    other = await asyncio.wait_for(cellar.datagrams.get(), 5)
    assert [await other.receive(), await other.receive()] == [b"one", b"two"]
    assert other.flow.remote == flow.flow.local
    other.send(b"answer")
    assert await flow.receive() == b"answer"
    world.elapse(301)
    await nothing_left(world)


async def test_the_other_devices_dead_port(world: World) -> None:
    kitchen, _ = pair(world)
    flow = kitchen.open_udp(CELLAR[4], 5683)
    flow.send(b"one")
    await asyncio.wait_for(flow.failed.wait(), 5)
    assert flow.flow.error is FlowRefused


@pytest.mark.parametrize("version", [4, 6])
async def test_ping_between_devices(world: World, version: int) -> None:
    kitchen, _ = pair(world)
    kitchen.ping(CELLAR[version], identifier=77, sequence=5, payload=b"abc" * 100)
    reply = await asyncio.wait_for(kitchen.echo_replies.get(), 5)
    assert (reply.identifier, reply.sequence, reply.payload) == (77, 5, b"abc" * 100)


async def test_an_echo_reply_that_nobody_asked_for_goes_nowhere(world: World) -> None:
    kitchen, cellar = pair(world)
    kitchen.ping(CELLAR[4], sequence=1)
    await asyncio.wait_for(kitchen.echo_replies.get(), 5)
    request = EchoRequested(cellar.proxy, kitchen.address(4), cellar.address(4), 7, 1, b"", 64)
    for sequence in (1, 2):
        unasked = dataclasses.replace(request, sequence=sequence)
        cellar.stack.send_echo_reply(unasked, b"unasked", world.now())
    world.wake()
    await asyncio.sleep(0.05)
    assert kitchen.echo_replies.empty()


async def test_only_the_device_that_was_asked_may_answer(world: World) -> None:
    kitchen, cellar = pair(world)
    thief = world.add(make_device(4, name="thief"))
    world._output.wires.pop(cellar.peer)
    kitchen.ping(CELLAR[4], sequence=1)
    await asyncio.sleep(0.05)
    request = EchoRequested(thief.proxy, kitchen.address(4), cellar.address(4), 7, 1, b"", 64)
    thief.stack.send_echo_reply(request, b"forged", world.now())
    world.wake()
    await asyncio.sleep(0.05)
    assert kitchen.echo_replies.empty()


@pytest.mark.parametrize("version", [4, 6])
async def test_the_gateway_pings_a_device(world: World, version: int) -> None:
    kitchen, _ = pair(world)
    gateway = next(address.packed for address in GATEWAY if address.version == version)
    seconds = await world.bridge.pings.ping(kitchen.peer, gateway, kitchen.address(version), 5)
    assert seconds is not None
    assert 0 <= seconds < 5
    world._output.wires.pop(kitchen.peer)
    assert await world.bridge.pings.ping(kitchen.peer, gateway, kitchen.address(version), 0.05) is None


async def test_a_rule_that_goes_ends_the_flow(world: World) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(80)
    stream = await kitchen.connect(CELLAR[4], 80)
    await cellar.accepted.get()
    kitchen.state.device = make_device(2, name="kitchen")
    world.bridge.device_changed(kitchen.peer, world.now())
    with pytest.raises(FlowReset):
        await stream.read()
    await nothing_left(world)


async def test_a_device_that_goes_ends_the_others_flows_to_it(world: World) -> None:
    kitchen, cellar = pair(world)
    cellar.listening.add(80)
    stream = await kitchen.connect(CELLAR[4], 80)
    await cellar.accepted.get()
    world.bridge.remove_peer(cellar.peer, world.now())
    world.wake()
    with pytest.raises(FlowReset):
        await stream.read()
    await nothing_left(world)
