"""IP headers: what is accepted, what is refused and under which name, extension headers and their bounds."""

from __future__ import annotations

import pytest

from lopower.wire.ip import (
    MAX_EXTENSION_HEADERS,
    FragmentInfo,
    PacketError,
    ip_header,
    is_multicast,
    is_one_host,
    parse_header,
)
from tests.support.netstack_world import DEVICE, PEER, SERVER, VERSIONS, World, fragment, read, udp


def ipv6(next_header: int, *parts: bytes) -> bytes:
    """An IPv6 packet of the device's with the given chain behind the fixed header."""
    body = b"".join(parts)
    return (
        bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2, "big") + bytes((next_header, 64)) + DEVICE[6] + SERVER[6] + body
    )


def options(next_header: int, content: bytes = b"\x01\x04\0\0\0\0") -> bytes:
    """An options header; the default holds six bytes of padding."""
    assert (len(content) + 2) % 8 == 0
    return bytes((next_header, (len(content) + 2) // 8 - 1)) + content


DATAGRAM = udp(6, b"data")[40:]
ATOMIC_BEFORE_FRAGMENT = bytes((44, 0, 0, 0, 0, 0, 0, 9)) + bytes((17, 0, 0, 0, 0, 0, 0, 9))


@pytest.mark.parametrize("version", VERSIONS)
def test_built_headers_parse_to_what_was_asked(version: int) -> None:
    packet = ip_header(DEVICE[version], SERVER[version], 17, 5) + b"12345"
    header = parse_header(packet + bytes(11))
    assert (header.version, header.source, header.destination) == (version, DEVICE[version], SERVER[version])
    assert (header.protocol, header.total_length, header.fragment) == (17, len(packet), None)
    assert header.header_length == len(packet) - 5


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({0: 0x44}, "ipv4_bad_header_length"),
        ({0: 0x4F}, "ip_bad_length"),
        ({0: 0x55}, "ip_bad_version"),
        ({3: 19}, "ip_bad_length"),
        ({2: 1}, "ip_bad_length"),
        ({6: 0x20, 3: 33}, "fragment_bad_length"),
    ],
)
def test_malformed_ipv4(spoil: dict[int, int], reason: str) -> None:
    packet = bytearray(udp(4, b"hello"))
    for index, value in spoil.items():
        packet[index] = value
    world = World()
    world.receive(bytes(packet))
    assert world.counters == {reason: 1}
    assert world.sent() == []


@pytest.mark.parametrize("size", [0, 1, 19])
def test_too_short(size: int) -> None:
    with pytest.raises(PacketError, match="ip_too_short"):
        parse_header(udp(4, b"")[:size])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_truncation_is_refused(version: int) -> None:
    packet = udp(version, b"hello")
    for size in range(len(packet)):
        with pytest.raises(PacketError):
            parse_header(packet[:size])


def test_fragment_that_would_end_beyond_the_largest_packet() -> None:
    world = World()
    for version in (4, 6):
        world.receive(fragment(version, bytes(64), 65_528, False))
    assert world.counters["fragment_too_far"] == 2


def with_options(content: bytes) -> bytes:
    packet = udp(4, b"data")
    total = len(packet) + len(content)
    return (
        bytes((0x45 + len(content) // 4,))
        + packet[1:2]
        + total.to_bytes(2, "big")
        + packet[4:20]
        + content
        + packet[20:]
    )


@pytest.mark.parametrize(
    "content", [b"\x01\x01\x01\x00", b"\x94\x04\x00\x00", b"\x07\x27" + bytes(38), b"\x44\x00\x00\x00"]
)
def test_ipv4_options_are_passed_over(content: bytes) -> None:
    world = World()
    world.receive(with_options(content))
    (flow,) = world.dirty()
    assert bytes(flow.received[0]) == b"data"


@pytest.mark.parametrize("kind", [0x83, 0x89])
def test_source_routes_are_refused(kind: int) -> None:
    """RFC 7126 sections 4.3 and 4.4."""
    world = World()
    world.receive(with_options(bytes((1, kind, 7, 4, 1, 2, 3, 4))))
    assert world.counters == {"ipv4_source_route": 1}


@pytest.mark.parametrize(
    "packet",
    [
        ipv6(0, options(17), DATAGRAM),
        ipv6(60, options(17), DATAGRAM),
        ipv6(0, options(60), options(43), bytes((60, 0, 0, 0)) + bytes(4), options(17), DATAGRAM),
        ipv6(60, options(17, b"\x1e\x04\0\0\0\0"), DATAGRAM),  # an unknown option that may be skipped
        ipv6(60, options(17, bytes(6)), DATAGRAM),
        ipv6(44, bytes((17, 0, 0, 0, 0, 0, 0, 9)), DATAGRAM),  # atomic fragment, RFC 6946
        ipv6(0, options(44), bytes((60, 0, 0, 0, 0, 0, 0, 9)), options(17), DATAGRAM),
    ],
)
def test_extension_headers_are_walked(packet: bytes) -> None:
    world = World()
    world.receive(packet)
    (flow,) = world.dirty()
    assert bytes(flow.received[0]) == b"data"
    assert world.counters == {}


@pytest.mark.parametrize(
    ("packet", "reason", "code", "pointer"),
    [
        (ipv6(60, options(0), options(17), DATAGRAM), "ipv6_misplaced_hop_by_hop", 1, 40),
        (ipv6(43, bytes((17, 0, 0, 1)) + bytes(4), DATAGRAM), "ipv6_routing_header", 0, 42),
        (ipv6(60, options(17, b"\x80\x04\0\0\0\0"), DATAGRAM), "ipv6_bad_option", 2, 42),
        (ipv6(60, options(17, b"\x00\xc0\x03\0\0\0"), DATAGRAM), "ipv6_bad_option", 2, 43),
        (ipv6(60, options(17, b"\x40\x04\0\0\0\0"), DATAGRAM), "ipv6_bad_option", None, 0),
        (ipv6(60, options(17, b"\x01\x09\0\0\0\0"), DATAGRAM), "ipv6_bad_option", None, 0),
        (ipv6(60, options(17, b"\x00\x00\0\0\0\x01"), DATAGRAM), "ipv6_bad_option", None, 0),
        (ipv6(60, bytes((17, 9)) + bytes(6), DATAGRAM), "ipv6_incomplete_header_chain", None, 0),
        (ipv6(60, bytes(4)), "ipv6_incomplete_header_chain", None, 0),
        (ipv6(60, *[options(60)] * 60, options(17), DATAGRAM), "ipv6_too_many_extensions", None, 0),
        (ipv6(60, options(17, b"\x01\xfe" + bytes(254) + b"\x01\xfe" + bytes(254) + b"\x01\x04" + bytes(4)), DATAGRAM),
         "ipv6_too_many_extensions", None, 0),
        (ipv6(44, ATOMIC_BEFORE_FRAGMENT, DATAGRAM), "ipv6_nested_fragment", None, 0),
        # A first fragment that does not hold the whole chain: RFC 7112
        (fragment(6, options(60), 0, True, protocol=60), "ipv6_incomplete_header_chain", 3, 0),
        (fragment(6, bytes(16), 0, True, protocol=6), "ipv6_incomplete_header_chain", 3, 0),
        (fragment(6, bytes((17, 4)) + bytes(14), 0, True, protocol=60), "ipv6_incomplete_header_chain", 3, 0),
        # A length that is no multiple of 8, and one beyond the largest packet
        (fragment(6, DATAGRAM + b"x", 0, True), "fragment_bad_length", 0, 4),
        (fragment(6, bytes(64), 65_528, False), "fragment_too_far", 0, 42),
    ],
)  # fmt: skip
def test_bad_chains_are_refused_as_rfc_8200_says(packet: bytes, reason: str, code: int | None, pointer: int) -> None:
    world = World()
    world.receive(packet)
    assert world.counters[reason] == 1
    sent = world.sent()
    if code is None:
        assert sent == []
        return
    answer = read(sent[0])
    assert (answer.data.type, answer.data.code) == (4, code)
    message = bytes(answer.data)
    assert int.from_bytes(message[4:8], "big") == pointer
    assert message[8:] == packet


def test_as_many_extension_headers_as_permitted() -> None:
    chain = [options(60)] * (MAX_EXTENSION_HEADERS - 1) + [options(17)]
    assert parse_header(ipv6(60, *chain, DATAGRAM)).protocol == 17
    with pytest.raises(PacketError, match="ipv6_too_many_extensions"):
        parse_header(ipv6(60, options(60), *chain, DATAGRAM))


def test_no_parameter_problem_towards_nobody_or_about_multicast() -> None:
    world = World()
    bad = bytearray(ipv6(43, bytes((17, 0, 0, 1)) + bytes(4), DATAGRAM))
    from_nobody = bytes(bad[:8]) + bytes(16) + bytes(bad[24:])
    to_all = bytes(bad[:24]) + b"\xff\x02" + bytes(13) + b"\x01" + bytes(bad[40:])
    world.receive(from_nobody, to_all)
    assert world.sent() == []
    option = ipv6(60, options(17, b"\x80\x04\0\0\0\0"), DATAGRAM)
    world.receive(option[:24] + b"\xff\x02" + bytes(13) + b"\x01" + option[40:])
    assert len(world.sent()) == 1  # RFC 4443 section 2.4 (e.3): this one is the exception
    option = ipv6(60, options(17, b"\xc0\x04\0\0\0\0"), DATAGRAM)
    world.receive(option[:24] + b"\xff\x02" + bytes(13) + b"\x01" + option[40:])
    assert world.sent() == []


def test_fragment_fields() -> None:
    assert parse_header(fragment(4, bytes(16), 64, True)).fragment == FragmentInfo(5, 64, True)
    assert parse_header(fragment(6, bytes(16), 64, True)).fragment == FragmentInfo(5, 64, True)
    assert parse_header(fragment(4, bytes(16), 0, False)).fragment is None


def test_start_of_a_packet_parses_when_it_is_known_to_be_one() -> None:
    for version in (4, 6):
        packet = udp(version, bytes(500))
        assert parse_header(packet[:60], truncated=True).total_length == len(packet)
    chain = ipv6(0, options(60), options(17), DATAGRAM)
    with pytest.raises(PacketError):
        parse_header(chain[:50], truncated=True)
    with pytest.raises(PacketError):
        parse_header(with_options(bytes(40))[:40], truncated=True)


def test_kinds_of_addresses() -> None:
    assert is_one_host(bytes((10, 0, 0, 1)))
    assert is_one_host(SERVER[6])
    for text in ("00000000", "7f000001", "e0000001", "ffffffff", "f0000000"):
        assert not is_one_host(bytes.fromhex(text))
    for tail in (0, 1):
        assert not is_one_host(bytes(15) + bytes((tail,)))
    assert not is_one_host(b"\xff" + bytes(15))
    assert is_multicast(b"\xff" * 4)
    assert is_multicast(b"\xe0\0\0\1")
    assert not is_multicast(b"\xf0\0\0\1")


def test_large_packets_take_the_general_path() -> None:
    world = World()
    packet = udp(4, bytes(40_000))
    world.receive_batch([(PEER, packet)])
    (flow,) = world.dirty()
    assert len(memoryview(flow.received[0])) == 40_000
