"""Fragments: any order, duplicates, overlaps, atomic ones, bounds of memory, time limits; splitting and its inverse."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from lopower.netstack.fragments import (
    MAX_BYTES,
    MAX_BYTES_PER_PEER,
    MAX_FRAGMENTS,
    MAX_PACKETS_PER_PEER,
    FragmentConfig,
    Reassembly,
    split,
)
from lopower.wire.ip import parse_header
from tests.support.netstack_world import (
    DEVICE,
    PEER,
    SERVER,
    VERSIONS,
    World,
    fragment,
    fragments_of,
    ip,
    read,
    udp,
)

versions = pytest.mark.parametrize("version", VERSIONS)


def payloads(world: World) -> list[bytes]:
    return [bytes(memoryview(payload)) for flow in world.stack.udp for payload in flow.received]


@versions
def test_every_order(version: int) -> None:
    packet = udp(version, bytes(range(100)))
    for order in itertools.permutations(fragments_of(packet, 32)):
        world = World()
        world.receive(*order)
        assert payloads(world) == [bytes(range(100))]
        assert world.stack.next_timer() == world.now + 300  # nothing of the fragments is left, only the flow


@versions
@pytest.mark.parametrize("size", [65_507, 1400])
def test_large_datagrams_in_rows(version: int, size: int) -> None:
    """65,507 bytes in fragments, through the batch, after each other and mixed with whole packets."""
    world = World()
    payload = bytes(range(256)) * 256
    parts = [(PEER, part) for part in fragments_of(udp(version, payload[:size]), 1352)]
    world.receive_batch([*parts, *[(PEER, udp(version, b"whole"))] * 5])
    assert payloads(world) == [payload[:size], *[b"whole"] * 5]


@versions
def test_datagrams_of_a_full_packet_that_fit_no_row(version: int) -> None:
    world = World()
    world.receive_batch([(PEER, udp(version, bytes(65_507)))])
    assert payloads(world) == [bytes(65_507)]


@versions
def test_exact_duplicates_are_ignored(version: int) -> None:
    """RFC 8200 section 4.5 permits it, and networks duplicate."""
    world = World()
    one, two, three = fragments_of(udp(version, bytes(40)), 16)
    world.receive(one, one, three, three, two)
    assert payloads(world) == [bytes(40)]
    assert world.counters == {"fragment_duplicate": 2}


@versions
@pytest.mark.parametrize(
    "overlap",
    [
        ((8, 16, True),),
        ((0, 8, True),),
        ((0, 24, True),),
        ((24, 16, False),),  # a second end
        ((8, 8, False),),  # an end before what is there
        ((40, 8, True),),  # beyond the end
    ],
)
def test_overlaps_condemn_the_packet(version: int, overlap: tuple[tuple[int, int, bool], ...]) -> None:
    """RFC 5722: all of it is dropped silently, the fragments yet to come included."""
    world = World()
    packet = udp(version, bytes(32))
    one, two, three = fragments_of(packet, 16)
    world.receive(one, three)
    for offset, size, more in overlap:
        world.receive(fragment(version, b"\xff" * size, offset, more))
    assert world.counters["fragment_overlap"] == 1
    world.receive(two, one, two, three)
    assert payloads(world) == []
    assert world.sent() == []
    assert world.counters["fragment_of_condemned"] == 4
    world.advance(61)
    assert world.sent() == []
    world.receive(one, two, three)
    assert payloads(world) == [bytes(32)]


def test_atomic_fragments_are_whole_packets() -> None:
    """RFC 6946: they are never mixed with fragments of the same name."""
    world = World()
    parts = fragments_of(udp(6, bytes(32)), 16)
    world.receive(parts[0])
    world.receive(fragment(6, udp(6, b"atomic")[40:], 0, False))
    world.receive(*parts[1:])
    assert payloads(world) == [b"atomic", bytes(32)]


def test_names_of_packets() -> None:
    """Identification, addresses and, over IPv4, the protocol tell packets apart."""
    world = World()
    parts = [fragments_of(udp(4, bytes((i,)) * 24), 16, identification=i) for i in range(3)]
    for tier in zip(*parts, strict=True):
        world.receive(*tier)
    world.receive(*(fragment(4, bytes(8), 0, True, protocol=protocol) for protocol in (17, 6)))
    assert sorted(payloads(world)) == [bytes((i,)) * 24 for i in range(3)]
    world.receive(parts[0][0], peer="one")
    world.receive(*parts[0][1:], peer="two")
    assert len(payloads(world)) == 3


@pytest.mark.parametrize(("version", "timeout", "kind"), [(4, 30.0, 11), (6, 60.0, 3)])
def test_timeout(version: int, timeout: float, kind: int) -> None:
    """30 s for IPv4, 60 s for IPv6, then time exceeded if the first fragment was there."""
    world = World()
    one, two, _ = fragments_of(udp(version, bytes(40)), 16)
    world.receive(one)
    world.advance(timeout - 0.001)
    world.receive(two)
    assert world.sent() == []
    assert world.stack.next_timer() is not None
    world.advance(0.001)
    (packet,) = world.sent()
    answer = read(packet)
    assert (answer.data.type, answer.data.code) == (kind, 1)
    assert packet.endswith(one)
    assert world.stack.next_timer() is None
    assert world.counters["fragment_timeout"] == 1


@versions
def test_timeout_without_the_first_fragment_is_silent(version: int) -> None:
    world = World()
    world.receive(fragments_of(udp(version, bytes(40)), 16)[1])
    world.advance(61)
    assert world.sent() == []
    assert world.counters == {"fragment_timeout": 1}


@versions
def test_number_of_fragments_is_bounded(version: int) -> None:
    world = World()
    for index in range(MAX_FRAGMENTS + 1):
        world.receive(fragment(version, bytes(8), 16 * index, True))
    assert world.counters == {"fragment_too_many": 1}


def feed(reassembly: Reassembly, peer: str, packet: bytes, now: float = 0.0) -> bytes | None:
    return reassembly.receive(peer, packet, parse_header(packet), now)


@versions
def test_packets_per_peer_are_bounded_and_the_oldest_goes(version: int) -> None:
    """A flood of first fragments costs the flooder its own packets, nobody else's."""
    counters: Counter[str] = Counter()
    reassembly = Reassembly(FragmentConfig(), counters)
    good = fragments_of(udp(version, bytes(40)), 24)
    assert feed(reassembly, "good", good[0]) is None
    for identification in range(10_000):
        feed(reassembly, "flood", fragment(version, bytes(8), 0, True, identification=identification))
    assert len(reassembly) == MAX_PACKETS_PER_PEER + 1
    assert counters["fragment_limit"] == 10_000 - MAX_PACKETS_PER_PEER
    assert feed(reassembly, "good", good[1]) is not None


@versions
def test_bytes_are_bounded_per_peer_and_in_total(version: int) -> None:
    """Many peers together: the one that holds most loses first."""
    counters: Counter[str] = Counter()
    reassembly = Reassembly(FragmentConfig(), counters)
    good = fragments_of(udp(version, bytes(40)), 24)
    feed(reassembly, "good", good[0])
    for peer in range(60):
        for index in range(30):
            for part in range(30):
                feed(reassembly, f"{peer}", fragment(version, bytes(1352), part * 1352, True, identification=index))
        assert reassembly.held_bytes <= MAX_BYTES
        if not peer:
            assert reassembly.held_bytes <= MAX_BYTES_PER_PEER + 1000
    assert counters["fragment_limit"]
    assert feed(reassembly, "good", good[1]) is not None
    for peer in range(60):
        reassembly.forget_peer(f"{peer}")
    assert reassembly.held_bytes == 0
    assert len(reassembly) == 0
    assert reassembly.next_timer() is None


def test_condemned_packets_hold_no_data() -> None:
    counters: Counter[str] = Counter()
    reassembly = Reassembly(FragmentConfig(), counters)
    feed(reassembly, PEER, fragment(4, bytes(1000), 0, True))
    feed(reassembly, PEER, fragment(4, bytes(1000), 8, True))
    assert reassembly.held_bytes < 500
    reassembly.expire(31.0)
    assert reassembly.held_bytes == 0


def test_whole_packets_are_the_callers_mistake() -> None:
    packet = udp(4, b"")
    with pytest.raises(ValueError, match="whole"):
        feed(Reassembly(FragmentConfig(), Counter()), PEER, packet)


def test_ipv4_payload_that_no_header_can_say_is_dropped() -> None:
    """Options leave the fragments but not the sum: 65,528 + 7 bytes of payload fit no packet."""
    world = World()
    for offset in range(0, 65_512, 1352):
        world.receive(fragment(4, bytes(min(1352, 65_512 - offset)), offset, True))
    world.receive(fragment(4, bytes(3), 65_512, False))
    assert payloads(world) == []
    assert world.counters == {"udp_bad_length": 1}
    world.receive(fragment(4, bytes(4), 65_512, False, identification=6))
    assert world.counters["fragment_too_far"] == 1


def test_fragments_inside_a_reassembled_packet_are_refused() -> None:
    world = World()
    inner = bytes((17, 0, 0, 1, 0, 0, 0, 9)) + bytes(40)
    world.receive(*(fragment(6, inner[i : i + 24], i, i < 24, protocol=44) for i in (0, 24)))
    assert world.counters == {"ipv6_nested_fragment": 1}
    # Hidden where the first fragment does not show it
    chain = bytes((60, 0)) + b"\x01\x04\0\0\0\0"
    world.receive(
        fragment(6, chain + bytes((44, 0)) + b"\x01\x04\0\0\0\0" + inner[:8], 0, True, protocol=60, identification=8)
    )
    assert world.counters["ipv6_nested_fragment"] == 2
    assert payloads(world) == []


@versions
@pytest.mark.parametrize("mtu", [1280, 1281, 1420, 1500, 9000])
def test_split_and_reassemble(version: int, mtu: int) -> None:
    payload = udp(version, bytes(range(256)) * 40)[20 if version == 4 else 40 :]
    parts = split(DEVICE[version], SERVER[version], 17, memoryview(payload), mtu, 77)
    assert all(len(part) <= mtu for part in parts)
    world = World()
    world.receive(*parts)
    assert payloads(world) == [bytes(range(256)) * 40]


def test_icmpv6_and_tcp_in_fragments_reach_their_layers() -> None:
    world = World()
    world.receive(*fragments_of(ip(6, 58, bytes((128, 0, 0, 0, 0, 7, 0, 9)) + bytes(40)), 24))
    assert len(world.events()) == 1
