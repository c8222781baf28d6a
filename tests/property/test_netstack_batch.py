"""Batch path and packet path are one: the same packets give equal flows, events and answers either way."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.config import IcmpConfig, StackConfig, UdpConfig
from lopower.netstack.events import TcpSynReceived, UdpFlowOpened
from lopower.netstack.tcp.connection import Connection
from lopower.wire.ip import parse_header as parse_ip
from lopower.wire.tcp import parse_header as parse_tcp
from tests.support.netstack_world import (
    DEVICE,
    GATEWAY,
    SERVER,
    VERSIONS,
    World,
    echo,
    fragments_of,
    icmp_error,
    make_batch,
    tcp,
    udp,
)

ISS = 5000  # of the device's connections
PEERS = ("one", "two")


def opened_world() -> World:
    """Each peer has, over each IP version, one established connection (with time stamps over IPv6) and one UDP flow."""
    config = StackConfig(
        local_addresses=frozenset(GATEWAY.values()),
        udp=UdpConfig(max_flows_per_peer=6),
        icmp=IcmpConfig(errors_per_second=1.0, error_burst=3),
    )
    world = World(config)
    for peer in PEERS:
        for version in VERSIONS:
            stamps = bytes.fromhex("0101080a") + (10).to_bytes(4, "big") + bytes(4)
            options = b"\x02\x04\x05\x00" + (stamps if version == 6 else b"")
            world.receive(tcp(version, ISS, flags=2, options=options), udp(version, b"first"), peer=peer)
            for event in world.events():
                if isinstance(event, TcpSynReceived):
                    event.connection.accept(world.now)
            (packet,) = world.sent(peer)
            answer = parse_tcp(packet[parse_ip(packet).header_length :])
            world.receive(segment(version, 1, b"", answer.sequence + 1), peer=peer)
    world.dirty()
    world.sent()
    return world


def segment(
    version: int, offset: int, payload: bytes, acknowledgment: int, flags: int = 0x10, stamp: int = 20
) -> bytes:
    """A segment of a connection of `opened_world`, `offset` from its ISN."""
    options = bytes.fromhex("0101080a") + stamp.to_bytes(4, "big") + bytes(4) if version == 6 else b""
    return tcp(version, ISS + offset, payload, flags=flags, acknowledgment=acknowledgment, options=options)


def server_sequence(world: World, peer: str, version: int) -> int:
    for connection in world.stack.tcp.connections():
        if connection.peer == peer and connection.remote[0] == DEVICE[version]:
            return connection.sender.iss + 1
    raise AssertionError


versions = st.sampled_from(VERSIONS)
sizes = st.sampled_from([0, 1, 7, 100, 1300])


@st.composite
def streams(draw: st.DrawFn, world: World, peer: str) -> list[bytes]:
    """Segments in order, with what can go wrong now and then."""
    version = draw(versions)
    acknowledgment = server_sequence(world, peer, version)
    offset = draw(st.sampled_from([1, 1, 1, 1, 50]))
    stamp = draw(st.sampled_from([20, 20, 20, 5]))
    packets = []
    for _ in range(draw(st.integers(1, 10))):
        stamp = max(0, stamp + draw(st.sampled_from([0, 0, 0, 0, 1, 3, -2])))
        payload = bytes([draw(st.integers(0, 255))]) * draw(sizes)
        flags = draw(st.sampled_from([0x10, 0x10, 0x10, 0x10, 0x18, 0x18, 0x11, 0x14, 0x30]))
        packets.append(segment(version, offset, payload, acknowledgment, flags, stamp))
        offset += draw(st.sampled_from([len(payload)] * 6 + [0, len(payload) + 1]))
    return packets


@st.composite
def others(draw: st.DrawFn, world: World, peer: str) -> list[bytes]:
    """Anything else."""
    version = draw(versions)
    kind = draw(st.integers(0, 7))
    if kind <= 1:
        ports = draw(st.lists(st.sampled_from([2000, 2000, 2000, 2001, 53, 0]), min_size=1, max_size=6))
        return [udp(version, bytes(draw(sizes)), port=port) for port in ports]
    if kind == 2:
        return [echo(version, draw(st.sampled_from([GATEWAY, SERVER]))[version], reply=draw(st.booleans()))]
    if kind == 3:
        parts = fragments_of(udp(version, bytes(draw(sizes)) + b"fragments"), 16 if draw(st.booleans()) else 664)
        return draw(st.permutations(parts[:8]))
    if kind == 4:
        ours = udp(version, b"", source=SERVER[version], destination=DEVICE[version], port=1000, source_port=2000)
        return [icmp_error(version, draw(st.integers(1, 3)), draw(st.integers(0, 4)), 600, ours)]
    if kind == 5:
        return [
            tcp(
                version,
                draw(st.integers(0, 100)),
                flags=draw(st.sampled_from([2, 2, 4, 16])),
                port=draw(st.integers(80, 83)),
            )
        ]
    if kind == 6:
        packet = bytearray(draw(st.sampled_from(draw(streams(world, peer)))))
        packet[draw(st.integers(0, min(len(packet), 60) - 1))] = draw(st.integers(0, 255))
        return [bytes(packet)]
    return [draw(st.binary(min_size=1, max_size=60))]


def observed(world: World) -> dict[str, Any]:
    """All that an owner or the network can see."""
    events: list[Any] = []
    for event in world.events():
        if isinstance(event, TcpSynReceived):
            events.append(("syn", event.connection.peer, event.connection.local, event.connection.remote))
        elif isinstance(event, UdpFlowOpened):
            events.append(("udp", event.flow.peer, event.flow.local, event.flow.remote))
        else:
            events.append(dataclasses.astuple(event))
    dirty = {(type(flow).__name__, flow.peer, flow.local, flow.remote, flow.error) for flow in world.dirty()}
    flows = {(flow.peer, flow.key): [bytes(memoryview(data)) for data in flow.received] for flow in world.stack.udp}
    connections: dict[Any, Any] = {}
    for flow in world.stack.tcp.connections():
        assert isinstance(flow, Connection)
        data = b"".join(bytes(piece) for piece in flow.received)
        connections[flow.peer, flow.key] = (flow.state, data, flow.peer_closed, flow.receiver.rcv_nxt)
    sent = {peer: sorted(world_packet for whose, world_packet in flushed(world) if whose == peer) for peer in PEERS}
    return {
        "events": events,
        "dirty": dirty,
        "flows": flows,
        "connections": connections,
        "sent": sent,
        "counters": world.counters,
        "timer": world.stack.udp.next_timer(),
    }


def flushed(world: World) -> list[tuple[Any, bytes]]:
    world.stack.flush(world.now)
    return world.output.packets


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_batch_equals_packets(data: st.DataObject) -> None:
    by_batch, by_packet = opened_world(), opened_world()
    packets: list[tuple[str, bytes]] = []
    for _ in range(data.draw(st.integers(1, 8))):
        peer = data.draw(st.sampled_from(PEERS))
        group = data.draw(streams(by_batch, peer) if data.draw(st.integers(0, 3)) else others(by_batch, peer))
        packets.extend((peer, packet) for packet in group)
    packets = packets[:64]
    by_batch.stack.receive(make_batch(packets), by_batch.now)
    for peer, packet in packets:
        by_packet.receive(packet + bytes(-len(packet) % 16), peer=peer)
    expected, found = observed(by_packet), observed(by_batch)
    assert found == expected
