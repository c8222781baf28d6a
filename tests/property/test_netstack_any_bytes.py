"""No bytes whatever raise, in packets or in batches, and what the stack answers is always well-formed."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lopower.wire.icmp import parse_quotation
from lopower.wire.ip import PacketError, parse_header
from tests.support.netstack_world import (
    DEVICE,
    GATEWAY,
    PEER,
    SERVER,
    VERSIONS,
    World,
    echo,
    fragment,
    icmp_error,
    make_batch,
    tcp,
    udp,
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A packet that makes sense, changed in a few places, cut or prolonged."""
    version = draw(st.sampled_from(VERSIONS))
    ours = udp(version, b"ours", source=SERVER[version], destination=DEVICE[version], port=1000, source_port=2000)
    originals = [
        udp(version, bytes(40)),
        tcp(version, 7, bytes(30), flags=draw(st.integers(0, 255)), options=draw(st.binary(min_size=8, max_size=8))),
        echo(version, GATEWAY[version]),
        fragment(
            version, bytes(24), draw(st.integers(0, 8191)) << 3, draw(st.booleans()), protocol=draw(st.integers(0, 255))
        ),
        icmp_error(version, draw(st.integers(0, 4)), draw(st.integers(0, 13)), 600, ours),
    ]
    packet = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, 200))]) + draw(st.binary(max_size=8))


@st.composite
def chains(draw: st.DrawFn) -> bytes:
    """IPv6 with extension headers of any kind and content."""
    kinds = draw(st.lists(st.sampled_from([0, 43, 44, 60, 59, 17, 58]), min_size=1, max_size=12))
    body = b""
    for following in [*kinds[1:], 17]:
        length = draw(st.integers(0, 2))
        body += bytes((following, length)) + draw(st.binary(min_size=6 + 8 * length, max_size=6 + 8 * length))
    body += draw(st.binary(max_size=20))
    return bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2, "big") + bytes((kinds[0], 64)) + DEVICE[6] + SERVER[6] + body


packets = st.one_of(
    st.binary(max_size=120), mutated(), chains(), st.binary(max_size=80).map(lambda tail: b"\x60" + tail)
)


@settings(max_examples=200, deadline=None)
@given(st.lists(packets, max_size=12))
@example([b""])
def test_no_packet_raises(arrived: list[bytes]) -> None:
    world = World()
    world.open_flow(4)
    world.open_flow(6)
    world.receive(*arrived)
    world.receive(*(memoryview(packet) for packet in arrived))  # type: ignore[arg-type]
    world.events()
    world.dirty()
    world.sent()
    world.advance(400)
    world.sent()
    assert world.stack.next_timer() is None or world.stack.tcp.next_timer() is not None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([PEER, "other"]), packets.filter(bool)), max_size=20), st.data())
def test_no_batch_raises(arrived: list[tuple[str, bytes]], data: st.DataObject) -> None:
    world = World()
    world.open_flow(4)
    batch = make_batch(arrived)
    for row in range(batch.count):
        if data.draw(st.booleans()):
            batch.lengths[row] = data.draw(st.integers(0, 1424))
    world.stack.receive(batch, world.now)
    world.sent()


@settings(max_examples=200, deadline=None)
@given(packets, st.booleans())
def test_headers_either_parse_within_the_packet_or_say_why_not(packet: bytes, truncated: bool) -> None:
    try:
        header = parse_header(packet, truncated=truncated)
    except PacketError:
        return
    assert header.header_length <= min(header.total_length, len(packet))
    assert truncated or header.total_length <= len(packet)


@settings(max_examples=200, deadline=None)
@given(st.one_of(packets, st.binary(max_size=100)))
def test_no_quotation_raises(data: bytes) -> None:
    quotation = parse_quotation(data)
    assert quotation is None or len(quotation.transport) >= 8
