"""Who could exhaust what, and that it is bounded: SYN floods, churn, idle flows, hostile data and SACK blocks."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from lopower.netstack.errors import FlowTimedOut, LimitReached
from lopower.netstack.tcp import recovery, time_wait
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.reassembly import MAX_BLOCKS, MAX_PIECES
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, RST, SYN, TcpOptions
from tests.support.tcp_pair import CLIENT4, PEER, SERVER4, Host, Link, Network, Sink, Source, parse_ip
from tests.support.tcp_raw import MODERN, PLAIN, RawClient


def test_syn_flood_of_ten_thousand_and_one_good_client() -> None:
    host = Host("host")
    pending: list[Connection] = []
    host.on_syn = lambda connection, now: pending.append(connection)
    for number in range(10_000):
        packet = SegmentBuilder(CLIENT4, SERVER4, 1024 + number, 80).build(number, 0, SYN, 1000)
        host.layer.receive_packet("attacker", packet, parse_ip(packet), 1000.0)
    host.turn(1000.0)
    assert len(pending) == host.layer.half_open_count == TcpConfig().max_half_open_per_peer
    assert host.counters["tcp_syn_dropped_limit"] == 10_000 - len(pending)
    host.on_syn = host.accept
    raw = RawClient(host, now=1000.0)
    (syn_ack,) = raw.send(SYN, options=MODERN)
    assert syn_ack.flags == SYN | ACK
    host.accepted[0].abort(1000.0)
    raw.sleep(76.0)
    assert all(connection.error is FlowTimedOut for connection in pending)
    host.assert_clean()


def test_half_open_flows_of_all_peers_are_limited() -> None:
    host = Host("host", config=TcpConfig(max_half_open=10))
    for number in range(20):
        packet = SegmentBuilder(CLIENT4, SERVER4, 1024 + number, 80).build(number, 0, SYN, 1000)
        host.layer.receive_packet(f"peer {number}", packet, parse_ip(packet), 1000.0)
    assert host.layer.half_open_count == 10


def test_syn_received_expires_after_repeated_syn_acks() -> None:
    raw = RawClient(Host("host"))
    raw.send(SYN, options=MODERN)
    answers = raw.sleep(59.0)
    assert [segment.flags for segment in answers] == [SYN | ACK] * 5  # at 1, 3, 7, 15 and 31 seconds
    (reset,) = raw.sleep(2.0)
    assert reset.flags == RST | ACK
    raw.host.assert_clean()


def test_flows_of_a_peer_are_limited() -> None:
    network = Network(server=Host("server", config=TcpConfig(max_connections_per_peer=5)))
    for _ in range(5):
        network.establish()
    extra = network.connect()
    network.run(5)
    assert extra.state.name == "SYN_SENT"
    assert network.server.counters["tcp_syn_dropped_limit"] >= 1
    network.server.accepted[0].abort(network.now)
    network.run(10)
    assert extra.state.name == "ESTABLISHED"


def test_active_opens_are_limited() -> None:
    host = Host("host", config=TcpConfig(max_half_open_per_peer=3))
    for _ in range(3):
        host.layer.connect(PEER, (SERVER4, 0), (CLIENT4, 80), 1000.0)
    with pytest.raises(LimitReached):
        host.layer.connect(PEER, (SERVER4, 0), (CLIENT4, 80), 1000.0)


def test_churn_of_100_connections_a_second_leaves_nothing() -> None:
    network = Network(config_host("client"), config_host("server"))
    for number in range(1000):
        client = network.connect()
        Source(network.client, client, b"ping")
        network.run(0.01)
        for server in network.server.accepted:
            sink = Sink(network.server, server)
            if number % 3 == 0:
                sink.limit = 0
        network.server.accepted.clear()
        if number % 50 == 0:
            client.abort(network.now)
        if number % 25 == 0:
            prune(network)
    for connection in [*network.client.layer.connections(), *network.server.layer.connections()]:
        if not connection.is_closed and connection.received_bytes:
            connection.abort(network.now)
    network.run(30)
    for connection in [*network.client.layer.connections(), *network.server.layer.connections()]:
        connection.abort(network.now)
    network.run(70)
    network.client.assert_clean()
    network.server.assert_clean()


def config_host(name: str) -> Host:
    """With a short TIME-WAIT."""
    return Host(name, config=TcpConfig(time_wait=5.0))


def prune(network: Network) -> None:
    """Forget the applications of closed flows."""
    for host in (network.client, network.server):
        host.applications = [app for app in host.applications if not app.connection.is_closed]  # type: ignore[attr-defined]


def test_time_wait_table_is_bounded() -> None:
    host = Host("host")
    for number in range(200):
        RawClient(host, port=2000 + number).in_state(TcpState.TIME_WAIT)
    assert host.layer.record_count == 200
    records = time_wait.Records()
    for number in range(time_wait.MAX_RECORDS + 10):
        removed = records.add(time_wait.Refused(PEER, b"", float(number), 0))
        assert (removed is None) == (number < time_wait.MAX_RECORDS)
    assert len(records) == time_wait.MAX_RECORDS


def test_ten_thousand_idle_flows_are_cheap() -> None:
    host = Host("host", config=TcpConfig(max_connections_per_peer=20_000))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(1000):
            raw = RawClient(host, port=2000 + number)
            raw.send(SYN, options=MODERN)
            connection = host.accepted.pop()
            raw.acknowledgment = connection.sender.iss + 1 & 0xFFFFFFFF
            raw.timestamps = True
            raw.send(ACK, b"hello")
            connection.consume(5, raw.now)
            connection.send(b"world", raw.now)
            raw.answers()
            raw.acknowledgment = raw.acknowledgment + 5 & 0xFFFFFFFF
            raw.send(ACK)
            assert connection.unacknowledged_bytes == 0
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert host.layer.budget.used == 0
    assert (after - before) / 1000 < 8_000  # bytes for each flow


def test_out_of_order_data_is_bounded_in_bytes_and_segments() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    for number in range(3 * MAX_BLOCKS):
        raw.send(ACK, b"x", sequence=raw.sequence + 2 + 2 * number)
    assert len(connection.receiver.reassembly) == MAX_BLOCKS
    assert raw.host.counters["tcp_out_of_order_dropped"] == 2 * MAX_BLOCKS
    assert connection.receiver.reassembly.piece_count <= MAX_PIECES
    raw.send(ACK, bytes(1368), sequence=raw.sequence + 10_000_000)
    assert raw.host.counters["tcp_out_of_window"] == 1
    raw.send(ACK, bytes(1000))
    assert connection.received_bytes == 1000
    assert raw.host.layer.budget.used <= 1000


def test_hostile_sack_blocks_cut_what_is_in_flight_into_a_bounded_number_of_pieces() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    connection.sender.cubic.cwnd = 1 << 20
    connection.send(bytes(50_000), raw.now)
    raw.answers()
    for number in range(3000):
        left = raw.acknowledgment + 10 + 4 * number
        blocks = ((left & 0xFFFFFFFF, left + 1 & 0xFFFFFFFF),)
        options = TcpOptions(timestamp=raw.timestamp, timestamp_echo=raw.echo, sack_blocks=blocks)
        raw.send(ACK, options=options)
    assert len(connection.sender.board.flights) <= recovery.MAX_FLIGHTS + 2
    raw.send(ACK, acknowledgment=raw.acknowledgment + 50_000)
    assert connection.unacknowledged_bytes == 0


def test_random_ports_are_not_predictable_and_not_taken_twice() -> None:
    host = Host("host", config=TcpConfig(max_half_open_per_peer=10_000))
    flows = [host.layer.connect(PEER, (SERVER4, 0), (CLIENT4, 80), 1000.0) for _ in range(300)]
    ports = [flow.local[1] for flow in flows]
    assert len(set(ports)) == 300
    assert all(port >= 49152 for port in ports)
    steps = {b - a for a, b in itertools.pairwise(ports)}
    assert len(steps) > 250


def test_initial_sequence_numbers_differ_by_flow_and_grow_with_time() -> None:
    host = Host("host")
    first = RawClient(host, port=1).in_state(TcpState.SYN_RECEIVED)
    second = RawClient(host, port=2).in_state(TcpState.SYN_RECEIVED)
    assert first.sender.iss != second.sender.iss
    draw = host.layer.isn.draw
    assert draw(b"flow", 10.0)[0] - draw(b"flow", 9.0)[0] & 0xFFFFFFFF == 250_000
    assert draw(b"flow", 10.0)[1] == draw(b"flow", 9.0)[1]
    assert Host("other").layer.isn.draw(b"flow", 10.0) != draw(b"flow", 10.0)


def test_accept_timeout_ends_a_flow_that_nobody_decides_about() -> None:
    host = Host("host")
    host.on_syn = lambda connection, now: None
    raw = RawClient(host)
    raw.send(SYN, options=PLAIN)
    connection = raw.connection
    raw.sleep(74.9)
    assert not connection.is_closed
    raw.sleep(0.2)
    assert connection.error is FlowTimedOut
    host.assert_clean()


def test_slow_devices_hold_little_and_take_nothing_from_a_fast_one() -> None:
    """Small windows, or none at all: what waits for them is bounded for each, whatever their owners would send."""
    budget = TcpConfig().memory_budget
    network = Network(server=Host("server"))
    slow = []
    for _ in range(40):
        client, server = network.establish()
        Source(network.server, server, bytes(8 << 20))  # and nobody reads what arrives at `client`
        slow.append((client, server))
    network.run(5)
    for client, server in slow:
        assert client.received_bytes <= TcpConfig().receive_buffer
        assert server.unacknowledged_bytes <= TcpConfig().send_buffer
    layer = network.server.layer
    assert layer.budget.used <= len(slow) * (TcpConfig().read_ahead + 45 * 1500)
    assert layer.budget.used < budget // 8
    client, server = network.establish()
    data = bytes(4 << 20)
    Source(network.server, server, data)
    sink = Sink(network.client, client)
    assert network.run(60, lambda: sink.finished)
    assert len(sink.data) == len(data)


def test_senders_together_stay_within_their_part_of_the_budget() -> None:
    """Fast devices far away: each alone would have more on its way than all together may."""
    config = TcpConfig(memory_budget=16 << 20)
    network = Network(server=Host("server", config=config), up=Link(delay=0.2), down=Link(delay=0.2))
    data = bytes(3 << 20)
    sinks, most = [], 0

    def watch(now: float) -> None:
        nonlocal most
        most = max(most, network.server.layer.budget.used)

    network.server.applications.append(watch)
    for _ in range(6):
        client, server = network.establish()
        Source(network.server, server, data)
        sinks.append(Sink(network.client, client))
    assert network.run(600, lambda: all(sink.finished for sink in sinks))
    assert all(len(sink.data) == len(data) for sink in sinks)
    part = config.memory_budget // 8
    assert part // 2 < most < part * 3 // 2  # chunks count as a whole, and each may take one that is not full
    network.run(1)
    assert network.server.layer.budget.used == 0
