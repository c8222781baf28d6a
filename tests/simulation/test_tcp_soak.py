"""Random peers on random links: every combination ends with equal bytes and nothing left."""

from __future__ import annotations

import random

import pytest

from lopower.netstack.tcp.config import TcpConfig
from tests.support.tcp_pair import Host, Link, Network, Sink, Source


def random_host(name: str, seed: int, generator: random.Random) -> Host:
    """A host with some window and MTU; the client may offer no options."""
    window = generator.choice([2000, 5744, 65535, 1 << 18])
    config = TcpConfig(
        receive_buffer=window * generator.choice([1, 4]),
        receive_buffer_initial=window,
        user_timeout=20_000.0,
        close_timeout=20_000.0,
        syn_received_timeout=600.0,
        connect_timeout=600.0,
    )
    mtu = generator.choice([1420, 1280, 1400])
    host = Host(name, seed=seed, config=config, fast=generator.random() < 0.8, mtu=mtu)
    host.strips_options = name == "client" and generator.random() < 0.4
    return host


def random_network(seed: int, generator: random.Random) -> Network:
    """Both directions of the link are alike, and lose, reorder, duplicate, delay and limit."""
    hosts = [random_host(name, seed, generator) for name in ("client", "server")]
    loss, reorder = generator.choice([0.0, 0.005, 0.02, 0.1]), generator.choice([0.0, 0.02, 0.3])
    duplicate, delay = generator.choice([0.0, 0.02, 0.2]), generator.choice([0.0005, 0.005, 0.05, 0.3])
    rate = generator.choice([0.0, 0.0, 1e5, 1e6])
    links = [
        Link(seed=seed + offset, loss=loss, reorder=reorder, duplicate=duplicate, delay=delay, rate=rate)
        for offset in (0, 1000)
    ]
    (client, server), (up, down) = hosts, links
    return Network(client, server, up, down, version=generator.choice([4, 6]))


@pytest.mark.parametrize("seed", range(80))
def test_random_peers_on_random_links(seed: int) -> None:
    generator = random.Random(seed)
    network = random_network(seed, generator)
    client = network.connect()
    accepted = network.server.accepted
    assert network.run(600, lambda: bool(accepted) and accepted[-1].state.name == "ESTABLISHED")
    server = accepted[-1]
    up, down = (generator.randbytes(generator.choice([0, 100, 50_000, 300_000])) for _ in range(2))
    limit = generator.choice([1 << 40, 1 << 40, 3000])
    Source(network.client, client, up)
    Source(network.server, server, down)
    at_server = Sink(network.server, server, shutdown=False, limit=limit)
    at_client = Sink(network.client, client, shutdown=False, limit=limit)
    assert network.run(100_000, lambda: client.is_closed and server.is_closed)
    while client.received_bytes or server.received_bytes:
        network.turn()  # what arrived before the end is still there to be read
    assert bytes(at_server.data) == up
    assert bytes(at_client.data) == down
    assert client.error is server.error is None
    network.run(400)
    network.client.assert_clean()
    network.server.assert_clean()
