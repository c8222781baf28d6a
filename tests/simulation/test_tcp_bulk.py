"""Bulk transfers through bad links: whatever happens to packets, the bytes are equal and nothing is left behind."""

from __future__ import annotations

import random

import pytest

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import Connection
from tests.support.tcp_pair import Host, Link, Network, Segment, Sink, Source

PATIENT = TcpConfig(user_timeout=3600.0)


class PlainHost(Host):
    """A peer like lwIP: no SACK, no time stamps, no window scaling, a window of 5,744 bytes and an MSS of 1,380."""

    def __init__(self, name: str, *, seed: int = 1, window: int = 5744) -> None:
        config = TcpConfig(receive_buffer=window, receive_buffer_initial=window, user_timeout=3600.0)
        super().__init__(name, seed=seed, config=config)
        self.strips_options = True


def transfer(network: Network, up: int, down: int, seconds: float = 3000.0) -> tuple[Connection, Connection]:
    """Send `up` and `down` bytes at the same time, close both ways, and check everything."""
    client, server = network.establish()
    generator = random.Random(5)
    data_up, data_down = generator.randbytes(up), generator.randbytes(down)
    Source(network.client, client, data_up)
    Source(network.server, server, data_down)
    at_server = Sink(network.server, server, shutdown=False)
    at_client = Sink(network.client, client, shutdown=False)
    assert network.run(seconds, lambda: client.is_closed and server.is_closed), (client, server)
    assert bytes(at_server.data) == data_up
    assert bytes(at_client.data) == data_down
    assert client.error is server.error is None
    network.run(300)
    network.client.assert_clean()
    network.server.assert_clean()
    return client, server


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize(("up", "down"), [(400_000, 0), (0, 400_000), (200_000, 200_000)])
def test_bulk_with_loss_reordering_and_duplication(version: int, loss: float, up: int, down: int) -> None:
    disorder = 0.05 if loss else 0.0
    network = Network(
        Host("client", config=PATIENT),
        Host("server", config=PATIENT),
        Link(seed=31, loss=loss, reorder=disorder, duplicate=disorder),
        Link(seed=32, loss=loss, reorder=disorder, duplicate=disorder),
        version=version,
    )
    transfer(network, up, down)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
@pytest.mark.parametrize(("up", "down"), [(100_000, 0), (0, 100_000)])
def test_bulk_with_a_small_plain_peer(version: int, loss: float, up: int, down: int) -> None:
    disorder = 0.02 if loss else 0.0
    network = Network(
        PlainHost("client"),
        Host("server", config=PATIENT),
        Link(seed=41, loss=loss, reorder=disorder, duplicate=disorder),
        Link(seed=42, loss=loss, reorder=disorder, duplicate=disorder),
        version=version,
    )
    client, _ = transfer(network, up, down)
    assert not client.sender.sack
    assert not client.sender.timestamps
    assert client.sender.mss == (1380 if version == 4 else 1360)


@pytest.mark.parametrize("seed", range(10))
def test_one_percent_loss_at_100_ms_needs_no_retransmission_timeout(seed: int) -> None:
    network = Network(up=Link(seed=seed, delay=0.05), down=Link(seed=seed + 100, delay=0.05, loss=0.01))
    began = network.now
    transfer(network, 0, 1_000_000)
    counters = network.server.counters
    assert counters["tcp_fast_recoveries"] >= 1
    assert counters["tcp_retransmission_timeouts"] <= 1
    assert network.now - began < 400


@pytest.mark.parametrize("seed", range(10))
def test_one_percent_loss_without_sack_rarely_needs_a_timeout(seed: int) -> None:
    network = Network(
        PlainHost("client", window=65535),
        up=Link(seed=seed, delay=0.05),
        down=Link(seed=seed + 200, delay=0.05, loss=0.01),
    )
    transfer(network, 0, 500_000)
    assert network.server.counters["tcp_retransmission_timeouts"] <= 2


def test_lost_tail_is_repaired_by_a_probe() -> None:
    network = Network()
    client, server = network.establish()
    sink = Sink(network.client, client)
    Source(network.server, server, bytes(20_000), shutdown=False)
    network.run(5, lambda: len(sink.data) == 20_000)
    words = [bytes(1368), bytes(1368), b"last words"]
    lost: list[Segment] = []

    def drop(segment: Segment) -> bool:
        if segment.payload == words[-1] and not lost:
            lost.append(segment)
            return True
        return False

    network.down.drop = drop
    server.send(b"".join(words), network.now)
    began = network.now
    assert network.run(5, lambda: len(sink.data) == 20_000 + 2 * 1368 + 10)
    assert network.now - began < 0.3
    assert network.server.counters["tcp_loss_probes"] == 1
    assert network.server.counters["tcp_retransmission_timeouts"] == 0


def test_a_bottleneck_is_filled_and_not_flooded() -> None:
    network = Network(up=Link(seed=1, delay=0.02), down=Link(seed=2, delay=0.02, rate=1e6, queue=0.1))
    client, server = network.establish()
    began = network.now
    sink = Sink(network.client, client)
    Source(network.server, server, bytes(5_000_000))
    assert network.run(60, lambda: sink.finished)
    assert network.now - began < 1.3 * 5.0 * 1420 / 1368
    assert network.down.dropped < len(network.down.log) * 0.02
    assert network.server.counters["tcp_retransmission_timeouts"] == 0


def test_bulk_takes_the_fast_path_both_ways() -> None:
    network = Network()
    transfer(network, 3_000_000, 3_000_000)
    for host in (network.client, network.server):
        assert host.fast_segments > 50 * host.slow_segments


def test_fast_and_general_path_alone_give_equal_transfers() -> None:
    for fast in (True, False):
        network = Network(
            Host("client", fast=fast), Host("server", fast=fast), Link(seed=7, loss=0.02), Link(seed=8, loss=0.02)
        )
        transfer(network, 200_000, 200_000)
