"""ICMP: echo, unreachables and their limits, what is never answered, and where received errors go."""

from __future__ import annotations

from typing import Any

import dpkt
import pytest

from lopower.netstack.config import IcmpConfig, StackConfig
from lopower.netstack.events import EchoReplyReceived, EchoRequested, TcpSynReceived
from lopower.netstack.icmp import MAX_EVENTS, TokenBucket
from tests.support.netstack_world import (
    DEVICE,
    GATEWAY,
    PEER,
    SERVER,
    VERSIONS,
    World,
    echo,
    fragment,
    fragments_of,
    icmp_error,
    ip,
    read,
    reassemble,
    tcp,
    udp,
)

versions = pytest.mark.parametrize("version", VERSIONS)
UNREACHABLE = {4: 3, 6: 1}
PROHIBITED = {4: 13, 6: 1}


@versions
def test_own_addresses_answer_echo(version: int) -> None:
    world = World()
    world.receive(echo(version, GATEWAY[version], b"payload"))
    reply = read(world.sent()[0])
    assert (reply.src, reply.dst) == (GATEWAY[version], DEVICE[version])
    assert reply.data.type == (0 if version == 4 else 129)
    assert bytes(reply.data)[4:] == bytes((0, 7, 0, 9)) + b"payload"
    assert world.events() == []


@versions
def test_other_addresses_are_never_faked(version: int) -> None:
    """An echo request for another address is an event; only the owner's word makes an answer."""
    world = World()
    world.receive(echo(version, SERVER[version], b"payload", ttl=3))
    (event,) = world.events()
    assert event == EchoRequested(PEER, DEVICE[version], SERVER[version], 7, 9, b"payload", 3)
    assert world.sent() == []
    assert isinstance(event, EchoRequested)
    world.stack.send_echo_reply(event, b"payload", world.now)
    reply = read(world.sent()[0])
    assert (reply.src, reply.dst) == (SERVER[version], DEVICE[version])
    assert bytes(reply.data)[4:] == bytes((0, 7, 0, 9)) + b"payload"


@versions
def test_refused_echo_is_unreachable(version: int) -> None:
    world = World()
    request = echo(version, SERVER[version], b"payload")
    world.receive(request)
    (event,) = world.events()
    assert isinstance(event, EchoRequested)
    world.stack.send_unreachable(PEER, event, "prohibited", world.now)
    answer = read(world.sent()[0])
    assert (answer.data.type, answer.data.code) == (UNREACHABLE[version], PROHIBITED[version])
    quoted = bytes(answer.data)[8:]
    assert quoted[-12:] == request[-12:]


@versions
def test_our_echo_request_and_its_reply(version: int) -> None:
    world = World()
    world.stack.send_echo_request(PEER, GATEWAY[version], DEVICE[version], 7, 9, b"there?", world.now)
    request = read(world.sent()[0])
    assert request.data.type == (8 if version == 4 else 128)
    assert (request.src, request.dst) == (GATEWAY[version], DEVICE[version])
    world.receive(echo(version, GATEWAY[version], b"there?", reply=True, ttl=63))
    assert world.events() == [EchoReplyReceived(PEER, DEVICE[version], GATEWAY[version], 7, 9, b"there?", 63)]


@versions
def test_large_echo_comes_and_goes_in_fragments(version: int) -> None:
    world = World()
    payload = bytes(range(250)) * 20
    world.receive(*fragments_of(echo(version, GATEWAY[version], payload), 1024))
    # The fragments were addressed to the server by their header: so is the request that they make.
    (event,) = world.events()
    assert isinstance(event, EchoRequested)
    assert event.payload == payload
    world.stack.send_echo_reply(event, payload, world.now)
    assert reassemble(world.sent())[8:] == payload


def test_payload_that_fits_no_packet_is_the_callers_mistake() -> None:
    world = World()
    with pytest.raises(ValueError, match="fit no packet"):
        world.stack.send_echo_request(PEER, GATEWAY[4], DEVICE[4], 1, 1, bytes(65_508), world.now)


@versions
def test_errors_are_rate_limited_per_peer(version: int) -> None:
    world = World(StackConfig(icmp=IcmpConfig(errors_per_second=10.0, error_burst=5)))
    packet = udp(version, b"x")
    for _ in range(20):
        world.stack.send_unreachable(PEER, packet, "port", world.now)
    world.stack.send_unreachable("other", packet, "port", world.now)
    assert len(world.sent()) == 5
    assert world.counters["icmp_errors_limited"] == 15
    assert world.counters["icmp_errors_sent"] == 6
    world.now += 0.25
    for _ in range(20):
        world.stack.send_unreachable(PEER, packet, "port", world.now)
    assert len(world.sent()) == 2


def test_token_bucket_never_saves_more_than_its_burst() -> None:
    bucket = TokenBucket(10.0, 2, 0.0)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]
    assert not bucket.take(100.05)
    assert bucket.take(100.11)


MULTICAST = {4: bytes((224, 0, 0, 251)), 6: bytes.fromhex("ff0200000000000000000000000000fb")}
NOBODY = {4: bytes(4), 6: bytes(16)}


def unanswerable() -> list[Any]:
    cases = []
    for version in VERSIONS:
        quoted = udp(version, b"")
        errors = (
            [(3, 1), (11, 0), (12, 0), (5, 0), (4, 0)] if version == 4 else [(1, 0), (2, 0), (3, 0), (4, 0), (137, 0)]
        )
        for kind, code in errors:
            cases.append(pytest.param(icmp_error(version, kind, code, 0, quoted), id=f"v{version}-icmp-{kind}"))
        cases.append(pytest.param(udp(version, b"", destination=MULTICAST[version]), id=f"v{version}-multicast"))
        cases.append(pytest.param(udp(version, b"", source=MULTICAST[version]), id=f"v{version}-from-multicast"))
        cases.append(pytest.param(udp(version, b"", source=NOBODY[version]), id=f"v{version}-from-nobody"))
        cases.append(pytest.param(fragment(version, bytes(16), 64, False), id=f"v{version}-later-fragment"))
    cases.append(pytest.param(udp(4, b"", destination=b"\xff" * 4), id="v4-broadcast"))
    cases.append(pytest.param(udp(4, b"", source=bytes((127, 0, 0, 1))), id="v4-from-loopback"))
    cases.append(pytest.param(b"", id="nothing"))
    return cases


@pytest.mark.parametrize("packet", unanswerable())
def test_no_error_answers_these(packet: bytes) -> None:
    """Unreachables are never sent for ICMP errors, multicast, sources that are no host, or non-first fragments."""
    world = World()
    world.stack.send_unreachable(PEER, packet, "prohibited", world.now)
    assert world.sent() == []


@versions
def test_multicast_and_impossible_sources_are_dropped_silently(version: int) -> None:
    world = World()
    world.receive(udp(version, b"mDNS", destination=MULTICAST[version]), udp(version, b"", source=NOBODY[version]))
    world.receive(echo(version, MULTICAST[version]))
    assert world.events() == []
    assert world.sent() == []
    assert world.counters == {"ip_multicast": 2, "ip_bad_source": 1}


@pytest.mark.parametrize(
    ("version", "protocol", "destination", "expected"),
    [
        (4, 47, SERVER[4], (3, 13)),
        (6, 47, SERVER[6], (1, 1)),
        (4, 47, GATEWAY[4], (3, 2)),
        (6, 47, GATEWAY[6], (4, 1)),
        (4, 58, GATEWAY[4], (3, 2)),
        (6, 1, GATEWAY[6], (4, 1)),
    ],
)
def test_protocols_nobody_speaks(version: int, protocol: int, destination: bytes, expected: tuple[int, int]) -> None:
    """Off the gateway they are prohibited; the gateway itself says that it does not know them."""
    world = World()
    world.receive(ip(version, protocol, bytes(20), destination=destination))
    answer = read(world.sent()[0])
    assert (answer.data.type, answer.data.code) == expected
    assert answer.src == GATEWAY[version]
    if expected == (4, 1):
        assert bytes(answer.data)[4:8] == (6).to_bytes(4, "big")


def test_nothing_follows() -> None:
    world = World()
    world.receive(ip(6, 59, bytes(4)))
    assert world.sent() == []
    assert world.counters == {"ipv6_no_next_header": 1}


@versions
def test_errors_fit_the_smallest_mtu(version: int) -> None:
    world = World()
    packet = udp(version, bytes(1300))
    world.stack.send_unreachable(PEER, packet, "prohibited", world.now)
    (answer,) = world.sent()
    assert len(answer) == (576 if version == 4 else 1280)


@versions
def test_without_an_address_of_its_own_errors_come_from_the_destination(version: int) -> None:
    world = World(StackConfig())
    world.stack.send_unreachable(PEER, udp(version, b""), "no-route", world.now)
    assert read(world.sent()[0]).src == SERVER[version]


@versions
def test_hop_limit_is_that_of_an_endpoint(version: int) -> None:
    """Nothing is forwarded, so a hop limit of 1 or 0 has arrived all the same (RFC 1122 section 3.2.1.7)."""
    world = World()
    for ttl in (1, 0):
        world.receive(udp(version, b"", port=2000 + ttl, ttl=ttl))
    assert len(world.events()) == 2
    assert world.sent() == []


@versions
def test_errors_about_nothing_of_ours_are_counted(version: int) -> None:
    world = World()
    port = (3, 3) if version == 4 else (1, 4)
    other = udp(version, b"", source=SERVER[version], destination=DEVICE[version])
    world.receive(icmp_error(version, *port, 0, other))
    world.receive(icmp_error(version, *port, 0, other[: 27 if version == 4 else 47]))
    world.receive(icmp_error(version, *port, 0, udp(version, b"")))
    world.receive(icmp_error(version, *port, 0, echo(version, DEVICE[version], source=SERVER[version])))
    world.receive(icmp_error(version, port[0], 77, 0, other))
    world.receive(icmp_error(version, 11 if version == 4 else 3, 0, 0, other))
    assert world.counters == {"icmp_for_no_flow": 2, "icmp_bad_quotation": 2, "icmp_ignored": 2}
    assert world.dirty() == []


@versions
def test_too_big_and_hard_errors_reach_tcp(version: int) -> None:
    """Hard ICMP errors end an open that is under way; what is not in flight is ignored (RFC 5927)."""
    world = World()
    connection = world.stack.tcp.connect(PEER, (SERVER[version], 0), (DEVICE[version], 80), world.now)
    (syn,) = world.sent()
    stale = bytearray(syn)
    stale[24 if version == 4 else 44] ^= 0x40  # a sequence number far off
    code = (3, 3) if version == 4 else (1, 4)
    world.receive(icmp_error(version, *code, 0, bytes(stale)))
    assert not connection.is_closed
    world.receive(icmp_error(version, 3 if version == 4 else 1, 1 if version == 4 else 3, 0, syn))
    assert not connection.is_closed  # host unreachable may pass
    world.receive(icmp_error(version, *code, 0, syn))
    assert connection.is_closed
    assert world.dirty() == [connection]


@versions
def test_syn_refused_by_icmp_then_by_rst(version: int) -> None:
    """Administratively prohibited at the first SYN, RST at its first retransmission."""
    world = World()
    syn = tcp(version, 100, flags=2)
    world.receive(syn)
    (event,) = world.events()
    assert isinstance(event, TcpSynReceived)
    event.connection.reject_unreachable("prohibited", world.now)
    answer = read(world.sent()[0])
    assert (answer.data.type, answer.data.code) == (UNREACHABLE[version], PROHIBITED[version])
    world.now += 1.0
    world.receive(syn)
    (reset,) = world.sent()
    assert read(reset).data.flags & dpkt.tcp.TH_RST


def test_events_are_bounded() -> None:
    """A device that pings without end while nobody takes the events."""
    world = World()
    request = echo(4, SERVER[4])
    world.receive(*[request] * (MAX_EVENTS + 10))
    assert len(world.events()) == MAX_EVENTS
    assert world.counters["events_dropped"] == 10


@versions
def test_short_icmp_is_counted(version: int) -> None:
    world = World()
    world.receive(ip(version, 1 if version == 4 else 58, bytes(7)))
    assert world.counters == {"icmp_too_short": 1}


def test_forgotten_peer_leaves_nothing() -> None:
    world = World()
    world.stack.send_unreachable(PEER, udp(4, b""), "port", world.now)
    world.stack.forget_peer(PEER, world.now)
    assert world.sent() == []
