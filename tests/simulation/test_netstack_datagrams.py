"""UDP and fragments between two whole stacks over bad links: whole or not at all, bounded, and nothing left behind."""

from __future__ import annotations

import random

import pytest

from lopower.netstack.config import StackConfig, UdpConfig
from lopower.netstack.events import EchoReplyReceived, UdpFlowOpened
from lopower.netstack.fragments import MAX_BYTES_PER_PEER, MAX_PACKETS_PER_PEER
from tests.support.netstack_pair import StackPair
from tests.support.netstack_world import (
    DEVICE,
    GATEWAY,
    SERVER,
    VERSIONS,
    World,
    fragment,
    fragments_of,
    icmp_error,
    udp,
)

versions = pytest.mark.parametrize("version", VERSIONS)


@versions
@pytest.mark.parametrize(("loss", "mixed"), [(0.0, 0.0), (0.0, 0.3), (0.01, 0.05), (0.05, 0.2)])
def test_datagrams_arrive_whole_or_not_at_all(version: int, loss: float, mixed: float) -> None:
    """Sizes up to 65,507 bytes each way, over links that lose, repeat and reorder fragments."""
    pair = StackPair(seed=7, loss=loss, duplication=mixed, reordering=mixed)
    source = random.Random(version)
    flow = pair.device.udp.open("gateway", (DEVICE[version], 0), (SERVER[version], 9), pair.now)
    sizes = [0, 1, 1391, 1392, 1393, 2800, 9000, 65_507] * 4
    sent = [source.randbytes(size) for size in sizes]
    arrived: list[bytes] = []
    returned: list[bytes] = []
    for payload in sent:
        flow.send([payload], pair.now)
        for _ in range(2):
            pair.flush()
            pair.deliver()
            pair.gateway.take_events()
            for other in pair.gateway.take_dirty():
                received = [bytes(memoryview(data)) for data in other.received]
                arrived.extend(received)
                other.send(received, pair.now)  # type: ignore[arg-type]
            pair.device.take_dirty()
            returned.extend(bytes(memoryview(data)) for data in flow.received)
        pair.now += 0.01
    whole = set(sent)
    assert set(arrived) <= whole
    assert set(returned) <= whole
    if not loss:
        assert set(arrived) == set(returned) == whole
        assert mixed or (arrived == sent and returned == sent)
    else:
        assert len(set(arrived)) > len(whole) // 3
    pair.advance(400)
    assert len(pair.gateway.udp) == len(pair.device.udp) == 0
    assert pair.gateway.next_timer() is None
    assert pair.device.next_timer() is None


@versions
def test_ping_of_the_gateway_with_every_size(version: int) -> None:
    pair = StackPair()
    sizes = [0, 1, 56, 1392, 1393, 5000, 65_400]
    for sequence, size in enumerate(sizes):
        payload = bytes(size)
        pair.device.send_echo_request("gateway", DEVICE[version], GATEWAY[version], 7, sequence, payload, pair.now)
        for _ in range(2):
            pair.flush()
            pair.deliver()
        (event,) = pair.device.take_events()
        assert event == EchoReplyReceived("gateway", GATEWAY[version], DEVICE[version], 7, sequence, payload, 64)


@versions
def test_fragment_flood_leaves_others_alone(version: int) -> None:
    """A device floods with fragments of every shape; another one's large datagrams pass, memory stays bounded."""
    world = World()
    source = random.Random(3)
    payload = source.randbytes(20_000)
    arrived = 0
    for turn in range(40):
        flood = [
            (
                "flooder",
                fragment(
                    version,
                    bytes(8 * source.randrange(1, 100)),
                    8 * source.randrange(8000),
                    source.random() < 0.9,
                    identification=source.randrange(1 << 16),
                ),
            )
            for _ in range(40)
        ]
        good = [("good", part) for part in fragments_of(udp(version, payload), 1352, identification=turn)]
        mixed = flood + good
        source.shuffle(mixed)
        world.receive_batch(mixed)
        for flow in world.dirty():
            assert flow.peer == "good"
            arrived += len([data for data in flow.received if bytes(memoryview(data)) == payload])
        world.sent()
        world.now += 0.1
    assert arrived == 40
    assert world.counters["fragment_limit"] > 1000
    assert world.stack.reassembly.held_bytes < MAX_BYTES_PER_PEER
    assert len(world.stack.reassembly) <= MAX_PACKETS_PER_PEER
    world.advance(61)
    world.sent()
    assert world.stack.reassembly.held_bytes == 0


@versions
def test_flow_flood_and_one_good_client(version: int) -> None:
    """A device that sends to every port reaches its own cap; another one's flows are not touched."""
    world = World(StackConfig(udp=UdpConfig(max_flows_per_peer=100)))
    for port in range(1, 10_001):
        world.receive(udp(version, b"scan", port=port), peer="scanner")
        if port % 100 == 0:
            world.sent()
    world.receive(udp(version, b"hello"), peer="good")
    opened = [event.flow for event in world.events() if isinstance(event, UdpFlowOpened)]
    assert [flow.peer for flow in opened].count("scanner") == 100
    assert opened[-1].peer == "good"
    opened[-1].send([b"answer"], world.now)
    assert len(world.sent("good")) == 1
    assert world.counters["udp_flow_limit"] == 9_900


@versions
def test_churn_leaves_nothing_behind(version: int) -> None:
    """Twenty thousand short flows: no flow, timer or byte is left."""
    pair = StackPair(config=StackConfig(udp=UdpConfig(max_flows_per_peer=1000)))
    answered = 0
    for _ in range(200):
        flows = [
            pair.device.udp.open("gateway", (DEVICE[version], 0), (SERVER[version], 53), pair.now) for _ in range(100)
        ]
        for flow in flows:
            flow.send([b"question"], pair.now)
        pair.flush()
        pair.deliver()
        for event in pair.gateway.take_events():
            assert isinstance(event, UdpFlowOpened)
            event.flow.send([b"answer"], pair.now)
            event.flow.close()
        pair.gateway.take_dirty()
        pair.flush()
        pair.deliver()
        pair.device.take_dirty()
        for flow in flows:
            answered += len(flow.received)
            flow.close()
        pair.flush()
        pair.now += 1.0
    assert answered == 20_000
    assert len(pair.gateway.udp) == len(pair.device.udp) == 0
    assert pair.gateway.next_timer() is None
    assert pair.device.next_timer() is None


@versions
def test_silent_flows_time_out_by_themselves(version: int) -> None:
    pair = StackPair()
    for port in range(500):
        flow = pair.device.udp.open("gateway", (DEVICE[version], 0), (SERVER[version], 1000 + port), pair.now)
        flow.send([b""], pair.now)
        pair.now += 0.1
    pair.flush()
    pair.deliver()
    assert len(pair.gateway.take_events()) == 500
    pair.gateway.take_dirty()
    pair.flush()
    pair.advance(200)
    assert len(pair.gateway.udp) == 500
    pair.advance(101)
    assert len(pair.gateway.udp) == len(pair.device.udp) == 0
    assert len(pair.gateway.take_dirty()) == 500


@versions
def test_path_mtu_of_1280_and_a_forged_too_big(version: int) -> None:
    pair = StackPair()
    flow = pair.device.udp.open("gateway", (DEVICE[version], 0), (SERVER[version], 9), pair.now)
    flow.send([b"open"], pair.now)
    pair.flush()
    pair.deliver()
    (event,) = pair.gateway.take_events()
    assert isinstance(event, UdpFlowOpened)
    event.flow.send([bytes(1300)], pair.now)
    before = pair.carried
    pair.flush()
    assert pair.carried - before == 1
    forged = udp(version, bytes(1300), source=SERVER[version], destination=DEVICE[version], port=1, source_port=9)
    honest = udp(
        version, bytes(64), source=SERVER[version], destination=DEVICE[version], port=flow.local[1], source_port=9
    )
    kind, code = (3, 4) if version == 4 else (2, 0)
    for quoted, packets in ((forged, 1), (honest, 2)):
        pair.gateway.receive_packet("device", icmp_error(version, kind, code, 1280, quoted), pair.now)
        event.flow.send([bytes(1300)], pair.now)
        before = pair.carried
        pair.flush()
        assert pair.carried - before == packets
