"""Handshakes between two interfaces: roles, replays, clocks, cookies, simultaneous initiations."""

from __future__ import annotations

import random
from ipaddress import ip_address, ip_network

import pytest

from lopower.wire.datagrams import Endpoint
from lopower.wire.wireguard import CookieReply
from lopower.wireguard import admission
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.cookie import CookieGenerator
from lopower.wireguard.events import EndpointChanged, HandshakeFailed, SessionEstablished, TimestampsAccepted
from tests.support.wireguard_link import Datagram, Network, Node, Pair, Wallclock, ipv4_packet


def of_type(message_type: int) -> list[int]:
    return [message_type, 0, 0, 0]


def initiations(network: Network) -> list[Datagram]:
    return [datagram for datagram in network.log if datagram.data[0] == 1]


@pytest.mark.parametrize("psk", [None, bytes(range(32))])
def test_initiator_confirms_at_once_with_a_keepalive_or_with_data(psk: bytes | None) -> None:
    pair = Pair(psk=psk)
    pair.connect()
    assert [len(datagram.data) for datagram in pair.network.log] == [148, 92, 32]
    pair = Pair(psk=psk)
    pair.device.send(pair.to_server, pair.up(b"first"))
    pair.network.deliver()
    assert [len(datagram.data) for datagram in pair.network.log] == [148, 92, 64]
    assert pair.server.packets() == [pair.up(b"first")]
    assert len(pair.server.events_of(SessionEstablished)) == len(pair.device.events_of(SessionEstablished)) == 1


def test_responder_sends_on_the_next_session_only_once_it_is_confirmed() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: datagram.data[0] == 4
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    assert not pair.to_device.has_session(pair.now)
    pair.server.send(pair.to_device, pair.down(b"waits"))
    pair.network.drops = lambda datagram: False
    pair.network.deliver()
    assert pair.device.packets() == []
    pair.device.send(pair.to_server, pair.up())
    pair.network.deliver()
    assert pair.device.packets() == [pair.down(b"waits")]
    assert pair.to_device.counters["initiations_sent"] == 0


def test_the_server_initiates_where_the_endpoint_is_known() -> None:
    pair = Pair()
    pair.to_device.endpoint = pair.device.endpoint
    pair.server.send(pair.to_device, pair.down(b"hello"))
    pair.network.deliver()
    assert pair.device.packets() == [pair.down(b"hello")]
    keypair = pair.to_device.keypairs.current
    assert keypair is not None
    assert keypair.is_initiator


def test_connect_does_nothing_while_there_is_a_session() -> None:
    pair = Pair()
    pair.connect()
    pair.network.log.clear()
    pair.network.now += 100
    pair.device.interface.connect(pair.to_server, pair.now)
    assert not pair.network.log


# ---------------------------------------------------------------------- time stamps


def test_a_replayed_initiation_is_refused_also_after_our_restart() -> None:
    """The stamp is stored before the answer leaves, and the restarted server begins with it."""
    pair = Pair()
    pair.connect()
    replay = initiations(pair.network)[0]
    pair.network.now += 10
    pair.network.log.clear()
    pair.server.receive(replay.data, Endpoint("203.0.113.9", 9))
    assert pair.to_device.counters["timestamp_not_newer"] == 1
    assert pair.to_device.endpoint == pair.device.endpoint

    restarted = Node(pair.network, "server", "192.0.2.1", private_key=pair.server.private_key)
    peer = restarted.add(pair.device, "10.90.0.2/32", last_timestamp=pair.server.stored[pair.to_device])
    restarted.receive(replay.data, replay.source)
    assert peer.counters["timestamp_not_newer"] == 1
    assert not pair.network.log
    assert peer.endpoint is None


def test_the_answer_waits_until_the_stamp_is_stored() -> None:
    pair = Pair()
    pair.server.holds_timestamps = True
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    assert [datagram.data[0] for datagram in pair.network.log] == [1]
    (event,) = pair.server.events_of(TimestampsAccepted)
    ((peer, stamp),) = event.timestamps
    assert peer is pair.to_device
    assert len(stamp) == 12
    assert pair.to_device.endpoint is None
    pair.server.release_timestamps()
    pair.network.deliver()
    assert pair.to_device.has_session(pair.now)
    pair.server.interface.timestamps_stored(event.token, pair.now)
    pair.server.interface.timestamps_stored(999, pair.now)
    assert pair.to_device.counters["responses_sent"] == 1


def test_handshakes_of_one_turn_are_stored_together() -> None:
    network = Network()
    server = Node(network, "server", "192.0.2.1", config=InterfaceConfig(handshakes_per_turn=10))
    devices = [Node(network, f"device {i}", f"192.0.2.{10 + i}") for i in range(10)]
    for i, device in enumerate(devices):
        server.add(device, f"10.90.0.{10 + i}/32")
        device.interface.connect(device.add(server, "0.0.0.0/0", known=True), network.now)
    network.deliver()
    (event,) = server.events_of(TimestampsAccepted)
    assert len(event.timestamps) == 10
    assert all(peer.has_session(network.now) for peer in server.interface.peers.values())


def test_a_later_initiation_takes_the_place_of_one_that_waits() -> None:
    pair = Pair()
    pair.server.holds_timestamps = True
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.run_until(pair.now + 5.5)
    assert len(pair.server.held) == 2
    pair.server.release_timestamps()
    pair.network.deliver()
    assert pair.to_device.counters["responses_sent"] == 1
    assert pair.to_server.has_session(pair.now)


def test_a_disk_that_stands_still_keeps_nothing_for_long() -> None:
    """Answers that wait for longer than the device does are forgotten; the device comes again."""
    pair = Pair()
    pair.server.holds_timestamps = True
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.run_until(pair.now + 60)
    assert len(pair.server.interface._negotiator._storing) <= 2
    assert pair.server.interface._negotiator._unanswered <= 2


def test_accepted_initiations_that_wait_for_the_disk_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lopower.wireguard.negotiation.MAX_UNANSWERED", 3)
    network = Network()
    server = Node(network, "server", "192.0.2.1")
    server.holds_timestamps = True
    for i in range(5):
        device = Node(network, f"device {i}", f"192.0.2.{10 + i}")
        server.add(device, f"10.90.0.{10 + i}/32")
        device.interface.connect(device.add(server, "0.0.0.0/0", known=True), network.now)
    network.run_until(network.now)
    assert server.interface.counters["under_load_dropped"] == 2
    server.release_timestamps()
    network.deliver()
    assert sum(peer.has_session(network.now) for peer in server.interface.peers.values()) == 3


def test_a_retransmission_waits_until_five_seconds_after_an_answer_to_the_peer() -> None:
    pair = Pair()
    started = pair.now
    pair.to_device.endpoint = pair.device.endpoint
    pair.network.drops = lambda datagram: True
    pair.device.interface.connect(pair.to_server, started)
    pair.network.run_until(started + 3)
    pair.network.drops = lambda datagram: datagram.data[0] == 2 or datagram.source == pair.device.endpoint
    pair.server.interface.connect(pair.to_device, pair.now)
    pair.network.deliver()
    assert pair.to_server.counters["responses_sent"] == 1
    pair.network.run_until(started + 7.999)
    assert pair.to_server.counters["initiations_sent"] == 1
    pair.network.run_until(started + 8)
    assert pair.to_server.counters["initiations_sent"] == 2


def test_a_device_reboots_with_its_clock_back() -> None:
    """It is refused under a name of its own, until its owner resets the stored stamp."""
    pair = Pair()
    pair.connect()
    del pair.network.nodes[pair.device.endpoint.host, pair.device.endpoint.port]
    device = Node(
        pair.network,
        "device",
        "192.0.2.2",
        port=40001,
        private_key=pair.device.private_key,
        wallclock=Wallclock(seconds=1_600_000_000),
    )
    to_server = device.add(pair.server, "0.0.0.0/0", known=True)
    pair.network.now += 30
    device.interface.connect(to_server, pair.now)
    pair.network.run_until(pair.now + 11)
    assert pair.to_device.counters["timestamp_not_newer"] == 3
    assert not to_server.has_session(pair.now)
    pair.to_device.reset_timestamp()
    pair.network.run_until(pair.now + 5)
    assert to_server.has_session(pair.now)
    assert pair.to_device.endpoint == device.endpoint


def test_two_initiations_are_accepted_20_ms_apart_at_least() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    pair.device.interface.connect(pair.to_server, pair.now)
    for _ in range(3):
        pair.network.run_until(pair.now + 5)
    first, second, third, fourth = (datagram.data for datagram in initiations(pair.network))
    for message, after, accepted in ((first, 0.0, 1), (second, 0.019, 1), (third, 0.0199, 1), (fourth, 0.02, 2)):
        pair.network.now = 2000.0 + after
        pair.server.receive(message, pair.device.endpoint)
        assert pair.to_device.counters["initiations_received"] == accepted
    assert pair.to_device.counters["initiation_too_soon"] == 2


# ---------------------------------------------------------------------- forgeries


def test_spoofed_response_cookie_and_data_leave_state_and_endpoint_intact() -> None:
    pair = Pair()
    attacker = Endpoint("203.0.113.9", 9)
    pair.network.drops = lambda datagram: datagram.data[0] == 2
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    true_response = pair.network.log[-1]
    assert true_response.data[0] == 2
    before = pair.to_server.endpoint
    index = initiations(pair.network)[0].data[4:8]
    rng = random.Random(3)
    for position in (12, 40, 59):
        forged = bytearray(true_response.data)
        forged[position] ^= 1
        pair.device.receive(bytes(forged), attacker)
    pair.device.receive(true_response.data[:-32] + bytes(32), attacker)
    pair.device.receive(bytes(of_type(3)) + index + rng.randbytes(56), attacker)
    pair.device.receive(bytes(of_type(4)) + index + bytes(8) + rng.randbytes(32), attacker)
    assert pair.to_server.endpoint == before
    assert not pair.to_server.has_session(pair.now)
    counters = pair.device.interface.counters
    assert counters["wrong_mac1"] == 4
    assert counters["handshake_not_authentic"] == 1
    assert counters["unknown_index"] == 1
    pair.device.receive(true_response.data, true_response.source)
    assert pair.to_server.has_session(pair.now), "the pending handshake survived"


def test_a_response_with_a_valid_mac1_that_does_not_authenticate_leaves_the_handshake_pending() -> None:
    """mac1 proves the knowledge of a public key only: whoever has it can forge this far."""
    pair = Pair()
    pair.network.drops = lambda datagram: datagram.data[0] == 2
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    true_response = pair.network.log[-1].data
    forged = true_response[:48] + bytes(12)
    forged = pair.to_device.cookies.add_macs(forged, pair.now)
    pair.device.receive(forged, Endpoint("203.0.113.9", 9))
    assert pair.device.interface.counters["handshake_not_authentic"] == 1
    pair.device.receive(true_response, pair.server.endpoint)
    assert pair.to_server.has_session(pair.now)
    pair.device.receive(true_response, pair.server.endpoint)
    assert pair.device.interface.counters["unknown_index"] == 1, "a handshake is completed once"


def test_strangers_are_counted_and_remembered() -> None:
    pair = Pair()
    stranger = Node(pair.network, "stranger", "192.0.2.66")
    stranger.interface.connect(stranger.add(pair.server, "0.0.0.0/0", known=True), pair.now)
    pair.network.deliver()
    assert pair.server.interface.counters["unknown_public_key"] == 1
    assert list(pair.server.interface.recent_unknown) == [(stranger.interface.public_key, stranger.endpoint, pair.now)]
    lost = Node(pair.network, "lost", "192.0.2.67")
    wrong = lost.interface.add_peer(stranger.interface.public_key, endpoint=pair.server.endpoint)
    for _ in range(100):
        pair.network.now += 6
        lost.interface.connect(wrong, pair.now)
        pair.network.deliver()
    assert pair.server.interface.counters["wrong_mac1"] == 100
    assert len(pair.server.interface.recent_wrong_mac1) == 64
    assert pair.server.interface.recent_wrong_mac1[-1] == (lost.endpoint, pair.now)


# ---------------------------------------------------------------------- simultaneous initiations


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rekey", [False, True])
def test_simultaneous_initiations_settle_on_one_session_without_loss(seed: int, rekey: bool) -> None:
    """Both sides initiate at the same moment, fresh or out of a session in use; keys decide which one stays."""
    network = Network()
    a = Node(network, "a", "192.0.2.1", seed=seed)
    b = Node(network, "b", "192.0.2.2", seed=seed)
    to_b = a.add(b, "10.0.0.2/32", known=True)
    to_a = b.add(a, "10.0.0.1/32", known=True)
    sent_a: list[bytes] = []
    sent_b: list[bytes] = []

    def both_send(tag: bytes) -> None:
        sent_a.append(ipv4_packet("10.0.0.1", "10.0.0.2", tag))
        sent_b.append(ipv4_packet("10.0.0.2", "10.0.0.1", tag))
        a.send(to_b, sent_a[-1])
        b.send(to_a, sent_b[-1])

    if rekey:
        a.send(to_b)
        a.interface.connect(to_b, network.now)
        network.deliver()
        network.now += 130
        for interface, peer in ((a.interface, to_b), (b.interface, to_a)):
            interface._negotiator.initiate(peer, network.now)
    for i in range(20):
        both_send(bytes((i,)))
        if network.wire:  # one step of the network: what is sent now arrives after what was sent before
            under_way, network.wire = network.wire, []
            for datagram in under_way:
                network.nodes[datagram.destination.host, datagram.destination.port].receive(
                    datagram.data, datagram.source
                )
    network.deliver()
    assert sorted(b.packets()) == sorted(sent_a)
    assert sorted(a.packets()) == sorted(sent_b)
    ours, theirs = to_b.keypairs.current, to_a.keypairs.current
    assert ours is not None
    assert theirs is not None
    assert (ours.local_index, ours.remote_index) == (theirs.remote_index, theirs.local_index)
    assert ours.is_initiator == (a.interface.public_key > b.interface.public_key)


# ---------------------------------------------------------------------- load


def flood(server: Node, network: Network, count: int, start: int = 0, seed: int = 0) -> None:
    """Initiations with a valid mac1 from as many spoofed addresses."""
    rng = random.Random(seed)
    attacker = Node(Network(), "attacker", "203.0.113.1")
    peer = attacker.add(server, "0.0.0.0/0")
    datagrams = []
    for i in range(start, start + count):
        message = bytes(of_type(1)) + rng.randbytes(112)
        source = Endpoint(f"198.51.{i >> 8 & 255}.{i & 255}", 1000)
        datagrams.append((peer.cookies.add_macs(message, network.now), source))
    server.receive_datagrams(datagrams)


def test_an_initiation_flood_with_20_live_peers() -> None:
    """Packets keep flowing, strangers get cookies, and a live peer gets its handshake with one."""
    network = Network()
    server = Node(network, "server", "192.0.2.1")
    devices = [Node(network, f"device {i}", f"192.0.2.{10 + i}") for i in range(20)]
    peers = [device.add(server, "0.0.0.0/0", known=True) for device in devices]
    for i, (device, peer) in enumerate(zip(devices, peers, strict=True)):
        server.add(device, f"10.90.0.{10 + i}/32")
        device.interface.connect(peer, network.now)
    network.run_until(network.now)
    newcomer = Node(network, "newcomer", "192.0.2.99")
    server.add(newcomer, "10.90.0.99/32")
    to_server = newcomer.add(server, "0.0.0.0/0", known=True)
    for turn in range(70):
        flood(server, network, 480, start=turn * 480, seed=turn)
        for i, (device, peer) in enumerate(zip(devices, peers, strict=True)):
            device.send(peer, ipv4_packet(f"10.90.0.{10 + i}", "10.90.0.1", bytes((turn,))))
        if turn == 10:
            newcomer.interface.connect(to_server, network.now)
        network.deliver()
        assert len(server.packets()) == 20
        network.run_until(network.now + 0.1)
    counters = server.interface.counters
    assert counters["cookie_replies_sent"] > 10_000
    assert counters["under_load_dropped"] > 10_000
    assert to_server.has_session(network.now), "the newcomer proved its address by its cookie"
    assert newcomer.interface.counters == {}
    assert to_server.counters["initiations_sent"] == 2
    network.run_until(network.now + 60)
    assert server.interface.next_timer() != network.now
    late = Node(network, "late", "192.0.2.98")
    server.add(late, "10.90.0.98/32")
    to_server = late.add(server, "0.0.0.0/0", known=True)
    late.interface.connect(to_server, network.now)
    network.deliver()
    assert to_server.has_session(network.now), "the load is over: no mac2 is asked for"


def loaded_pair() -> Pair:
    """A server that is under load and stays so for a second."""
    pair = Pair()
    flood(pair.server, pair.network, 200)
    pair.network.wire.clear()
    pair.network.log.clear()
    return pair


def test_under_load_a_valid_mac2_is_required_and_the_state_is_sticky_for_a_second() -> None:
    pair = loaded_pair()
    while (deadline := pair.server.interface.next_timer()) is not None and deadline <= pair.now:
        pair.server.handle_timer()
    pair.network.now += 0.99
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    assert [datagram.data[0] for datagram in pair.network.log] == [1, 3]
    assert not pair.to_server.has_session(pair.now)
    pair.network.now += 0.02
    pair.server.receive(pair.network.log[0].data, pair.device.endpoint)
    pair.network.deliver()
    assert pair.to_server.has_session(pair.now)


def test_a_cookie_reply_triggers_no_resend_no_roaming_and_no_timer() -> None:
    pair = loaded_pair()
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    before = pair.device.interface.next_timer()
    assert [datagram.data[0] for datagram in pair.network.log] == [1, 3]
    assert pair.device.interface.next_timer() == before == pair.now + 5
    assert not pair.device.events_of(EndpointChanged)
    assert pair.to_server.last_packet is None


def test_a_cookie_is_sent_for_responses_too() -> None:
    pair = loaded_pair()
    pair.to_device.endpoint = pair.device.endpoint
    pair.server.interface.connect(pair.to_device, pair.now)
    pair.network.deliver()
    assert [datagram.data[0] for datagram in pair.network.log] == [1, 2, 3]
    assert not pair.to_device.has_session(pair.now)
    pair.network.run_until(pair.now + 0.5)
    while pair.server.interface._admission:
        pair.server.handle_timer()
    flood(pair.server, pair.network, 200, start=200, seed=2)
    pair.network.wire = [d for d in pair.network.wire if d.destination == pair.device.endpoint]
    pair.network.run_until(pair.now + 5.1)
    assert pair.to_device.has_session(pair.now)


def test_after_a_valid_mac2_each_source_has_its_rate() -> None:
    pair = loaded_pair()
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    message = bytes(of_type(1)) + bytes(112)
    before = pair.server.interface.counters["rate_limited"]
    for _ in range(8):
        pair.server.receive(pair.to_server.cookies.add_macs(message, pair.now), pair.device.endpoint)
    assert pair.server.interface.counters["rate_limited"] - before == 3
    pair.server.receive(pair.to_server.cookies.add_macs(message, pair.now), Endpoint("192.0.2.3", 1))
    assert pair.server.interface.counters["wrong_mac2"] == 1


def test_trusted_sources_have_no_rate_from_the_moment_that_they_are_named() -> None:
    pair = loaded_pair()
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    message = bytes(of_type(1)) + bytes(112)
    proven = pair.to_server.cookies.add_macs(message, pair.now)
    interface = pair.server.interface

    def limited() -> int:
        before = interface.counters["rate_limited"]
        for _ in range(8):
            pair.server.receive(proven, pair.device.endpoint)
        return interface.counters["rate_limited"] - before

    interface.set_rate_limit_exempt([ip_network(f"{pair.device.endpoint.host}/24", strict=False)])
    assert limited() == 0
    interface.set_rate_limit_exempt([ip_network("203.0.113.0/24"), ip_network("::/0")])
    assert limited() == 3
    before = interface.counters["cookie_replies_sent"]
    interface.set_rate_limit_exempt([ip_network("0.0.0.0/0")])
    pair.server.receive(proven, Endpoint("192.0.2.3", 1))
    assert interface.counters["cookie_replies_sent"] == before + 1, "an address must be proven all the same"


def test_proven_addresses_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert admission.MAX_ADDRESSES == 4096
    monkeypatch.setattr(admission, "MAX_ADDRESSES", 4)
    pair = loaded_pair()
    message = bytes(of_type(1)) + bytes(112)
    known = pair.server.interface._admission._addresses
    for i in range(10):
        for host in (f"198.51.100.{i}", f"2001:db8:{i:x}::1", "fe80::1%2"):
            bot, source = CookieGenerator(pair.server.interface.public_key), Endpoint(host, 1)
            pair.server.receive(bot.add_macs(message, pair.now), source)
            assert bot.consume_reply(CookieReply.parse(pair.network.wire.pop().data), pair.now)
            pair.server.receive(bot.add_macs(message, pair.now), source)
            assert known[host] == ip_address(host.partition("%")[0]).packed
            assert len(known) <= 4
    assert pair.server.interface.counters["rate_limited"] == 5, "the link-local address: the same /64 ten times"


def test_the_queue_of_handshakes_is_bounded() -> None:
    """Even against a botnet whose every member proves its address by a cookie."""
    network = Network()
    config = InterfaceConfig(handshakes_per_turn=1, max_queued_handshakes=16)
    server = Node(network, "server", "192.0.2.1", config=config)
    flood(server, network, 20)
    network.wire.clear()
    message = bytes(of_type(1)) + bytes(112)
    proven = []
    for i in range(100):
        bot, source = CookieGenerator(server.interface.public_key), Endpoint(f"198.51.100.{i}", 1)
        server.receive_datagrams([(bot.add_macs(message, network.now), source)])
        if network.wire:
            assert bot.consume_reply(CookieReply.parse(network.wire.pop().data), network.now)
            proven.append((bot.add_macs(message, network.now), source))
        flood(server, network, 1, start=i)
        network.wire.clear()
    assert len(proven) > 50
    before = server.interface.counters["under_load_dropped"]
    for first in range(0, 48, 16):
        server.receive_datagrams(proven[first : first + 16])
        assert len(server.interface._admission._queue) <= 16
    assert server.interface.counters["under_load_dropped"] > before
    assert server.interface.next_timer() == network.now, "what is queued is worked on without waiting for a datagram"
    for _ in range(16):
        server.handle_timer()
    assert server.interface.next_timer() is None


def test_ninety_seconds_without_an_answer_end_in_an_event() -> None:
    pair = Pair()
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, pair.up())
    pair.network.run_until(pair.now + 200)
    assert len(pair.device.events_of(HandshakeFailed)) == 1
    assert pair.to_server.counters["queue_dropped"] == 1
