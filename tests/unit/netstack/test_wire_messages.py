"""UDP headers and ICMP messages: what is built is what is read, by us and by dpkt."""

from __future__ import annotations

import dpkt
import pytest

from lopower.wire.icmp import UNREACHABLE_CODES, IcmpMessage, parse_message, parse_quotation, quotation_limit
from lopower.wire.udp import DatagramError, UdpHeader, checksum_field, parse_header
from tests.support.netstack_world import DEVICE, GATEWAY, SERVER, VERSIONS, check, echo, fragment, ip, tcp, udp

versions = pytest.mark.parametrize("version", VERSIONS)


def test_udp_header_round_trip() -> None:
    header = UdpHeader(1, 65_535, 8, 0xBEEF)
    assert parse_header(header.to_bytes(), 0, 8, 6) == header
    assert dpkt.udp.UDP(header.to_bytes()).dport == 65_535


@pytest.mark.parametrize(
    ("header", "version", "reason"),
    [
        (UdpHeader(1, 2, 7, 1), 4, "udp_bad_length"),
        (UdpHeader(1, 2, 9, 1), 4, "udp_bad_length"),
        (UdpHeader(1, 2, 8, 0), 6, "udp_no_checksum"),
    ],
)
def test_udp_headers_that_are_none(header: UdpHeader, version: int, reason: str) -> None:
    with pytest.raises(DatagramError, match=reason):
        parse_header(header.to_bytes(), 0, 8, version)
    with pytest.raises(DatagramError, match="udp_too_short"):
        parse_header(header.to_bytes(), 0, 7, version)


def test_checksum_is_never_zero() -> None:
    assert checksum_field(0xFFFF) == checksum_field(0) == 0xFFFF
    assert checksum_field(1) == 0xFFFE


@versions
@pytest.mark.parametrize("size", [0, 1, 55, 56])
def test_icmp_round_trip(version: int, size: int) -> None:
    message = IcmpMessage(8 if version == 4 else 128, 3, 0x12345678, bytes(range(size)))
    data = message.to_bytes(DEVICE[version], GATEWAY[version])
    assert parse_message(data + b"padding", 0, len(data)) == message
    check(ip(version, 1 if version == 4 else 58, data, destination=GATEWAY[version]))
    assert parse_message(data, 0, 7) is None


@versions
def test_errors_of_full_size_fit_the_smallest_mtu(version: int) -> None:
    header = 20 if version == 4 else 40
    assert header + 8 + quotation_limit(version) == (576 if version == 4 else 1280)


@versions
def test_quotations(version: int) -> None:
    for packet, protocol in ((udp(version, b"data"), 17), (tcp(version, 9), 6), (echo(version, SERVER[version]), None)):
        quotation = parse_quotation(packet)
        assert quotation is not None
        assert (quotation.source, quotation.destination) == (DEVICE[version], SERVER[version])
        assert quotation.protocol == (protocol or (1 if version == 4 else 58))
        header = 20 if version == 4 else 40
        assert quotation.transport == packet[header:]
        assert parse_quotation(packet[: header + 8]) is not None
        assert parse_quotation(packet[: header + 7]) is None
    first = parse_quotation(fragment(version, udp(version, bytes(8))[-16:], 0, True))
    assert first is not None
    assert first.protocol == 17
    assert parse_quotation(fragment(version, bytes(16), 8, True)) is None


def test_a_code_for_every_kind_and_version() -> None:
    """RFC 1812 section 5.2.7.1, RFC 4443 section 3.1."""
    assert UNREACHABLE_CODES["prohibited"] == (13, 1)
    assert UNREACHABLE_CODES["port"] == (3, 4)
    assert len(UNREACHABLE_CODES) == 5
