"""The batch does what one message after the other does; and nothing that comes from the network stops the interface."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.wire.datagrams import Endpoint
from lopower.wireguard.config import InterfaceConfig
from tests.support.wireguard_link import SLOT, Datagram, Network, Node, Pair, ipv4_packet, ipv6_packet

SEEDS = st.integers(0, 2**32)


def traffic(rng: random.Random, pair: Pair, other: Node) -> list[Datagram]:
    """Messages of two devices: good, stolen, broken, replayed, forged, truncated, foreign; in bursts of one size."""
    to_server = next(iter(other.interface.peers.values()))
    pair.network.log.clear()
    for _ in range(rng.randint(1, 12)):
        device, peer = rng.choice(((pair.device, pair.to_server), (other, to_server)))
        size = rng.choice((0, 20, 20, 300, 1400, 1400))
        source = rng.choice(("10.90.0.2", "10.90.0.2", "10.90.0.3", "10.90.0.3", "10.66.0.1"))
        packets = []
        for _ in range(rng.choice((1, 2, 5, 30, 70))):
            kind = rng.random()
            packet = bytearray(ipv4_packet(source, "10.90.0.1", rng.randbytes(size)))
            if kind < 0.05:
                packet[rng.randrange(12)] ^= 1 << rng.randrange(8)
            elif kind < 0.1:
                packet = bytearray(ipv6_packet(f"fd7a:115c:a1e0:9909::{source[-1]}", "::1", rng.randbytes(size)))
            elif kind < 0.12:
                packet = bytearray()
            packets.append(bytes(packet))
        device.send(peer, *packets)
    pair.network.wire.clear()
    datagrams: list[Datagram] = []
    for datagram in pair.network.log:
        data, kind = datagram.data, rng.random()
        datagrams.append(datagram)
        if kind < 0.02:
            datagrams.append(datagram)
        elif kind < 0.04:
            position = rng.randrange(len(data))
            data = data[:position] + bytes((data[position] ^ 1 << rng.randrange(8),)) + data[position + 1 :]
            datagrams[-1] = Datagram(data, datagram.source, datagram.destination)
        elif kind < 0.05:
            datagrams[-1] = Datagram(data[: rng.randrange(len(data))], datagram.source, datagram.destination)
        elif kind < 0.06:
            datagrams[-1] = Datagram(rng.randbytes(len(data)), Endpoint("203.0.113.9", 9), datagram.destination)
    if rng.random() < 0.3:
        rng.shuffle(datagrams)
    return datagrams


def world(seed: int, config: InterfaceConfig | None) -> tuple[Pair, Node]:
    pair = Pair()
    if config:
        pair.server = Node(pair.network, "server", "192.0.2.1", config=config)
        pair.to_device = pair.server.add(pair.device, "10.90.0.2/32", "fd7a:115c:a1e0:9909::2/128")
    other = Node(pair.network, "other", "192.0.2.3", seed=seed)
    pair.server.add(other, "10.90.0.3/32", "fd7a:115c:a1e0:9909::3/128")
    to_server = other.add(pair.server, "0.0.0.0/0", known=True)
    pair.connect()
    other.interface.connect(to_server, pair.now)
    pair.network.deliver()
    return pair, other


@given(SEEDS, st.sampled_from([None, InterfaceConfig(rows=50), InterfaceConfig(row_stride=640)]))
@settings(max_examples=60, deadline=None)
def test_batches_do_what_single_messages_do(seed: int, config: InterfaceConfig | None) -> None:
    """Two equal servers get the same datagrams, one by super-datagrams and one message by message."""
    rng = random.Random(seed)
    (batched, other), (single, _) = world(seed, config), world(seed, config)
    batched.server.packets()
    single.server.packets()
    for _ in range(2):
        datagrams = traffic(rng, batched, other)
        arriving = [(datagram.data, datagram.source) for datagram in datagrams]
        batched.server.receive_datagrams(arriving, coalesce=rng.random() < 0.7)
        for datagram in datagrams:
            single.server.receive(datagram.data, datagram.source)
        assert sorted(batched.server.packets()) == sorted(single.server.packets())
        assert batched.server.interface.counters == single.server.interface.counters
        for key, peer in batched.server.interface.peers.items():
            twin = single.server.interface.peers[key]
            assert peer.counters == twin.counters
            assert (peer.rx_bytes, peer.rx_packets, peer.endpoint) == (twin.rx_bytes, twin.rx_packets, twin.endpoint)
            assert peer.timers.earliest() == twin.timers.earliest()


@given(SEEDS)
@settings(max_examples=60, deadline=None)
def test_mutated_messages_never_stop_the_loop(seed: int) -> None:
    """Oversized, empty, garbage, truncated, mutated, alone and coalesced; then a true message arrives."""
    rng = random.Random(seed)
    pair = Pair()
    attacker = Endpoint("203.0.113.9", 9)
    pair.device.send(pair.to_server, pair.up(b"x" * 50))
    pair.network.deliver()
    pair.device.send(pair.to_server, *[pair.up(rng.randbytes(40)) for _ in range(20)])
    samples = [datagram.data for datagram in pair.network.log] + [bytes((3, 0, 0, 0)) + rng.randbytes(60)]
    pair.network.wire.clear()
    junk: list[tuple[bytes, Endpoint]] = []
    for _ in range(200):
        data = bytearray(rng.choice(samples))
        kind = rng.randrange(6)
        if kind == 0:
            data = bytearray(rng.randbytes(rng.choice((0, 1, 3, 4, 31, 32, 33, 148, 1452, 65_507))))
        elif kind == 1:
            del data[rng.randrange(len(data)) :]
        elif kind == 2:
            data += rng.randbytes(rng.randrange(1, 100))
        elif kind == 3:
            data[:4] = bytes((rng.randrange(6), *rng.choice(((0, 0, 0), (1, 0, 0), (0, 0, 128)))))
        else:
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        junk.append((bytes(data), attacker))
    pair.server.packets()
    pair.server.receive_datagrams(junk)
    for single in junk[:20]:
        pair.server.receive_datagrams([single] * 5, coalesce=False)
    arrived = len(pair.server.packets())
    assert arrived <= 20, "nothing but the recorded packets themselves, each once"
    pair.network.run_until(pair.now + 2)
    pair.device.send(pair.to_server, pair.up(b"alive"))
    pair.network.deliver()
    assert pair.server.packets() == [pair.up(b"alive")]


@given(SEEDS)
@settings(max_examples=40, deadline=None)
def test_rows_of_several_peers_in_one_super_datagram(seed: int) -> None:
    """Behind one NAT the messages of several sessions may be coalesced; each row goes to its own session."""
    rng = random.Random(seed)
    network = Network()
    server = Node(network, "server", "192.0.2.1")
    senders = []
    for i in range(4):
        device = Node(network, f"device {i}", f"192.0.2.{10 + i}", seed=seed)
        peer = server.add(device, f"10.90.0.{10 + i}/32")
        to_server = device.add(server, "0.0.0.0/0", known=True)
        device.interface.connect(to_server, network.now)
        network.deliver()
        senders.append((device, to_server, peer, f"10.90.0.{10 + i}"))
    nat = Endpoint("198.51.100.1", 1)
    payload = bytearray()
    expected = []
    for _ in range(rng.randint(1, 12)):
        device, to_server, peer, address = rng.choice(senders)
        packets = [ipv4_packet(address, "10.90.0.1", rng.randbytes(60)) for _ in range(rng.choice((1, 2, 5, 9)))]
        expected += [(peer, packet) for packet in packets]
        device.send(to_server, *packets)
        payload += b"".join(datagram.data for datagram in network.wire)
        network.wire.clear()
    server.packets()
    server.batch.clear()
    offset = rng.randrange(16) * SLOT
    server.batch.buffer[offset : offset + len(payload)] = payload
    server.batch.append(offset, len(payload), 112, nat)
    server._receive()
    assert server.received == expected
