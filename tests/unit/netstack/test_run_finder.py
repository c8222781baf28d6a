"""What the run finder joins, and what it must never join; TCP and UDP, both IP versions."""

from __future__ import annotations

from typing import Any

import pytest

from lopower.netstack.rows import DatagramRun, RunFinder, SegmentRun
from lopower.wire.rows import PacketBatch
from tests.support.netstack_world import DEVICE, PEER, SERVER, VERSIONS, echo, fragment, make_batch, tcp, udp

versions = pytest.mark.parametrize("version", VERSIONS)
TIMESTAMP = bytes.fromhex("0101080a") + bytes(8)


def find(batch: PacketBatch) -> list[tuple[Any, int, int, str]]:
    """(peer, first, last, kind) of all that was found; every row once, in order."""
    found = []
    position = 0
    for peer, first, last, run in RunFinder().find(batch):
        assert first == position
        position = last
        if run is not None:
            assert (run.peer, run.first, run.last) == (peer, first, last)
        kind = {SegmentRun: "tcp", DatagramRun: "udp", type(None): "-"}[type(run)]
        found.append((peer, first, last, kind))
    assert position == batch.count
    return found


def segments(version: int, *sizes: int, start: int = 1000, **fields: Any) -> list[bytes]:
    """Segments of one flow, each following the last."""
    packets = []
    for size in sizes:
        packets.append(tcp(version, start, bytes(size), **fields))
        start += size
    return packets


def of_peer(*packets: bytes, peer: Any = PEER) -> PacketBatch:
    return make_batch((peer, packet) for packet in packets)


@versions
def test_consecutive_segments_are_one_run(version: int) -> None:
    packets = segments(version, 1340, 1340, 1340, 700, window=5000)
    packets[-1] = tcp(version, 1000 + 3 * 1340, bytes(700), window=4000, acknowledgment=77, flags=0x18)
    batch = of_peer(*packets)
    ((peer, first, last, run),) = RunFinder().find(batch)
    assert isinstance(run, SegmentRun)
    assert (peer, first, last) == (PEER, 0, 4)
    assert (run.version, run.ip_header_length, run.header_length) == (version, 20 if version == 4 else 40, 20)
    assert run.key == DEVICE[version] + SERVER[version] + bytes((1000 >> 8, 1000 & 255, 0, 80))
    assert (run.sequence, run.end_sequence) == (1000, 1000 + 3 * 1340 + 700)
    assert (run.acknowledgment, run.window) == (77, 4000)
    assert run.payload_lengths.tolist() == [1340, 1340, 1340, 700]
    assert run.uniform_length == -1


@versions
def test_uniform_lengths_are_said(version: int) -> None:
    batch = of_peer(*segments(version, 1340, 1340, 1340, 1340))
    ((_, _, _, run),) = RunFinder().find(batch)
    assert isinstance(run, SegmentRun)
    assert run.uniform_length == 1340


@versions
def test_time_stamps_are_permitted_if_nothing_is_beside_them(version: int) -> None:
    batch = of_peer(*segments(version, 1000, 1000, 1000, 1000, options=TIMESTAMP))
    ((_, _, _, run),) = RunFinder().find(batch)
    assert isinstance(run, SegmentRun)
    assert run.header_length == 32
    sack = bytes.fromhex("0101050a") + bytes(8)
    assert find(of_peer(*segments(version, 0, 0, 0, 0, options=sack))) == [(PEER, 0, 4, "-")]


@versions
@pytest.mark.parametrize("flags", [0x11, 0x14, 0x12, 0x30, 0x50, 0x90, 0x08, 0x00])
def test_any_other_flag_ends_the_run(version: int, flags: int) -> None:
    packets = segments(version, *[100] * 7)
    packets[3] = tcp(version, 1300, bytes(100), flags=flags)
    assert find(of_peer(*packets)) == [(PEER, 0, 3, "tcp"), (PEER, 3, 4, "-"), (PEER, 4, 7, "tcp")]


def spoiled(packet: bytes, index: int, value: int) -> bytes:
    return packet[:index] + bytes((value,)) + packet[index + 1 :]


@pytest.mark.parametrize(
    ("version", "index", "value"),
    [
        (4, 0, 0x46),  # options
        (4, 6, 0x20),  # more fragments
        (4, 7, 0x01),  # fragment offset
        (4, 6, 0x80),  # the reserved bit
        (4, 9, 17),  # protocol
        (4, 12, 9),  # source
        (4, 19, 9),  # destination
        (4, 21, 9),  # source port
        (4, 23, 9),  # destination port
        (4, 27, 9),  # sequence number
        (4, 32, 0x60),  # data offset
        (4, 32, 0xF0),  # the same, beyond the packet
        (4, 32, 0x40),  # the same, too small
        (4, 2, 0x07),  # length, beyond the row
        (4, 3, 30),  # length, shorter than the headers
        (6, 0, 0x50),  # version
        (6, 6, 17),  # next header
        (6, 4, 0x07),  # length, beyond the row
        (6, 8, 9),  # source, first byte
        (6, 23, 9),  # source, last byte
        (6, 24, 9),  # destination, first byte
        (6, 39, 9),  # destination, last byte
        (6, 41, 9),  # source port
        (6, 43, 9),  # destination port
        (6, 47, 9),  # sequence number
        (6, 52, 0x80),  # data offset
    ],
)
def test_a_row_that_differs_stands_alone(version: int, index: int, value: int) -> None:
    packets = segments(version, *[100] * 7)
    packets[3] = spoiled(packets[3], index, value)
    assert find(of_peer(*packets)) == [(PEER, 0, 3, "tcp"), (PEER, 3, 4, "-"), (PEER, 4, 7, "tcp")]


@versions
def test_traffic_class_ttl_and_identification_may_differ(version: int) -> None:
    packets = segments(version, *[100] * 4)
    packets[1] = spoiled(packets[1], 1, 0x13)
    packets[2] = spoiled(packets[2], 8 if version == 4 else 7, 1)
    if version == 4:
        packets[3] = spoiled(spoiled(packets[3], 4, 77), 6, 0x40)
    assert find(of_peer(*packets)) == [(PEER, 0, 4, "tcp")]


@versions
def test_gap_and_repetition_end_the_run(version: int) -> None:
    one, two, three, four = segments(version, *[100] * 4)
    assert find(of_peer(one, two, four, three, two, three, four)) == [
        (PEER, 0, 2, "tcp"),
        (PEER, 2, 4, "-"),
        (PEER, 4, 7, "tcp"),
    ]


@versions
def test_peers_are_never_joined(version: int) -> None:
    packets = segments(version, *[100] * 6)
    batch = make_batch(zip("aaabbb", packets, strict=True))
    assert find(batch) == [("a", 0, 3, "tcp"), ("b", 3, 6, "tcp")]
    batch = make_batch(zip("abcdef", packets, strict=True))
    assert find(batch) == [(peer, row, row + 1, "-") for row, peer in enumerate("abcdef")]


@versions
def test_dropped_rows_stand_alone(version: int) -> None:
    batch = of_peer(*segments(version, *[100] * 5))
    batch.lengths[2] = 0
    assert find(batch) == [(PEER, 0, 2, "tcp"), (PEER, 2, 3, "-"), (PEER, 3, 5, "tcp")]


def test_both_versions_in_one_batch() -> None:
    packets = [*segments(4, 9, 9, 9), *segments(6, 9, 9, 9), echo(4, SERVER[4]), *segments(4, 9, 9)]
    assert find(of_peer(*packets)) == [
        (PEER, 0, 3, "tcp"),
        (PEER, 3, 6, "tcp"),
        (PEER, 6, 7, "-"),
        (PEER, 7, 9, "tcp"),
    ]


@versions
def test_sequence_numbers_may_wrap(version: int) -> None:
    packets = segments(version, *[1000] * 6, start=(1 << 32) - 3000)
    assert find(of_peer(*packets)) == [(PEER, 0, 3, "tcp"), (PEER, 3, 6, "tcp")]
    packets = segments(version, *[1000] * 4, start=(1 << 32) - 3500)
    assert find(of_peer(*packets)) == [(PEER, 0, 4, "tcp")]
    *_, run = next(iter(RunFinder().find(of_peer(*packets))))
    assert isinstance(run, SegmentRun)
    assert run.end_sequence == 500


@versions
def test_datagrams_of_one_flow_are_one_run(version: int) -> None:
    packets = [udp(version, bytes(size)) for size in (0, 1, 1300, 100)]
    ((_, first, last, run),) = RunFinder().find(of_peer(*packets))
    assert isinstance(run, DatagramRun)
    assert (first, last) == (0, 4)
    headers = 28 if version == 4 else 48
    assert run.packet_lengths == [headers + size for size in (0, 1, 1300, 100)]
    assert run.key == DEVICE[version] + SERVER[version] + bytes((3, 232, 7, 208))


@versions
def test_flows_and_protocols_alternate(version: int) -> None:
    one, two = udp(version, b"1"), udp(version, b"2", port=2001)
    assert find(of_peer(one, two, one, two)) == [(PEER, 0, 4, "-")]
    assert find(of_peer(one, one, two, two, *segments(version, 5, 5), one, one)) == [
        (PEER, 0, 2, "udp"),
        (PEER, 2, 4, "udp"),
        (PEER, 4, 6, "tcp"),
        (PEER, 6, 8, "udp"),
    ]


@versions
def test_what_has_no_runs(version: int) -> None:
    assert find(of_peer(*[echo(version, SERVER[version])] * 5)) == [(PEER, 0, 5, "-")]
    assert find(of_peer(*[fragment(version, bytes(16), 0, True)] * 5)) == [(PEER, 0, 5, "-")]
    assert find(of_peer(*[b"\0" * 60] * 5)) == [(PEER, 0, 5, "-")]


def test_rows_are_those_of_the_batch_at_hand() -> None:
    finder = RunFinder()
    for version in (4, 6, 4):
        found = list(finder.find(of_peer(*segments(version, 1, 1, 1, 1))))
        assert len(found) == 1
