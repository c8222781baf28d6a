"""Sealing: padding, order, GSO runs."""

from __future__ import annotations

import pytest

from lopower.wire.rows import PacketRows
from lopower.wireguard.sealing import padded_length
from tests.support.wireguard_link import Pair


@pytest.mark.parametrize(
    ("length", "mtu", "padded"),
    [
        (0, 1420, 0),
        (1, 1420, 16),
        (16, 1420, 16),
        (17, 1420, 32),
        (1408, 1420, 1408),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1421, 1420, 1421),
        (1280, 1280, 1280),
    ],
)
def test_padding_to_16_bytes_never_above_the_mtu(length: int, mtu: int, padded: int) -> None:
    assert padded_length(length, mtu) == padded


def test_messages_of_one_size_leave_together() -> None:
    """64 KB and 64 segments at most for one GSO send, the last segment shorter."""
    pair = Pair()
    pair.connect()
    pair.device.transmissions.clear()
    pair.device.send(pair.to_server, *[pair.up(b"x" * 1400)] * 100, pair.up(b"short"))
    assert pair.device.transmissions == [(45 * 1452, 1452), (45 * 1452, 1452), (10 * 1452 + 64, 1452)]
    pair.device.transmissions.clear()
    pair.device.send(pair.to_server, *[pair.up()] * 130)
    assert pair.device.transmissions == [(64 * 64, 64), (64 * 64, 64), (2 * 64, 64)]


def test_our_sender_never_reorders() -> None:
    """Mixed sizes are split into runs in their order, and counters rise by one from message to message."""
    pair = Pair()
    pair.connect()
    pair.network.log.clear()
    sizes = [0, 1400, 1400, 3, 1400, 1400, 1400, 1400, 1400, 70, 70, 70, 1400, 5, 9, 300]
    packets = [pair.down(bytes((i,)) * size) for i, size in enumerate(sizes * 3)]
    pair.server.send(pair.to_device, *packets)
    counters = [int.from_bytes(datagram.data[8:16], "little") for datagram in pair.network.log]
    assert counters == list(range(counters[0], counters[0] + len(packets)))
    pair.network.deliver()
    assert pair.device.packets() == packets


@pytest.mark.parametrize("count", [1, 2, 3, 4, 45, 46, 100])
@pytest.mark.parametrize(("length", "last"), [(1420, 1420), (1420, 60), (1001, 1001), (1001, 999), (52, 40)])
def test_rows_are_sealed_like_packets(count: int, length: int, last: int) -> None:
    pair = Pair()
    pair.connect()
    rows = PacketRows(110, 1424)
    rows.view[:] = b"\xff" * len(rows.view)
    packets = []
    for i in range(count):
        size = last if i == count - 1 else length
        packets.append(pair.down(bytes((i,)) * (size - 20)))
        rows.packet(5 + i, size)[:] = packets[-1]
    rows.packet(5 + count, 1424 if count < 105 else 0)[:] = b"\xee" * (1424 if count < 105 else 0)
    pair.network.log.clear()
    pair.server.interface.send_rows(pair.to_device, rows, 5, count, length, last, pair.now)
    wire = [(len(datagram.data) - 32) for datagram in pair.network.log]
    assert wire == [padded_length(length, 1420)] * (count - 1) + [padded_length(last, 1420)]
    pair.network.deliver()
    arrived = [packet for _, packet in pair.device.received]
    assert [packet[: len(sent)] for packet, sent in zip(arrived, packets, strict=True)] == packets
    assert not any(any(packet[len(sent) :]) for packet, sent in zip(arrived, packets, strict=True)), "padding is zero"
    assert rows.packet(5 + count, 16) == b"\xee" * 16, "the next row is not ours to write to"
    assert pair.to_device.tx_bytes == 92 + sum(wire) + 32 * count


def test_the_mtu_of_a_device_bounds_its_padding() -> None:
    pair = Pair()
    pair.to_device.mtu = 1290
    pair.connect()
    pair.network.log.clear()
    pair.server.send(pair.to_device, pair.down(b"x" * 1265))
    assert [len(datagram.data) for datagram in pair.network.log] == [1290 + 32]


def test_rows_without_a_session_are_copied_and_sent_later() -> None:
    pair = Pair()
    rows = PacketRows(4, 1424)
    packets = [pair.up(bytes((i,)) * 80) for i in range(4)]
    for i, packet in enumerate(packets):
        rows.packet(i, 100)[:] = packet
    pair.device.interface.send_rows(pair.to_server, rows, 0, 4, 100, 100, pair.now)
    rows.view[:] = bytes(len(rows.view))
    pair.network.deliver()
    assert pair.server.packets() == packets


def test_misuse_is_an_error() -> None:
    pair = Pair()
    pair.connect()
    rows = PacketRows(4, 1424)
    with pytest.raises(ValueError, match="rows of 100"):
        pair.server.interface.send_rows(pair.to_device, rows, 0, 2, 100, 101, pair.now)
    with pytest.raises(ValueError, match="stride"):
        pair.server.interface.send_rows(pair.to_device, rows, 0, 2, 1425, 100, pair.now)
    with pytest.raises(ValueError, match="at most 65475"):
        pair.server.interface.send_packets(pair.to_device, [bytes(65_476)], pair.now)


def test_the_largest_packet_passes() -> None:
    """A message that fills a UDP datagram; no row holds it, so it arrives among the large ones."""
    pair = Pair()
    pair.connect()
    packet = pair.up(b"x" * (65_475 - 20))
    pair.device.send(pair.to_server, packet, pair.up(b"y"))
    pair.network.deliver()
    assert sorted(pair.server.packets()) == sorted([packet, pair.up(b"y")])
