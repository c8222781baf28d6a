"""Backpressure: slow readers, closed windows, lost window updates, silly windows."""

from __future__ import annotations

import random

import pytest

from lopower.netstack.errors import FlowTimedOut
from lopower.netstack.tcp.config import TcpConfig
from lopower.wire.tcp import ACK, TcpOptions
from tests.support.tcp_pair import Host, Link, Network, Segment, Sink, Source
from tests.support.tcp_raw import MODERN, PLAIN, RawClient

SMALL = TcpConfig(receive_buffer=64 << 10, receive_buffer_initial=64 << 10)


@pytest.mark.parametrize("version", [4, 6])
def test_slow_reader_keeps_memory_flat(version: int) -> None:
    network = Network(server=Host("server", config=SMALL), version=version)
    client, server = network.establish()
    data = random.Random(1).randbytes(1_000_000)
    Source(network.client, client, data)
    sink = Sink(network.server, server, limit=1000)
    peak = 0
    for _ in range(100_000):
        network.run(0.01)
        peak = max(peak, network.server.layer.budget.used)
        assert server.received_bytes <= 64 << 10
        if sink.finished:
            break
    assert bytes(sink.data) == data
    assert 0 < peak <= (64 << 10) + 2 * 1368


def test_window_never_shrinks_and_reading_opens_it() -> None:
    raw = RawClient(Host("host", config=SMALL))
    raw.sequence = 1000
    connection = raw.open(PLAIN)
    edge = raw.sequence + 65535
    while edge - raw.sequence >= 1380:
        for answer in raw.send(ACK, bytes(1380)):
            assert answer.header.acknowledgment + answer.header.window >= edge
    raw.send(ACK, bytes(edge - raw.sequence))
    (closed,) = raw.sleep(0.1) or raw.send(ACK, b"", sequence=raw.sequence - 1)
    assert closed.header.window == 0
    connection.consume(1000, raw.now)
    assert raw.answers() == []  # less than a segment: a silly window
    connection.consume(20_000, raw.now)
    (update,) = raw.answers()
    assert update.header.window == 21_000


def test_data_into_a_closed_window_is_refused_and_its_ack_taken() -> None:
    raw = RawClient(Host("host", config=SMALL))
    connection = raw.open(PLAIN)
    while connection.received_bytes < 65535:
        raw.send(ACK, bytes(min(1380, 65535 - connection.received_bytes)))
    connection.send(b"x", raw.now)
    raw.answers()
    (answer,) = raw.send(ACK, b"probe", sequence=raw.sequence, acknowledgment=raw.acknowledgment + 1)
    assert (answer.header.window, answer.header.acknowledgment) == (0, raw.sequence & 0xFFFFFFFF)
    assert connection.received_bytes == 65535
    assert connection.unacknowledged_bytes == 0


def test_zero_window_for_five_minutes_then_all_arrives() -> None:
    network = Network(client=Host("client", config=SMALL))
    client, server = network.establish()
    data = random.Random(2).randbytes(300_000)
    Source(network.server, server, data)
    network.run(300)
    assert server.error is None
    assert 64 << 10 <= client.received_bytes <= (64 << 10) + 512 + 127
    probes = [segment for segment in network.down.log if segment.at > network.now - 240 and not segment.payload]
    assert 3 <= len(probes) <= 20
    sink = Sink(network.client, client)
    assert network.run(120, lambda: sink.finished)
    assert bytes(sink.data) == data


def test_lost_window_update_is_found_by_the_probe() -> None:
    network = Network(client=Host("client", config=SMALL))
    client, server = network.establish()
    data = random.Random(3).randbytes(200_000)
    Source(network.server, server, data)
    network.run(10)
    lost: list[Segment] = []
    network.up.drop = lambda segment: len(lost) < 1 and not lost.append(segment)  # type: ignore[func-returns-value]
    sink = Sink(network.client, client)
    assert network.run(120, lambda: sink.finished)
    assert len(lost) == 1
    assert bytes(sink.data) == data


def test_close_with_a_megabyte_queued_and_a_closed_window_still_ends() -> None:
    network = Network(client=Host("client", config=SMALL))
    client, server = network.establish()
    source = Source(network.server, server, bytes(64 << 10) + bytes(100_000), shutdown=False)
    network.run(5)
    assert source.position > 64 << 10
    assert client.received_bytes >= 64 << 10
    server.close(network.now)
    network.server.applications.clear()
    network.run(59)
    assert not server.is_closed
    network.run(70)
    assert server.is_closed
    assert server.error is FlowTimedOut
    assert network.server.layer.budget.used == 0


def test_a_window_smaller_than_a_segment_is_used_after_a_while_only() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open(PLAIN)
    raw.send(ACK, window=100)
    connection.send(bytes(1000), raw.now)
    assert raw.answers() == []
    (segment, *_) = raw.sleep(2.0)
    assert len(segment.payload) == 100


def test_half_of_the_largest_window_is_used_at_once() -> None:
    host = Host("host")
    raw = RawClient(host, window=1000)
    (syn_ack,) = raw.send(2, options=PLAIN)
    raw.acknowledgment = syn_ack.header.sequence + 1 & 0xFFFFFFFF
    raw.send(ACK)
    raw.connection.send(bytes(3000), raw.now)
    (segment,) = raw.answers()
    assert len(segment.payload) == 1000


def test_sender_never_exceeds_the_peers_window() -> None:
    host = Host("host")
    raw = RawClient(host, window=5744)
    connection = raw.open(PLAIN)
    connection.send(bytes(50_000), raw.now)
    sent = sum(len(segment.payload) for segment in raw.answers())
    assert sent == 4 * 1380


def test_received_single_bytes_that_nobody_reads_are_few_objects() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    for _ in range(5000):
        raw.send(ACK, b"x")
    assert connection.received_bytes == 5000
    assert len(connection.received) <= 4
    connection.consume(4999, raw.now)
    assert b"".join(connection.received) == b"x"


def test_memory_budget_bounds_all_flows_together() -> None:
    config = TcpConfig(memory_budget=1 << 20)
    host = Host("host", config=config)
    held = 0
    for port in range(40000, 40040):
        raw = RawClient(host, port=port, window=60000)
        (syn_ack,) = raw.send(2, options=MODERN)
        raw.acknowledgment, raw.timestamps = syn_ack.header.sequence + 1 & 0xFFFFFFFF, True
        raw.send(ACK)
        connection = host.accepted[-1]
        while slots := connection.send_slots():
            connection.commit(sum(map(len, slots)), raw.now)
        for _ in range(60):
            raw.send(ACK, bytes(1368))
        held += connection.received_bytes
    assert held < 1 << 20
    # Beyond the budget each flow keeps its smallest chunk, so that none starves, and what was promised before.
    assert host.layer.budget.used < (1 << 20) + 40 * (8 * 1424) + (64 << 10)


def test_single_bytes_do_not_creep_past_the_window() -> None:
    raw = RawClient(Host("host", config=TcpConfig(receive_buffer=1000, receive_buffer_initial=1000)))
    connection = raw.open()
    for _ in range(10_000):
        raw.send(ACK, b"x", sequence=raw.sequence + connection.received_bytes)
    assert connection.received_bytes <= 1000 + 512 + 127


def test_options_do_not_change_the_segment_size_mid_flow() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    connection.send(bytes(3000), raw.now)
    assert [len(segment.payload) for segment in raw.answers()] == [1368, 1368, 264]
    assert raw.send(ACK, options=TcpOptions(timestamp=raw.timestamp)) == []


@pytest.mark.parametrize(("delay", "rate", "grows"), [(0.05, 0.0, True), (0.0005, 10e6, False), (0.0, 0.0, True)])
def test_the_window_grows_only_while_it_is_what_holds_the_flow_up(delay: float, rate: float, grows: bool) -> None:
    """Behind a long path, or with a fast peer near by; not where it would be a queue in front of a slow link."""
    network = Network(up=Link(delay=delay, rate=rate, queue=10.0), down=Link(seed=22, delay=delay))
    client, server = network.establish()
    Source(network.client, client, bytes(6_000_000))
    sink = Sink(network.server, server)
    for _ in range(200):
        network.run(0.1)
        if sink.finished:
            break
    assert sink.finished
    assert (server.receiver.limit > TcpConfig().receive_buffer_initial) is grows
