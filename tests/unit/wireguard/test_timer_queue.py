"""One queue for all peers' deadlines."""

from __future__ import annotations

import pytest

from lopower.wire.datagrams import Endpoint
from lopower.wireguard.peer import Peer
from lopower.wireguard.timers import MAX_DUE, NEVER, TimerQueue, Timers
from tests.support.wireguard_link import Network, Node


def peer(number: int = 1) -> Peer:
    return Node(Network(), "server", "192.0.2.1").interface.add_peer(number.to_bytes(32, "big"))


def test_a_deadline_that_moves_later_is_noticed_when_it_comes_up() -> None:
    queue, a = TimerQueue(), peer()
    a.timers.send_keepalive = 10.0
    queue.update(a)
    a.timers.send_keepalive = 20.0
    queue.update(a)
    assert queue.next_deadline() == 10.0
    assert queue.take_due(9.999, 1) == []
    assert queue.take_due(10.0, 1) == [a]
    queue.update(a)
    assert queue.next_deadline() == 20.0


def test_a_deadline_that_moves_earlier_counts_at_once() -> None:
    queue, a, b = TimerQueue(), peer(1), peer(2)
    a.timers.zero_key_material = 540.0
    b.timers.zero_key_material = 100.0
    for p in (a, b):
        queue.update(p)
    a.timers.new_handshake = 15.0
    queue.update(a)
    assert queue.next_deadline() == 15.0
    assert queue.take_due(50.0, 2) == [a]
    a.timers.new_handshake = NEVER
    queue.update(a)
    assert queue.take_due(540.0, 2) == [b, a]
    assert queue.next_deadline() is None


def test_a_forgotten_peer_never_comes_up() -> None:
    queue, a = TimerQueue(), peer()
    a.timers.send_keepalive = 10.0
    queue.update(a)
    queue.forget(a)
    assert queue.next_deadline() is None
    assert queue.take_due(100.0, 0) == []


def test_stale_entries_are_dropped_when_they_are_many() -> None:
    queue, a = TimerQueue(), peer()
    for i in range(1000):
        a.timers.send_keepalive = 10_000.0 - i
        queue.update(a)
    assert len(queue) == 1000
    assert queue.take_due(1.0, 1) == []
    assert len(queue) == 1
    assert queue.next_deadline() == 9001.0


def test_jitter_lies_between_0_and_333_ms() -> None:
    bounds: list[tuple[float, float]] = []

    def uniform(a: float, b: float) -> float:
        bounds.append((a, b))
        return b

    timers = Timers(uniform)
    timers.handshake_wanted(0.0, 0.0)
    assert bounds == [(0.0, 0.333)]
    assert timers.retransmit_handshake == 5.333


def test_10000_peers_cost_nothing_until_their_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """No turn looks at all peers, and when all are due at once they are handled a few at a time."""
    network = Network()
    node = Node(network, "server", "192.0.2.1")
    network.drops = lambda datagram: True
    for i in range(10_000):
        node.interface.add_peer(i.to_bytes(32, "big"), endpoint=Endpoint("192.0.2.9", i + 1), persistent_keepalive=25)
    node.handle_timer()
    assert len(network.log) <= MAX_DUE
    assert node.interface.next_timer() is not None
    asked = 0

    def earliest(timers: Timers) -> float:
        nonlocal asked
        asked += 1
        return original(timers)

    original = Timers.earliest
    monkeypatch.setattr(Timers, "earliest", earliest)
    node.receive(b"garbage", Endpoint("192.0.2.9", 1))
    node.handle_timer()
    assert asked <= MAX_DUE
