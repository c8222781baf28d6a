"""UDP flows: opening, batches, sizes, fragments out, path MTU, ICMP errors both ways, idle timeouts, caps."""

from __future__ import annotations

import pytest

from lopower.netstack.config import StackConfig, UdpConfig
from lopower.netstack.errors import FlowProhibited, FlowRefused, FlowUnreachable, LimitReached
from lopower.netstack.events import UdpFlowOpened
from lopower.wire.icmp import UnreachableKind
from tests.support.netstack_world import (
    DEVICE,
    GATEWAY,
    PEER,
    SERVER,
    VERSIONS,
    World,
    fragment_field,
    icmp_error,
    read,
    reassemble,
    udp,
)

versions = pytest.mark.parametrize("version", VERSIONS)


@versions
def test_first_datagram_opens_a_flow_and_replies_come_back(version: int) -> None:
    world = World()
    world.receive(udp(version, b"question"))
    (event,) = world.events()
    assert isinstance(event, UdpFlowOpened)
    flow = event.flow
    assert flow.local == (SERVER[version], 2000)
    assert flow.remote == (DEVICE[version], 1000)
    assert [bytes(payload) for payload in flow.received] == [b"question"]
    assert world.dirty() == [flow]
    flow.send([b"answer", b""], world.now)
    first, second = map(read, world.sent())
    assert (first.src, first.dst) == (SERVER[version], DEVICE[version])
    assert (first.data.sport, first.data.dport, first.data.data) == (2000, 1000, b"answer")
    assert second.data.data == b""


@versions
def test_received_is_taken_back_by_flush(version: int) -> None:
    world = World()
    flow = world.open_flow(version)
    assert flow.received
    world.sent()
    assert not flow.received
    world.receive(udp(version, b"again"))
    assert world.events() == []
    assert world.dirty() == [flow]
    assert [bytes(payload) for payload in flow.received] == [b"again"]


@versions
def test_a_run_of_datagrams_is_one_event_to_its_flow(version: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    world.receive_batch((PEER, udp(version, bytes(size))) for size in (5, 100, 100, 0, 1300))
    assert world.dirty() == [flow]
    assert [len(memoryview(payload)) for payload in flow.received] == [5, 100, 100, 0, 1300]


@versions
def test_datagrams_of_one_batch_open_one_flow(version: int) -> None:
    world = World()
    world.receive_batch((PEER, udp(version, bytes((i,)))) for i in range(6))
    (event,) = world.events()
    assert isinstance(event, UdpFlowOpened)
    assert [bytes(payload) for payload in event.flow.received] == [bytes((i,)) for i in range(6)]


@pytest.mark.parametrize(("version", "size"), [(4, 65_507), (6, 65_507), (6, 65_527)])
def test_largest_datagrams_leave_in_fragments_of_the_mtu(version: int, size: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    payload = bytes(range(256)) * 256
    flow.send([payload[:size]], world.now)
    packets = world.sent()
    assert all(len(packet) <= 1420 for packet in packets)
    whole = reassemble(packets)
    assert whole[8:] == payload[:size]
    header = (20 if version == 4 else 40, 17)
    assert len(whole) == 8 + size, header
    pseudo = SERVER[version] + DEVICE[version] + len(whole).to_bytes(4, "big") + bytes((0, 0, 0, 17))
    words = (pseudo + whole + bytes(len(whole) & 1)).hex()
    total = sum(int(words[i : i + 4], 16) for i in range(0, len(words), 4))
    assert total % 0xFFFF == 0


@pytest.mark.parametrize(("version", "size"), [(4, 65_508), (6, 65_528)])
def test_what_fits_no_packet_is_dropped_and_counted(version: int, size: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([bytes(size), b"fits"], world.now)
    assert len(world.sent()) == 1
    assert world.counters["udp_too_long"] == 1


@versions
@pytest.mark.parametrize("size", [*range(9), 1391, 1392, 1393, 4095, 4096, 4097])
def test_checksums_for_every_size(version: int, size: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([bytes(i * 7 & 0xFF for i in range(size))], world.now)
    packets = world.sent()  # dpkt checks whole packets
    assert packets
    if fragment_field(packets[0]) is not None:
        assert len(reassemble(packets)) == size + 8


@versions
@pytest.mark.parametrize("size", [0, 1, 2, 3, 100, 255, 256, 257, 258, 1201, 1202, 1203, 1204])
def test_checksums_of_many_of_one_size(version: int, size: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    payloads = [bytes(i * j & 0xFF for i in range(size)) for j in range(12)]
    flow.send([memoryview(payload) for payload in payloads], world.now)
    assert [read(packet).data.data for packet in world.sent()] == payloads  # dpkt has checked their sums


@versions
def test_a_checksum_that_comes_to_zero_is_sent_as_ones(version: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([bytes(2)], world.now)
    checksum = read(world.sent()[0]).data.sum
    flow.send([checksum.to_bytes(2, "big")], world.now)
    assert read(world.sent()[0]).data.sum == 0xFFFF


@versions
def test_mtu_of_the_peer_bounds_whole_packets(version: int) -> None:
    world = World(StackConfig(mtu_for=lambda peer: 1280 if peer == PEER else 1420))
    flow = world.open_flow(version)
    world.sent()
    headers = 28 if version == 4 else 48
    flow.send([bytes(1280 - headers)], world.now)
    assert [len(packet) for packet in world.sent()] == [1280]
    flow.send([bytes(1281 - headers)], world.now)
    assert len(world.sent()) == 2


@pytest.mark.parametrize(("version", "kind", "code", "floor"), [(4, 3, 4, 576), (6, 2, 0, 1280)])
def test_path_mtu_for_udp(version: int, kind: int, code: int, floor: int) -> None:
    """Packet too big is honoured for the flow it quotes, down to the floor, and forgotten after ten minutes."""
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([bytes(1300)], world.now)
    (packet,) = world.sent()
    world.receive(icmp_error(version, kind, code, 1300, packet[:200]))
    flow.send([bytes(1300)], world.now)
    assert max(map(len, world.sent())) <= 1300
    world.receive(icmp_error(version, kind, code, 68, packet[:200]))
    flow.send([bytes(1300)], world.now)
    lengths = [len(packet) for packet in world.sent()]
    assert floor - 8 < max(lengths) <= floor
    for _ in range(10):
        world.advance(61)
        flow.send([b"keep"], world.now)
    world.sent()
    flow.send([bytes(1300)], world.now)
    assert len(world.sent()) == 1


def test_too_big_without_an_mtu_falls_to_the_next_plateau() -> None:
    """RFC 1191 section 7.1: a router that does not know the option sends zero."""
    world = World()
    flow = world.open_flow(4)
    world.sent()
    flow.send([bytes(1300)], world.now)
    (packet,) = world.sent()
    world.receive(icmp_error(4, 3, 4, 0, packet[:28]))
    flow.send([bytes(1300)], world.now)
    assert max(map(len, world.sent())) <= 1006


@versions
def test_a_forged_too_big_for_another_flow_changes_nothing(version: int) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([bytes(1300)], world.now)
    packet = bytearray(world.sent()[0])
    packet[21 if version == 4 else 41] ^= 1  # the source port quoted
    world.receive(icmp_error(version, 3 if version == 4 else 2, 4 if version == 4 else 0, 576, bytes(packet)))
    flow.send([bytes(1300)], world.now)
    assert len(world.sent()) == 1
    assert world.counters["icmp_for_no_flow"] == 1


@pytest.mark.parametrize(
    ("version", "kind", "expected"),
    [
        (4, "port", (3, 3)),
        (4, "host", (3, 1)),
        (4, "address", (3, 1)),
        (4, "prohibited", (3, 13)),
        (4, "no-route", (3, 0)),
        (6, "port", (1, 4)),
        (6, "host", (1, 3)),
        (6, "address", (1, 3)),
        (6, "prohibited", (1, 1)),
        (6, "no-route", (1, 0)),
    ],
)
def test_unreachable_quotes_the_datagram(version: int, kind: UnreachableKind, expected: tuple[int, int]) -> None:
    """A dead UDP port comes back as port unreachable from the address that was asked; the rest from the gateway."""
    world = World()
    packet = udp(version, b"anyone?" * 100)
    world.receive(packet)
    flow = world.dirty()[0]
    world.sent()
    world.stack.send_unreachable(PEER, flow, kind, world.now)  # type: ignore[arg-type]
    answer = read(world.sent()[0])
    assert (answer.data.type, answer.data.code) == expected
    assert answer.src == (SERVER if kind == "port" else GATEWAY)[version]
    assert answer.dst == DEVICE[version]
    quoted = bytes(answer.data)[8:]
    assert packet.startswith(quoted)
    assert len(quoted) >= (28 if version == 4 else 48)


@pytest.mark.parametrize(
    ("version", "kind", "code", "error"),
    [
        (4, 3, 3, FlowRefused),
        (4, 3, 1, FlowUnreachable),
        (4, 3, 13, FlowProhibited),
        (6, 1, 4, FlowRefused),
        (6, 1, 3, FlowUnreachable),
        (6, 1, 1, FlowProhibited),
    ],
)
def test_icmp_error_of_the_device_reaches_the_owner(version: int, kind: int, code: int, error: type) -> None:
    world = World()
    flow = world.open_flow(version)
    world.sent()
    flow.send([b"reply to a closed socket"], world.now)
    (packet,) = world.sent()
    world.receive(icmp_error(version, kind, code, 0, packet))
    assert world.dirty() == [flow]
    assert flow.error is error
    assert not flow.is_closed
    world.receive(udp(version, b"alive after all"))
    assert flow.error is None


@versions
@pytest.mark.parametrize(("port", "timeout"), [(2000, 300.0), (53, 30.0)])
def test_idle_timeout(version: int, port: int, timeout: float) -> None:
    """UDP idle timeout 5 min, DNS 30 s: before, at, after; traffic in either direction refreshes."""
    world = World()
    flow = world.open_flow(version, port=port)
    world.sent()
    assert world.stack.next_timer() == world.now + timeout
    world.advance(timeout - 1)
    flow.send([b"x"], world.now)
    world.advance(timeout - 1)
    world.receive(udp(version, b"y", port=port))
    world.dirty()
    world.sent()
    began = world.now
    world.advance(timeout - 0.001)
    assert not flow.is_closed
    world.advance(0.001)
    assert world.now - began == pytest.approx(timeout)
    assert flow.is_closed
    assert world.dirty() == [flow]
    assert len(world.stack.udp) == 0
    assert world.stack.next_timer() is None


def test_cap_per_peer_leaves_room_for_others() -> None:
    world = World(StackConfig(udp=UdpConfig(max_flows_per_peer=3, max_flows=5)))
    for port in range(1, 9):
        world.receive(udp(4, b"", port=port), peer="greedy")
    assert len(world.stack.udp) == 3
    assert world.counters["udp_flow_limit"] == 5
    for port in range(1, 9):
        world.receive(udp(4, b"", port=port), peer="other")
    assert len(world.stack.udp) == 5
    next(iter(world.stack.udp)).close()
    world.receive(udp(4, b"", port=99), peer="greedy")
    assert len(world.stack.udp) == 5


def test_open_towards_a_device() -> None:
    world = World()
    flow = world.stack.udp.open(PEER, (SERVER[4], 0), (DEVICE[4], 7), world.now)
    assert flow.local[1] >= 49152
    flow.send([b"hello"], world.now)
    (packet,) = world.sent()
    assert (read(packet).data.sport, read(packet).data.dport) == (flow.local[1], 7)
    world.receive(udp(4, b"hello yourself", port=flow.local[1], source_port=7))
    assert world.events() == []
    assert [bytes(payload) for payload in flow.received] == [b"hello yourself"]
    with pytest.raises(LimitReached):
        world.stack.udp.open(PEER, flow.local, flow.remote, world.now)


def test_open_beyond_the_cap_raises() -> None:
    world = World(StackConfig(udp=UdpConfig(max_flows_per_peer=1)))
    world.open_flow(4)
    with pytest.raises(LimitReached):
        world.stack.udp.open(PEER, (SERVER[4], 0), (DEVICE[4], 7), world.now)


@versions
def test_flows_of_different_peers_never_meet(version: int) -> None:
    """Upstream replies reach only the peer whose flow it is, even where two peers use the same addresses."""
    world = World()
    world.receive(udp(version, b"one"), peer="one")
    world.receive(udp(version, b"two"), peer="two")
    one, two = world.dirty()
    two.send([b"for two"], world.now)  # type: ignore[arg-type]
    assert one.peer == "one"
    world.stack.flush(world.now)
    assert [peer for peer, _ in world.output.packets] == ["two"]


def test_closed_flow_sends_nothing_and_the_next_datagram_opens_another() -> None:
    world = World()
    flow = world.open_flow(4)
    flow.close()
    flow.close()
    flow.send([b"late"], world.now)
    assert world.sent() == []
    assert world.counters["udp_sent_after_end"] == 1
    assert world.open_flow(4) is not flow


def test_events_of_a_forgotten_peer_are_never_told() -> None:
    world = World()
    world.receive(udp(4, b""), peer="gone")
    world.receive(udp(4, b""), peer="there")
    world.stack.forget_peer("gone", world.now)
    (event,) = world.events()
    assert isinstance(event, UdpFlowOpened)
    assert event.flow.peer == "there"


def test_forget_peer_ends_all_its_flows_and_tells_their_owner() -> None:
    world = World()
    flow = world.open_flow(4)
    flow.send([b"queued"], world.now)
    world.stack.forget_peer(PEER, world.now)
    assert flow.is_closed
    assert world.dirty() == [flow]
    assert world.sent() == []
    assert world.stack.next_timer() is None


@pytest.mark.parametrize(
    ("version", "spoil", "reason"),
    [
        (4, slice(24, 26), "udp_bad_length"),
        (6, slice(46, 48), "udp_no_checksum"),
        (4, slice(20, 22), "udp_port_zero"),
        (6, slice(42, 44), "udp_port_zero"),
    ],
)
def test_bad_datagrams_are_counted(version: int, spoil: slice, reason: str) -> None:
    """A UDP checksum of 0 over IPv6 is dropped, as are lengths that do not fit and port 0."""
    world = World()
    packet = bytearray(udp(version, b"payload"))
    packet[spoil] = bytes(2)
    world.receive(bytes(packet))
    world.receive_batch([(PEER, bytes(packet))] * 5)
    assert world.events() == []
    assert world.counters == {reason: 6}


def test_no_checksum_is_fine_over_ipv4_and_trailing_bytes_are_not_payload() -> None:
    world = World()
    packet = bytearray(udp(4, b"payload") + b"\0" * 9)
    packet[26:28] = bytes(2)
    world.receive(bytes(packet))
    (flow,) = world.dirty()
    assert [bytes(payload) for payload in flow.received] == [b"payload"]
