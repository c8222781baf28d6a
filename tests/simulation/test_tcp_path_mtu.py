"""Path MTU discovery that does not believe everything (RFC 1191, 8201, 5927)."""

from __future__ import annotations

import random

import pytest

from tests.support.tcp_pair import PEER, Host, Link, Network, Segment, Sink, Source
from tests.support.tcp_raw import PLAIN, RawClient


@pytest.mark.parametrize("version", [4, 6])
def test_path_of_1280_in_the_middle_of_a_transfer(version: int) -> None:
    network = Network(up=Link(seed=1), down=Link(seed=2), version=version)
    client, server = network.establish()
    server_layer = network.server.layer
    narrow = False

    def drop(segment: Segment) -> bool:
        if not narrow or len(segment.packet) <= 1280:
            return False
        server_layer.icmp_error(PEER, segment.packet[:48], "too_big", 1280, network.now)
        return True

    network.down.drop = drop
    data = random.Random(6).randbytes(600_000)
    Source(network.server, server, data)
    sink = Sink(network.client, client)
    network.run(10, lambda: len(sink.data) > 100_000)
    narrow = True
    assert network.run(60, lambda: sink.finished)
    assert bytes(sink.data) == data
    assert server.sender.mss <= 1280 - 52
    assert network.server.counters["tcp_path_mtu_reduced"] == 1
    network.run(61)
    network.server.assert_clean()
    network.client.assert_clean()


@pytest.mark.parametrize("version", [4, 6])
def test_forged_too_big_is_ignored_and_the_floor_holds(version: int) -> None:
    raw = RawClient(Host("host"), version=version)
    connection = raw.open(PLAIN)
    mss = connection.sender.mss
    layer = raw.host.layer
    connection.send(bytes(5000), raw.now)
    segment, *_ = raw.answers()
    header = 20 if version == 4 else 40
    forged = bytearray(segment.packet[: header + 8])
    forged[header + 4 : header + 8] = (segment.header.sequence + 10_000_000 & 0xFFFFFFFF).to_bytes(4, "big")
    layer.icmp_error(PEER, bytes(forged), "too_big", 600, raw.now)
    assert connection.sender.mss == mss
    assert raw.host.counters["icmp_not_in_flight"] == 1
    other_port = bytearray(segment.packet[: header + 8])
    other_port[header] ^= 1
    layer.icmp_error(PEER, bytes(other_port), "too_big", 600, raw.now)
    layer.icmp_error(PEER, segment.packet[:10], "too_big", 600, raw.now)
    layer.icmp_error(PEER, b"", "too_big", 600, raw.now)
    assert connection.sender.mss == mss
    layer.icmp_error(PEER, segment.packet[: header + 8], "too_big", 68, raw.now)
    floor = 576 if version == 4 else 1280
    assert connection.sender.mss == (floor - header - 20) & ~3
    layer.icmp_error(PEER, segment.packet[: header + 8], "too_big", 1400, raw.now)
    assert connection.sender.mss == (floor - header - 20) & ~3
