"""Peers of an interface: keys, queue, counters, secrets."""

from __future__ import annotations

import traceback

import pytest

from lopower.wire.datagrams import Endpoint
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.interface import Interface
from tests.support.wireguard_link import Network, Node, Pair


def server() -> Node:
    return Node(Network(), "server", "192.0.2.1")


def test_our_own_public_key_as_a_peer_is_refused() -> None:
    node = server()
    with pytest.raises(ValueError, match="our own"):
        node.interface.add_peer(node.interface.public_key)
    assert not node.interface.peers


def test_two_peers_with_one_key_are_refused() -> None:
    node = server()
    first = node.interface.add_peer(b"k" * 32, allowed_ips=["10.0.0.1/32"])
    with pytest.raises(ValueError, match="another peer"):
        node.interface.add_peer(b"k" * 32, allowed_ips=["10.0.0.2/32"])
    assert list(node.interface.peers.values()) == [first]
    assert node.interface.peer_for(bytes((10, 0, 0, 2))) is None


@pytest.mark.parametrize(
    "options", [{"preshared_key": b"short"}, {"last_timestamp": b"short"}, {"allowed_ips": ["10.0.0.0/40"]}]
)
def test_a_bad_option_adds_nothing(options: dict[str, object]) -> None:
    node = server()
    with pytest.raises(ValueError, match=r"bytes|appear"):
        node.interface.add_peer(b"k" * 32, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bytes"):
        node.interface.add_peer(b"k" * 31)
    assert not node.interface.peers


def test_128_packets_wait_for_a_session_and_the_oldest_is_dropped_first() -> None:
    pair = Pair()
    packets = [pair.up(bytes((i,))) for i in range(200)]
    pair.network.drops = lambda datagram: True
    pair.device.send(pair.to_server, *packets[:150])
    for packet in packets[150:]:
        pair.device.send(pair.to_server, packet)
    assert pair.to_server.counters["queue_dropped"] == 72
    pair.network.drops = lambda datagram: False
    pair.network.run_until(pair.now + 6)
    assert pair.server.packets() == packets[72:]


def test_no_peer_or_no_endpoint_can_be_told_by_the_sender() -> None:
    """Whoever routes asks for the owner of a destination and whether it has an endpoint, and answers by ICMP if not."""
    pair = Pair()
    assert pair.server.interface.peer_for(bytes((10, 90, 0, 3))) is None
    assert pair.server.interface.peer_for(bytes((10, 90, 0, 2))) is pair.to_device
    assert pair.to_device.endpoint is None
    pair.server.send(pair.to_device, pair.down())
    assert pair.to_device.counters["queue_dropped"] == 1
    assert not pair.network.log
    pair.server.interface.connect(pair.to_device, pair.now)
    assert not pair.network.log


def test_a_preshared_key_applies_at_the_next_handshake() -> None:
    pair = Pair(psk=b"a" * 32)
    pair.connect()
    pair.to_device.set_preshared_key(b"b" * 32)
    pair.device.send(pair.to_server, pair.up(b"still"))
    pair.network.deliver()
    assert pair.server.packets() == [pair.up(b"still")]
    pair.network.run_until(pair.now + 121)
    pair.device.send(pair.to_server, pair.up(b"rekey"))
    pair.network.deliver()
    assert pair.device.interface.counters["handshake_not_authentic"] == 1
    assert pair.to_server.counters["handshakes_completed"] == 1
    pair.to_server.set_preshared_key(b"b" * 32)
    pair.network.run_until(pair.now + 6)
    assert pair.to_server.counters["handshakes_completed"] == 2


def test_a_missing_preshared_key_is_32_zero_bytes() -> None:
    pair = Pair()
    pair.to_device.set_preshared_key(bytes(32))
    pair.connect()


def test_a_removed_peer_is_gone_with_its_sessions_and_addresses() -> None:
    pair = Pair()
    pair.connect()
    pair.server.interface.remove_peer(pair.device.interface.public_key)
    pair.device.send(pair.to_server, pair.up())
    pair.network.deliver()
    assert pair.server.packets() == []
    assert pair.server.interface.counters["unknown_index"] == 1
    assert pair.server.interface.peer_for(bytes((10, 90, 0, 2))) is None
    assert pair.server.interface.next_timer() is None
    with pytest.raises(KeyError):
        pair.server.interface.remove_peer(pair.device.interface.public_key)
    again = pair.server.add(pair.device, "10.90.0.2/32", last_timestamp=pair.to_device.last_timestamp)
    pair.network.run_until(pair.now + 30)
    assert again.has_session(pair.now)


def test_packets_for_a_removed_peer_are_dropped() -> None:
    pair = Pair()
    pair.connect()
    pair.server.interface.remove_peer(pair.device.interface.public_key)
    pair.network.log.clear()
    pair.server.send(pair.to_device, pair.down())
    assert not pair.network.log
    assert not pair.to_device.staged


def test_indices_are_freed_on_replacement() -> None:
    """32 random bits, unique over handshakes and sessions; whatever is replaced gives its own back."""
    pair = Pair()
    pair.connect()
    for _ in range(12):
        pair.network.run_until(pair.now + 121)
        pair.device.send(pair.to_server, pair.up())
        pair.network.deliver()
    assert pair.to_device.counters["handshakes_completed"] == 13
    for node in (pair.device, pair.server):
        assert 2 <= len(node.interface._keypairs) <= 3
        assert not node.interface._negotiator._handshakes
        assert all(index == keypair.local_index for index, keypair in node.interface._keypairs.items())


def test_an_index_in_use_is_not_drawn_again() -> None:
    network = Network()
    draws = [b"\1\0\0\0", b"\1\0\0\0", b"\1\0\0\0", b"\2\0\0\0"]

    def entropy(n: int) -> bytes:
        return draws.pop(0) if n == 4 else bytes(range(n))

    sent: list[bytes] = []
    interface = Interface(
        private_key=b"p" * 32,
        config=InterfaceConfig(),
        entropy=entropy,
        uniform=lambda a, b: a,
        timestamp=lambda: bytes(12),
        transmit=lambda datagrams, size, endpoint: sent.append(bytes(datagrams)),
    )
    for i in range(2):
        key = Node(network, f"peer {i}", "192.0.2.9", port=1 + i).interface.public_key
        peer = interface.add_peer(key, endpoint=Endpoint("192.0.2.9", 1 + i))
        interface.connect(peer, 0.0)
    assert [message[4:8] for message in sent] == [b"\1\0\0\0", b"\2\0\0\0"]


def test_key_material_is_never_shown() -> None:
    """Neither by repr() nor in the text of an error."""
    psk = bytes(range(100, 132))
    pair = Pair(psk=psk)
    pair.connect()
    keypair = pair.to_server.keypairs.current
    secrets = (psk, pair.device.private_key)
    things = (pair.to_server, keypair, pair.to_server.keypairs, pair.device.interface, pair.device.interface.peers)
    for text in map(repr, things):
        for secret in secrets:
            assert secret.hex() not in text
            assert repr(secret)[2:-1] not in text
    try:
        pair.server.interface.add_peer(b"k" * 32, preshared_key=psk + b"!")
    except ValueError as error:
        text = "".join(traceback.format_exception(error))
        assert repr(psk)[2:-1] not in text
        assert psk.hex() not in text


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="mtu"):
        InterfaceConfig(mtu=100)
    with pytest.raises(ValueError, match="positive"):
        InterfaceConfig(handshakes_per_turn=0)
    with pytest.raises(ValueError, match="32 bytes"):
        Node(Network(), "bad", "192.0.2.1", private_key=b"short")


def test_bytes_and_packets_are_counted() -> None:
    pair = Pair()
    pair.connect()
    assert (pair.to_device.rx_bytes, pair.to_device.tx_bytes) == (148 + 32, 92)
    pair.device.send(pair.to_server, *[pair.up(b"x" * 1400)] * 10)
    pair.network.deliver()
    assert (pair.to_device.rx_packets, pair.to_device.rx_bytes) == (10, 148 + 32 + 10 * 1452)
    assert (pair.to_server.tx_packets, pair.to_server.tx_bytes) == (10, 148 + 32 + 10 * 1452)
    assert pair.to_device.last_packet == pair.now


def test_a_peer_with_a_public_key_of_low_order_never_gets_a_session() -> None:
    node = server()
    peer = node.interface.add_peer(bytes(32), endpoint=Endpoint("192.0.2.9", 1), allowed_ips=["10.0.0.1/32"])
    node.send(peer, b"\x45")
    node.network.run_until(node.network.now + 100)
    assert not node.network.log
    assert not peer.staged
    assert not node.interface._negotiator._handshakes


def test_a_bad_list_of_networks_leaves_the_peer_with_its_own() -> None:
    pair = Pair()
    with pytest.raises(ValueError, match="nonsense"):
        pair.server.interface.set_allowed_ips(pair.to_device, ["10.1.0.0/16", "nonsense"])
    assert pair.server.interface.peer_for(bytes((10, 90, 0, 2))) is pair.to_device
    assert pair.server.interface.peer_for(bytes((10, 1, 0, 1))) is None


def test_odd_packet_sizes_fill_no_cache() -> None:
    """Views are kept for a bounded number of message sizes, in and out; all sizes pass all the same."""
    pair = Pair()
    pair.connect()
    for size in range(0, 1400, 9):
        packets = [pair.up(bytes((i,)) * size) for i in range(7)]
        pair.device.send(pair.to_server, *packets)
        pair.network.deliver()
        assert pair.server.packets() == packets
    for size in (40, 200, 400, 600, 800, 1000, 1200, 40):
        for _ in range(12):
            packets = [pair.up(bytes((i,)) * size) for i in range(50)]
            pair.device.send(pair.to_server, *packets)
            pair.network.deliver()
            assert pair.server.packets() == packets
    opener, sealer = pair.server.interface._opener, pair.device.interface._sealer
    assert len(opener._slots) <= 96
    assert len(opener._row_views._common) <= 6
    assert len(opener._row_views._counts) <= 64
    assert len(sealer._layouts) <= 24


def test_a_handshake_asked_for_too_soon_follows_when_it_may() -> None:
    """We answered the peer, which then fell silent: our own initiation waits until five seconds have passed."""
    pair = Pair()
    pair.network.drops = lambda datagram: datagram.data[0] != 1
    pair.device.interface.connect(pair.to_server, pair.now)
    pair.network.deliver()
    answered = pair.now
    pair.network.drops = lambda datagram: datagram.source == pair.device.endpoint
    pair.network.run_until(answered + 2)
    pair.server.send(pair.to_device, pair.down(b"waits"))
    assert pair.to_device.counters["initiations_sent"] == 0
    pair.network.run_until(answered + 4.999)
    assert pair.to_device.counters["initiations_sent"] == 0
    pair.network.drops = lambda datagram: False
    pair.network.run_until(answered + 5)
    assert pair.device.packets() == [pair.down(b"waits")]
