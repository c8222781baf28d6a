"""Timers and the lives of sessions: each deadline at its time, one tick before and one after, and clocks that jump."""

from __future__ import annotations

import random
from typing import Any

import pytest

from lopower.wire.datagrams import Endpoint
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from lopower.wireguard.events import EndpointChanged, HandshakeFailed
from lopower.wireguard.keypair import Keypair
from tests.support.wireguard_link import Datagram, Pair

TICK = 0.001


def types(pair: Pair) -> list[int]:
    """Message types on the wire since the last call."""
    result = [datagram.data[0] for datagram in pair.network.log]
    pair.network.log.clear()
    return result


def connected(**options: Any) -> Pair:
    pair = Pair(**options)
    pair.connect()
    types(pair)
    return pair


def current(pair: Pair, *, server: bool = False) -> Keypair:
    keypair = (pair.to_device if server else pair.to_server).keypairs.current
    assert keypair is not None
    return keypair


def at(pair: Pair, now: float) -> list[int]:
    """Let time pass until `now`, and a tick less than it with nothing happening in between."""
    pair.network.run_until(now - TICK)
    assert types(pair) == []
    pair.network.run_until(now)
    return types(pair)


# ---------------------------------------------------------------------- handshakes


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
def test_initiations_are_retransmitted_after_5_s_and_jitter(jitter: float) -> None:
    pair = Pair(jitter=jitter)
    pair.network.drops = lambda datagram: True
    started = pair.now
    pair.device.send(pair.to_server, pair.up())
    assert types(pair) == [1]
    for attempt in range(1, 4):
        assert at(pair, started + attempt * (5 + jitter * 0.333) + 1e-6) == [1]


def test_each_initiation_is_a_new_one() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(pair.now + 20)
    assert len({datagram.data[4:40] for datagram in pair.network.log}) == 5


def test_one_initiation_per_5_s_and_peer_at_most() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    for _ in range(99):
        pair.device.send(pair.to_server, pair.up())
        pair.device.interface.connect(pair.to_server, pair.now)
        pair.network.run_until(pair.now + 0.1)
    assert types(pair) == [1, 1]


def test_given_up_after_90_s_and_what_was_queued_is_dropped() -> None:
    pair = Pair(jitter=1.0)
    pair.network.drops = lambda datagram: True
    started = pair.now
    pair.device.send(pair.to_server, pair.up(), pair.up())
    pair.network.run_until(started + 90 - TICK)
    assert len(pair.to_server.staged) == 2
    pair.network.run_until(started + 90)
    assert not pair.to_server.staged
    assert pair.to_server.counters["queue_dropped"] == 2
    assert pair.device.events_of(HandshakeFailed) == [HandshakeFailed(pair.to_server)]
    types(pair)
    pair.network.run_until(started + 500)
    assert types(pair) == []


def test_a_new_packet_begins_the_90_s_anew() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    started = pair.now
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(started + 60)
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(started + 150 - TICK)
    assert not pair.device.events_of(HandshakeFailed)
    pair.network.run_until(started + 150)
    assert pair.device.events_of(HandshakeFailed)


def test_what_waits_is_sent_when_the_peer_comes_back() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up(b"late"))
    pair.network.run_until(pair.now + 47)
    pair.network.drops = lambda datagram: False
    pair.network.run_until(pair.now + 5)
    assert pair.server.packets() == [pair.up(b"late")]


# ---------------------------------------------------------------------- rekey


def test_the_initiator_rekeys_on_send_after_120_s_once() -> None:
    pair = connected()
    born = current(pair).created_at
    pair.network.run_until(born + 120 - TICK)
    types(pair)
    pair.device.send(pair.to_server, pair.up())
    assert types(pair) == [4]
    pair.network.run_until(born + 120)
    pair.network.drops = lambda datagram: datagram.data[0] == 1
    for _ in range(3):
        pair.device.send(pair.to_server, pair.up())
    assert types(pair) == [4, 1, 4, 4]


def test_the_responder_does_not_rekey_by_age() -> None:
    pair = connected()
    pair.network.run_until(current(pair).created_at + 150)
    types(pair)
    pair.server.send(pair.to_device, pair.down())
    assert types(pair) == [4]


def test_the_initiator_rekeys_on_receive_after_165_s_once() -> None:
    pair = connected()
    keypair = current(pair)
    pair.network.run_until(keypair.created_at + 165 - TICK)
    types(pair)
    pair.server.send(pair.to_device, pair.down())
    pair.network.deliver()
    assert types(pair) == [4]
    pair.network.run_until(keypair.created_at + 165)
    pair.network.drops = lambda datagram: datagram.data[0] == 1
    for _ in range(3):
        pair.server.send(pair.to_device, pair.down())
        pair.network.deliver()
    assert types(pair) == [4, 1, 4, 4]
    assert pair.to_server.rekey_on_receive_done


@pytest.mark.parametrize("server", [False, True])
def test_either_role_rekeys_after_2_60_messages(server: bool) -> None:
    pair = connected()
    keypair = current(pair, server=server)
    sender, peer, packet = (
        (pair.server, pair.to_device, pair.down()) if server else (pair.device, pair.to_server, pair.up())
    )
    pair.network.now += 6
    keypair.send_counter = REKEY_AFTER_MESSAGES - 2
    sender.send(peer, packet)
    assert types(pair) == [4]
    sender.send(peer, packet)
    assert types(pair) == [4, 1]
    pair.network.deliver()
    assert current(pair, server=server) is not keypair


def test_a_session_is_refused_at_180_s_in_both_directions() -> None:
    pair = connected()
    born = current(pair).created_at
    pair.network.now = born + 180 - TICK
    pair.network.drops = lambda datagram: datagram.data[0] == 1
    pair.server.send(pair.to_device, pair.down(b"in time"))
    pair.network.deliver()
    assert pair.device.packets() == [pair.down(b"in time")]
    types(pair)
    pair.server.send(pair.to_device, pair.down(b"too late"))
    pair.network.now = born + 180
    assert not pair.to_device.has_session(pair.now)
    pair.network.deliver()
    assert pair.device.packets() == []
    assert pair.to_server.counters["session_expired"] == 1
    types(pair)
    pair.server.send(pair.to_device, pair.down(b"refused"))
    assert 4 not in types(pair)


@pytest.mark.parametrize("count", [1, 8])
def test_a_session_is_refused_at_its_last_counter(count: int) -> None:
    pair = connected()
    pair.network.now += 6
    current(pair).send_counter = REJECT_AFTER_MESSAGES - count
    pair.network.drops = lambda datagram: datagram.data[0] == 1
    packets = [pair.up(bytes((i,))) for i in range(count)]
    pair.device.send(pair.to_server, *packets)
    pair.network.deliver()
    assert pair.server.packets() == packets
    assert not pair.to_server.has_session(pair.now)
    pair.device.send(pair.to_server, *packets)
    assert len(pair.to_server.staged) == count
    pair.network.drops = lambda datagram: False
    pair.network.run_until(pair.now + 6)
    assert pair.server.packets() == packets


@pytest.mark.parametrize("count", [1, 8])
def test_a_received_counter_at_the_limit_is_refused(count: int) -> None:
    pair = connected()
    keypair = current(pair)
    keypair.send_counter = REJECT_AFTER_MESSAGES - 1
    packets = [pair.up(bytes((i,))) for i in range(count + 1)]
    pair.device.interface._sealer.seal_packets(keypair, pair.server.endpoint, packets, 1420)
    pair.network.deliver()
    assert pair.server.packets() == packets[:1]
    assert pair.to_device.counters["session_expired"] == count


def test_rekey_under_bidirectional_load_with_zero_loss() -> None:
    """Ten minutes of traffic both ways, every 50 ms, cross five rekeys; everything arrives, in order."""
    pair = connected()
    sent_up, sent_down, got_up, got_down = [], [], [], []
    for i in range(12_000):
        number = i.to_bytes(4, "big")
        sent_up.append(pair.up(number))
        sent_down.append(pair.down(number))
        pair.device.send(pair.to_server, sent_up[-1])
        pair.server.send(pair.to_device, sent_down[-1])
        if i % 3 == 0:
            pair.network.deliver()
            got_up += pair.server.packets()
            got_down += pair.device.packets()
        pair.network.now += 0.05
    pair.network.deliver()
    assert got_up + pair.server.packets() == sent_up
    assert got_down + pair.device.packets() == sent_down
    assert pair.to_device.counters["handshakes_completed"] == 5
    assert pair.to_device.counters.total() == 15


def test_rekey_under_loss_keeps_the_old_session_alive() -> None:
    """A fifth of all datagrams is lost; the session never lapses."""
    pair = connected()
    rng = random.Random(11)
    pair.network.drops = lambda datagram: rng.random() < 0.2
    arrived = 0
    for i in range(6000):
        pair.device.send(pair.to_server, pair.up(i.to_bytes(4, "big")))
        pair.network.run_until(pair.now + 0.1)
        arrived += len(pair.server.packets())
    assert 0.75 < arrived / 6000 < 0.85


# ---------------------------------------------------------------------- keepalives


def test_passive_keepalive_10_s_after_data_that_was_not_answered() -> None:
    pair = connected()
    started = pair.now
    pair.device.send(pair.to_server, pair.up())
    pair.network.deliver()
    types(pair)
    assert at(pair, started + 10) == [4]
    assert len(pair.network.log) == 0
    pair.network.run_until(started + 60)
    assert types(pair) == [], "a keepalive is not answered with a keepalive"


def test_an_answer_makes_the_keepalive_unnecessary() -> None:
    pair = connected()
    started = pair.now
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(started + 9)
    pair.server.send(pair.to_device, pair.down())
    pair.network.deliver()
    types(pair)
    assert at(pair, started + 19) == [4], "the device's own, for the answer"
    pair.network.run_until(started + 60)
    assert types(pair) == []


def test_data_that_comes_while_a_keepalive_is_due_asks_for_another() -> None:
    pair = connected()
    started = pair.now
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(started + 5)
    pair.device.send(pair.to_server, pair.up())
    pair.network.deliver()
    types(pair)
    assert at(pair, started + 10) == [4]
    assert at(pair, started + 20) == [4]
    pair.network.run_until(started + 60)
    assert types(pair) == []


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_data_unanswered_for_15_s_starts_a_handshake(jitter: float) -> None:
    pair = connected(jitter=jitter)
    started = pair.now
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up())
    types(pair)
    assert at(pair, started + 15 + 0.333 * jitter) == [1]


def test_more_data_does_not_put_the_handshake_off() -> None:
    pair = connected()
    started = pair.now
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(started + 14)
    pair.device.send(pair.to_server, pair.up())
    types(pair)
    assert at(pair, started + 15) == [1]


def test_persistent_keepalive_is_reset_by_any_authenticated_traffic() -> None:
    pair = connected(persistent_keepalive=25)
    started = pair.now
    assert at(pair, started + 25) == [4]
    assert at(pair, started + 50) == [4]
    pair.network.run_until(started + 60)
    pair.server.send(pair.to_device, pair.down())
    pair.network.deliver()
    assert types(pair) == [4]
    assert at(pair, started + 70) == [4], "the passive one"
    assert at(pair, started + 95) == [4]


def test_persistent_keepalive_keeps_a_session_alive_by_itself() -> None:
    pair = Pair(persistent_keepalive=25)
    pair.network.run_until(pair.now + 2000)
    assert pair.to_device.has_session(pair.now)
    assert pair.to_server.counters["handshakes_completed"] == pytest.approx(2000 / 125, abs=1)


def test_after_540_s_without_a_new_session_all_keys_are_dropped() -> None:
    pair = connected()
    started = current(pair).created_at
    pair.network.run_until(started + 540 - TICK)
    assert pair.to_server.keypairs.current is not None
    assert pair.server.interface._keypairs
    pair.network.run_until(started + 540)
    for node, peer in ((pair.device, pair.to_server), (pair.server, pair.to_device)):
        assert peer.keypairs.clear() == ()
        assert not node.interface._keypairs
        assert node.interface.next_timer() is None
    pair.connect()


def test_keys_are_dropped_540_s_after_an_attempt_was_given_up_too() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(pair.now + 90 + 540)
    assert pair.device.interface.next_timer() is None
    assert not pair.device.interface._negotiator._handshakes


# ---------------------------------------------------------------------- clocks


def test_a_clock_that_jumps_back_stands_still() -> None:
    pair = connected(persistent_keepalive=25)
    started = pair.now
    pair.network.now = started + 20
    pair.device.handle_timer()
    pair.server.handle_timer()
    types(pair)
    for moment in (started - 500, started + 5, 0.0):
        pair.network.now = moment
        pair.device.handle_timer()
        pair.server.handle_timer()
        pair.device.send(pair.to_server, pair.up())
        pair.network.deliver()
        assert pair.server.packets() == [pair.up()]
    types(pair)
    pair.network.now = started + 20
    assert at(pair, started + 20 + 10) == [4]


def test_a_clock_that_jumps_ahead_ends_sessions_and_starts_anew() -> None:
    pair = connected()
    pair.network.now += 100_000
    pair.device.send(pair.to_server, pair.up(b"after sleep"))
    pair.network.run_until(pair.now + 6)
    assert pair.server.packets() == [pair.up(b"after sleep")]


def test_calling_the_timer_early_or_often_is_harmless() -> None:
    pair = connected(persistent_keepalive=25)
    started = pair.now
    while pair.now < started + 24.9:
        pair.network.now += 0.1
        pair.device.handle_timer()
        pair.server.handle_timer()
    assert types(pair) == []


def test_an_idle_interface_has_no_timer() -> None:
    pair = Pair()
    assert pair.device.interface.next_timer() is None


def test_the_timer_queue_stays_small_whatever_the_traffic() -> None:
    """Deadlines move with every packet; the queue holds a few entries per peer all the same."""
    pair = connected(persistent_keepalive=25)
    for _ in range(5000):
        pair.device.send(pair.to_server, pair.up())
        pair.server.send(pair.to_device, pair.down())
        pair.network.run_until(pair.now + 7)
    assert len(pair.device.interface._timers) < 100
    assert len(pair.server.interface._timers) < 100


# ---------------------------------------------------------------------- where a peer is


def test_nat_rebind_in_mid_transfer() -> None:
    """The endpoint follows the first authenticated, fresh message; answers go there at once, and nothing is lost."""
    pair = connected()
    sent_up, sent_down = [], []
    for i in range(200):
        if i == 100:
            pair.network.deliver()
            pair.device.move("203.0.113.7", 61000)
        sent_up.append(pair.up(bytes((i,))))
        pair.device.send(pair.to_server, sent_up[-1])
        pair.network.deliver()
        sent_down.append(pair.down(bytes((i,))))
        pair.server.send(pair.to_device, sent_down[-1])
    pair.network.deliver()
    assert pair.server.packets() == sent_up
    assert pair.device.packets() == sent_down
    assert pair.server.events_of(EndpointChanged) == [EndpointChanged(pair.to_device)] * 2
    assert pair.to_device.endpoint == Endpoint("203.0.113.7", 61000)


@pytest.mark.parametrize("count", [1, 8])
def test_the_endpoint_moves_only_on_an_authenticated_and_fresh_message(count: int) -> None:
    pair = connected()
    attacker = Endpoint("203.0.113.9", 9)
    pair.device.send(pair.to_server, *[pair.up(bytes((i,))) for i in range(count)])
    recorded = [datagram.data for datagram in pair.network.log]
    pair.network.deliver()
    before = pair.to_device.endpoint
    forged = [data[:-1] + bytes((data[-1] ^ 1,)) for data in recorded]
    ahead = [data[:8] + (1000 + i).to_bytes(8, "little") + data[16:] for i, data in enumerate(recorded)]
    for messages in (recorded, forged, ahead):
        pair.server.receive_datagrams([(data, attacker) for data in messages])
    assert pair.to_device.endpoint is before
    assert pair.to_device.counters["replayed"] == count
    assert pair.to_device.counters["not_authentic"] == 2 * count
    assert len(pair.server.packets()) == count


def test_a_replayed_keepalive_is_refused() -> None:
    pair = Pair()
    pair.connect()
    keepalive = pair.network.log[-1]
    assert len(keepalive.data) == 32
    pair.server.receive(keepalive.data, Endpoint("203.0.113.9", 9))
    assert pair.to_device.counters["replayed"] == 1
    assert pair.to_device.endpoint == pair.device.endpoint


def test_reordering_up_to_8128_behind_is_accepted_and_8129_refused() -> None:
    pair = connected()
    for _ in range(82):
        pair.device.send(pair.to_server, *[pair.up()] * 100)
    messages: list[Datagram] = list(pair.network.wire)
    pair.network.wire.clear()
    first = int.from_bytes(messages[0].data[8:16], "little")
    newest = 8150
    for counter, accepted in ((newest, 1), (newest - 8128, 1), (newest - 8129, 0), (newest - 8128, 0)):
        pair.server.receive(messages[counter - first].data, pair.device.endpoint)
        assert len(pair.server.packets()) == accepted, counter
    assert pair.to_device.counters["replayed"] == 2


def test_answers_leave_from_the_address_that_was_talked_to() -> None:
    """The endpoint carries our own address; it is forgotten when the peer stops to answer there."""
    pair = Pair()
    pair.device.endpoint = pair.device.endpoint._replace(local=bytes((192, 0, 2, 1)))
    pair.connect()
    assert pair.network.log[1].destination.local == bytes((192, 0, 2, 1))
    pair.device.endpoint = pair.device.endpoint._replace(local=bytes((198, 51, 100, 1)))
    pair.device.send(pair.to_server, pair.up())
    pair.network.deliver()
    types(pair)
    pair.server.send(pair.to_device, pair.down())
    assert pair.network.log[-1].destination.local == bytes((198, 51, 100, 1))
    pair.network.drops = lambda datagram: True
    pair.network.wire.clear()
    pair.network.run_until(pair.now + 16)
    assert [d.destination.local for d in pair.network.log if d.data[0] == 1 and d.source == pair.server.endpoint] == [
        b""
    ]
