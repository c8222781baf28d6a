"""Packets inside: whole ones only, and only from their sender's addresses."""

from __future__ import annotations

import pytest

from lopower.wireguard.inner import packet_length, source_address
from tests.support.wireguard_link import Pair, ipv4_packet, ipv6_packet


def length(packet: bytes) -> int:
    return packet_length(memoryview(packet))


def changed(packet: bytes, **fields: int) -> bytes:
    data = bytearray(packet)
    for position, value in fields.items():
        data[int(position[1:])] = value
    return bytes(data)


V4 = ipv4_packet("10.90.0.2", "10.90.0.1", b"x" * 10)
V6 = ipv6_packet("fd7a:115c:a1e0:9909::2", "fd7a:115c:a1e0:9909::1", b"x" * 10)


def test_padding_is_trimmed() -> None:
    assert length(V4) == length(V4 + bytes(5)) == 30
    assert length(V6) == length(V6 + bytes(15)) == 50


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        V4[:19],
        V4[:-1],
        V6[:39],
        V6[:-1],
        changed(V4, _0=0x55),
        changed(V4, _0=0x05),
        changed(V4, _0=0x44),  # header shorter than 20 bytes
        changed(V4, _0=0x4F),  # header longer than the packet
        changed(V4, _2=0, _3=19),  # total length shorter than the header
        changed(V4, _2=0xFF, _3=0xFF),
        changed(V6, _4=0xFF, _5=0xFF),
        changed(V6, _4=0xFF, _5=0xD8),  # 40 + 65,496 is 0 modulo 65,536
    ],
)
def test_what_is_not_whole_is_no_packet(packet: bytes) -> None:
    assert length(packet) == 0


def test_ipv4_options_are_whole_as_well() -> None:
    packet = changed(V4, _0=0x47)
    assert length(packet) == 30
    assert source_address(memoryview(packet)) == bytes((10, 90, 0, 2))


@pytest.mark.parametrize("count", [1, 3, 4, 40])
def test_malformed_and_stolen_packets_are_counted_alone_and_in_batches(count: int) -> None:
    """The owner of the source must be the sender; the batch drops what the single packet drops."""
    pair = Pair()
    pair.connect()
    good = [pair.up(bytes((i,)) * 30) for i in range(count)]
    stolen = ipv4_packet("10.90.0.3", "10.90.0.1", b"s" * 30)
    stolen6 = ipv6_packet("fd7a:115c:a1e0:9909::3", "fd7a:115c:a1e0:9909::1", b"s" * 10)
    broken = changed(good[0], _3=0xFF)
    mixed = [packet for packet in good for packet in (packet, stolen, broken, stolen6)]
    pair.device.send(pair.to_server, *mixed)
    pair.network.deliver()
    assert pair.server.packets() == good
    assert pair.to_device.counters["source_not_allowed"] == 2 * count
    assert pair.to_device.counters["malformed_packet"] == count


def test_both_families_in_one_batch() -> None:
    pair = Pair()
    pair.connect()
    packets = [
        ipv4_packet("10.90.0.2", "10.90.0.1", bytes((i,)) * 20)
        if i % 3
        else ipv6_packet("fd7a:115c:a1e0:9909::2", "fd7a:115c:a1e0:9909::1", bytes((i,)))
        for i in range(60)
    ]
    pair.device.send(pair.to_server, *packets)
    pair.network.deliver()
    assert pair.server.packets() == packets


def test_a_changed_table_counts_at_once() -> None:
    pair = Pair()
    pair.connect()
    for allowed, arrive in (("10.90.0.2/32", 8), ("10.90.0.9/32", 0), ("10.90.0.0/24", 8)):
        pair.server.interface.set_allowed_ips(pair.to_device, [allowed])
        pair.device.send(pair.to_server, *[pair.up(b"x" * 20)] * 8)
        pair.network.deliver()
        assert len(pair.server.packets()) == arrive


def test_inner_source_theft_with_nested_prefixes() -> None:
    """A peer that owns a wide network may not use the address of one that owns a part of it."""
    pair = Pair()
    other = pair.server.interface.add_peer(b"o" * 32, allowed_ips=["10.90.0.128/25", "10.90.0.200/32"])
    pair.server.interface.set_allowed_ips(pair.to_device, ["10.90.0.0/16", "10.90.0.192/26"])
    pair.connect()
    sources = ("10.90.0.1", "10.90.0.130", "10.90.0.193", "10.90.0.200", "10.91.0.1", "10.90.1.1")
    pair.device.send(pair.to_server, *(ipv4_packet(source, "10.90.0.1") for source in sources))
    pair.network.deliver()
    arrived = [".".join(map(str, packet[12:16])) for packet in pair.server.packets()]
    assert arrived == ["10.90.0.1", "10.90.0.193", "10.90.1.1"]
    assert pair.server.interface.peer_for(bytes((10, 90, 0, 200))) is other
