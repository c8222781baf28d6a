"""The end of flows: half-close in both orders, lost last words, resets, timeouts; and never anything left."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from lopower.netstack.errors import FlowAborted, FlowReset, FlowTimedOut
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, FIN, RST
from tests.support.tcp_pair import PEER, Host, Network, Segment, Sink, Source
from tests.support.tcp_raw import RawClient, state_of

VERSIONS = pytest.mark.parametrize("version", [4, 6])


@VERSIONS
@pytest.mark.parametrize("first", ["client", "server"])
def test_half_close_in_both_orders(version: int, first: str) -> None:
    network = Network(version=version)
    client, server = network.establish()
    sides = [(network.client, client), (network.server, server)]
    (early_host, early), (late_host, late) = sides if first == "client" else sides[::-1]
    data = random.Random(4).randbytes(200_000)
    sink_late = Sink(late_host, late, shutdown=False)
    Source(early_host, early, b"request")
    network.run(1, lambda: sink_late.finished)
    network.run(1)
    assert state_of(early) is TcpState.FIN_WAIT_2
    assert state_of(late) is TcpState.CLOSE_WAIT
    network.run(3000)  # a half-closed flow that is still read lives on keepalives
    assert state_of(early) is TcpState.FIN_WAIT_2
    sink_early = Sink(early_host, early, shutdown=False)
    Source(late_host, late, data)
    network.run(10, lambda: late.is_closed and early.is_closed)
    assert bytes(sink_early.data) == data
    assert early.error is late.error is None
    network.run(61)
    network.client.assert_clean()
    network.server.assert_clean()


def dropping(count: int, matches: Callable[[Segment], bool]) -> Callable[[Segment], bool]:
    """A filter that drops the first `count` segments that match."""
    seen: list[Segment] = []

    def drop(segment: Segment) -> bool:
        if matches(segment) and len(seen) < count:
            seen.append(segment)
            return True
        return False

    return drop


@VERSIONS
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("what", ["first fin", "second fin", "last ack"])
def test_lost_last_words_are_repeated(version: int, count: int, what: str) -> None:
    network = Network(version=version)
    client, server = network.establish()
    if what == "first fin":
        network.up.drop = dropping(count, lambda segment: bool(segment.flags & FIN))
    elif what == "second fin":
        network.down.drop = dropping(count, lambda segment: bool(segment.flags & FIN))
    else:
        fin = (server.sender.snd_nxt + 1) & 0xFFFFFFFF
        network.up.drop = dropping(count, lambda segment: segment.header.acknowledgment == fin)
    client.shutdown(network.now)
    network.run(30, lambda: server.peer_closed)
    server.shutdown(network.now)
    assert network.run(30, lambda: client.is_closed and server.is_closed)
    assert client.error is server.error is None
    network.run(61)
    network.client.assert_clean()
    network.server.assert_clean()


def test_the_last_ack_is_awaited_for_a_bounded_time() -> None:
    network = Network()
    client, server = network.establish()
    client.shutdown(network.now)
    network.run(1, lambda: server.peer_closed)
    network.up.drop = lambda segment: True
    server.shutdown(network.now)
    network.run(59)
    assert not server.is_closed
    network.run(5)
    assert server.error is FlowTimedOut


@VERSIONS
@pytest.mark.parametrize("who", ["client", "server"])
def test_reset_both_ways(version: int, who: str) -> None:
    network = Network(version=version)
    client, server = network.establish()
    ours, theirs = (client, server) if who == "client" else (server, client)
    ours.send(b"some data", network.now)
    network.run(1)
    ours.abort(network.now)
    network.run(1)
    assert ours.error is FlowAborted
    assert theirs.error is FlowReset
    assert b"".join(theirs.received) == b"some data"  # what came before the end may still be read
    network.client.assert_clean()
    network.server.assert_clean()


def test_peer_that_vanishes_is_noticed_by_data() -> None:
    network = Network()
    _, server = network.establish()
    network.down.drop = lambda segment: True
    server.send(b"anybody?", network.now)
    network.run(119)
    assert not server.is_closed
    network.run(2)
    assert server.error is FlowTimedOut
    assert network.server.layer.budget.used == 0


def test_peer_that_vanishes_is_noticed_by_keepalive() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    assert raw.sleep(539) == []
    probes = raw.sleep(62)
    assert [segment.header.sequence for segment in probes] == [raw.acknowledgment - 1] * len(probes)
    assert 1 <= len(probes) <= 3
    more = raw.sleep(240)
    assert len(probes) + len(more) == 6
    assert more[-1].flags == RST | ACK
    assert connection.error is FlowTimedOut


def test_keepalive_is_answered_and_answers_count() -> None:
    network = Network()
    client, server = network.establish()
    network.run(20_000)
    assert state_of(client) is state_of(server) is TcpState.ESTABLISHED
    assert any(segment.at > network.now - 2000 for segment in network.up.log)


def test_idle_timeout_ends_what_keepalive_keeps() -> None:
    network = Network(server=Host("server", config=TcpConfig(idle_timeout=7200.0)))
    client, server = network.establish()
    network.run(7190)
    assert not server.is_closed
    network.run(700)
    assert server.error is FlowTimedOut
    assert client.error is FlowReset


def test_forgotten_peer_leaves_nothing() -> None:
    host = Host("host")
    raw = RawClient(host)
    connection = raw.open()
    connection.send(bytes(5000), raw.now)
    raw.answers()
    second = RawClient(host, port=40001)
    second.send(2)
    host.layer.forget_peer(PEER, raw.now)
    assert connection.error is FlowAborted
    assert raw.answers() == []
    assert connection not in host.layer.active
    host.assert_clean()
