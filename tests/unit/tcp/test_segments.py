"""Packets as they leave: checksums by dpkt, and columns equal to single packets, for IPv4 and IPv6."""

from __future__ import annotations

import random

import dpkt
import pytest

from lopower.netstack.tcp.segments import RowHeaders, SegmentBuilder
from lopower.wire.rows import PacketRows
from lopower.wire.tcp import ACK, PSH, TcpOptions
from tests.support.tcp_pair import CLIENT4, CLIENT6, SERVER4, SERVER6


def builder(version: int) -> SegmentBuilder:
    """From the client to the server."""
    return SegmentBuilder(CLIENT4, SERVER4, 40000, 80) if version == 4 else SegmentBuilder(CLIENT6, SERVER6, 40000, 80)


def assert_checksums_right(packet: bytes) -> None:
    """dpkt computes both checksums anew when they are zero."""
    if packet[0] >> 4 == 4:
        ip4 = dpkt.ip.IP(packet)
        assert ip4.len == len(packet)
        assert ip4.df
        header, tcp = ip4.sum, ip4.data.sum
        ip4.sum = ip4.data.sum = 0
        again = dpkt.ip.IP(bytes(ip4))
        assert (again.sum, again.data.sum) == (header, tcp)
    else:
        ip6 = dpkt.ip6.IP6(packet)
        assert ip6.plen == len(packet) - 40
        tcp = ip6.data.sum
        ip6.data.sum = 0
        assert dpkt.ip6.IP6(bytes(ip6)).data.sum == tcp


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("payload", [b"", b"a", b"ab", bytes(1380), b"\xff" * 1379])
def test_checksums_of_single_segments(version: int, payload: bytes) -> None:
    options = TcpOptions(timestamp=1, timestamp_echo=2).to_bytes()
    packet = builder(version).build(0xFFFFFFFF, 7, ACK | PSH, 1000, options, payload)
    assert_checksums_right(packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("mss", [1368, 1380, 536, 61])
@pytest.mark.parametrize(("count", "short"), [(1, 0), (1, 5), (3, 0), (20, 0), (20, 1), (20, 1001)])
def test_columns_equal_single_segments(version: int, timestamps: bool, mss: int, count: int, short: int) -> None:
    generator = random.Random(7)
    one = builder(version)
    headers = RowHeaders(one, mss, timestamps)
    length = headers.header_length
    rows = PacketRows(count + 3, (length + mss + 15) & ~15)
    rows.buffer[:] = generator.randbytes(len(rows.buffer))
    last_length = mss - short % mss
    payloads = [bytes(rows.packet(row, length + mss)[length:]) for row in range(2, count + 2)]
    payloads[-1] = payloads[-1][:last_length]
    sequence = 0xFFFFFF00
    for push in (True, False):
        headers.write(rows, 2, count, last_length, sequence, 0x12345678, 77, push, 1111, 2222)
        options = TcpOptions(timestamp=1111, timestamp_echo=2222).to_bytes() if timestamps else b""
        for index, payload in enumerate(payloads):
            flags = ACK | PSH if push and index == count - 1 else ACK
            expected = one.build(sequence + index * mss, 0x12345678, flags, 77, options, payload)
            assert bytes(rows.packet(index + 2, len(expected))) == expected
            assert_checksums_right(expected)
        end = length + last_length
        start = (count + 1) * rows.stride
        if last_length < mss:
            assert not any(rows.buffer[start + end : start + (end + 15 & ~15)])
