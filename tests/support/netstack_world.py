"""A stack between a scripted device and a scripted owner; dpkt writes what it receives and reads all that it sends."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import dpkt

from lopower.netstack.config import StackConfig
from lopower.netstack.events import StackEvent
from lopower.netstack.stack import Stack
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.udp import UdpFlow
from lopower.wire.rows import PacketBatch, PacketRows

PEER = "device"
DEVICE = {4: bytes((10, 90, 0, 7)), 6: bytes.fromhex("fd7aa115c1e099090000000000000007")}
GATEWAY = {4: bytes((10, 90, 0, 1)), 6: bytes.fromhex("fd7aa115c1e099090000000000000001")}
SERVER = {4: bytes((192, 0, 2, 1)), 6: bytes.fromhex("20010db8000000000000000000000001")}
VERSIONS = (4, 6)
STRIDE = 1424


class Recorder:
    """A `PacketOutput` that keeps what it is given, as whole packets."""

    def __init__(self) -> None:
        self.packets: list[tuple[Any, bytes]] = []

    def send_packets(self, peer: Any, packets: Sequence[Any], now: float) -> None:
        self.packets.extend((peer, bytes(packet)) for packet in packets)

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        for row in range(first, first + count):
            length = last_length if row == first + count - 1 else packet_length
            self.packets.append((peer, bytes(rows.packet(row, length))))


class World:
    """One stack, a clock and a recorder. Every packet the stack sends goes through dpkt before a test sees it."""

    def __init__(self, config: StackConfig | None = None, seed: int = 1) -> None:
        source = random.Random(seed)
        self.now = 1000.0
        self.output = Recorder()
        self.stack = Stack(
            config=config or StackConfig(local_addresses=frozenset(GATEWAY.values())),
            entropy=source.randbytes,
            uniform=source.uniform,
            output=self.output,
        )

    @property
    def counters(self) -> dict[str, int]:
        """What the stack counted, without zeros."""
        return {name: count for name, count in self.stack.counters.items() if count}

    def receive(self, *packets: bytes, peer: Any = PEER) -> None:
        """Packets come one by one, through the general path."""
        for packet in packets:
            self.stack.receive_packet(peer, packet, self.now)

    def receive_batch(self, packets: Iterable[tuple[Any, bytes]]) -> None:
        """Packets come as one batch."""
        self.stack.receive(make_batch(packets), self.now)

    def events(self) -> list[StackEvent]:
        """What the owner is told."""
        return self.stack.take_events()

    def dirty(self) -> list[Connection | UdpFlow]:
        """The flows with news."""
        return self.stack.take_dirty()

    def sent(self, peer: Any = PEER) -> list[bytes]:
        """End the turn; what left for `peer` since the last call, each packet checked."""
        self.stack.flush(self.now)
        packets = self.output.packets
        self.output.packets = []
        for _, packet in packets:
            check(packet)
        return [packet for whose, packet in packets if whose == peer]

    def advance(self, seconds: float) -> None:
        """Time goes by; every timer fires when it is due."""
        end = self.now + seconds
        while (due := self.stack.next_timer()) is not None and due <= end:
            self.now = max(self.now, due)
            self.stack.handle_timer(self.now)
        self.now = end
        self.stack.handle_timer(end)

    def open_flow(self, version: int = 4, payload: bytes = b"hello", *, port: int = 2000) -> UdpFlow:
        """The flow that a device's first datagram opens; the event is taken."""
        self.receive(udp(version, payload, port=port))
        (event,) = self.events()
        flow = getattr(event, "flow", None)
        assert isinstance(flow, UdpFlow)
        self.dirty()
        return flow


def make_batch(packets: Iterable[tuple[Any, bytes]], count: int = 64) -> PacketBatch:
    """A batch as `wireguard` makes it: a row each, padded to 16 bytes; what fits no row is large."""
    batch = PacketBatch(PacketRows(count, STRIDE))
    for peer, packet in packets:
        padded = packet + bytes(-len(packet) % 16)
        if len(padded) > STRIDE:
            batch.large.append((peer, packet))
            continue
        row = batch.count
        batch.rows.view[row * STRIDE : row * STRIDE + len(padded)] = padded
        batch.lengths[row] = len(padded)
        batch.count += 1
        if batch.runs and batch.runs[-1][0] == peer:
            batch.runs[-1] = (peer, batch.runs[-1][1], row + 1)
        else:
            batch.runs.append((peer, row, row + 1))
    return batch


def ip(
    version: int, protocol: int, data: Any, *, source: bytes = b"", destination: bytes = b"", **fields: Any
) -> bytes:
    """An IP packet from the device to the server, unless said otherwise, written by dpkt."""
    source, destination = source or DEVICE[version], destination or SERVER[version]
    if version == 4:
        return bytes(dpkt.ip.IP(src=source, dst=destination, p=protocol, data=data, **fields))
    packet = dpkt.ip6.IP6(src=source, dst=destination, nxt=protocol, data=data, hlim=fields.pop("ttl", 64), **fields)
    packet.plen = len(bytes(data))
    packet.extension_hdrs = {}
    packet.p = protocol
    return bytes(packet)


def udp(version: int, payload: bytes, *, port: int = 2000, source_port: int = 1000, **fields: Any) -> bytes:
    """A datagram of the device's."""
    datagram = dpkt.udp.UDP(sport=source_port, dport=port, data=payload)
    datagram.ulen = 8 + len(payload)
    return ip(version, 17, datagram, **fields)


def tcp(
    version: int, sequence: int, payload: bytes = b"", *, flags: int = 0x10, options: bytes = b"", **fields: Any
) -> bytes:
    """A segment of the device's, port 1000 to 80 unless said otherwise."""
    segment = dpkt.tcp.TCP(
        sport=fields.pop("source_port", 1000),
        dport=fields.pop("port", 80),
        seq=sequence & 0xFFFFFFFF,
        ack=fields.pop("acknowledgment", 0) & 0xFFFFFFFF,
        flags=flags,
        win=fields.pop("window", 5744),
        opts=options,
        data=payload,
    )
    segment.off = 5 + len(options) // 4
    return ip(version, 6, segment, **fields)


def echo(version: int, destination: bytes, payload: bytes = b"ping", *, reply: bool = False, **fields: Any) -> bytes:
    """An echo request, or reply, of the device's: identifier 7, sequence 9."""
    body = bytes((0, 7, 0, 9)) + payload
    if version == 4:
        message: Any = dpkt.icmp.ICMP(type=0 if reply else 8, data=body)
        return ip(4, 1, message, destination=destination, **fields)
    message = dpkt.icmp6.ICMP6(type=129 if reply else 128, data=body)
    return ip(6, 58, message, destination=destination, **fields)


def icmp_error(version: int, kind: int, code: int, rest: int, quoted: bytes, *, destination: bytes = b"") -> bytes:
    """An ICMP error of the device's about a packet that it got."""
    body = rest.to_bytes(4, "big") + quoted
    if version == 4:
        return ip(4, 1, dpkt.icmp.ICMP(type=kind, code=code, data=body), destination=destination)
    return ip(6, 58, dpkt.icmp6.ICMP6(type=kind, code=code, data=body), destination=destination)


def fragment(
    version: int, payload: bytes, offset: int, more: bool, *, identification: int = 5, protocol: int = 17
) -> bytes:
    """One fragment of the device's, as it says: nothing about it needs to be true."""
    if version == 4:
        field = offset >> 3 | (0x2000 if more else 0)
        header = bytes((0x45, 0)) + (20 + len(payload)).to_bytes(2, "big") + identification.to_bytes(2, "big")
        return header + field.to_bytes(2, "big") + bytes((64, protocol, 0, 0)) + DEVICE[4] + SERVER[4] + payload
    header = bytes((0x60, 0, 0, 0)) + (8 + len(payload)).to_bytes(2, "big") + bytes((44, 64)) + DEVICE[6] + SERVER[6]
    field = offset | more
    return header + bytes((protocol, 0)) + field.to_bytes(2, "big") + identification.to_bytes(4, "big") + payload


def fragments_of(packet: bytes, size: int, identification: int = 5) -> list[bytes]:
    """A whole packet without options in fragments of `size` bytes of payload (a multiple of 8)."""
    version = packet[0] >> 4
    payload, protocol = (packet[20:], packet[9]) if version == 4 else (packet[40:], packet[6])
    return [
        fragment(
            version,
            payload[offset : offset + size],
            offset,
            offset + size < len(payload),
            identification=identification,
            protocol=protocol,
        )
        for offset in range(0, len(payload), size)
    ]


def read(packet: bytes) -> Any:
    """What dpkt reads."""
    return dpkt.ip.IP(packet) if packet[0] >> 4 == 4 else dpkt.ip6.IP6(packet)


def fragment_field(packet: bytes) -> int | None:
    """Offset and flags of a fragment; None of a whole packet."""
    if packet[0] >> 4 == 4:
        field = int.from_bytes(packet[6:8], "big")
        return field if field & 0x3FFF else None
    return int.from_bytes(packet[42:44], "big") if packet[6] == 44 else None


def check(packet: bytes) -> None:
    """dpkt reads the packet, and finds every length and checksum right. ICMP bodies are not looked at."""
    is_icmp = packet[9] == 1 if packet[0] >> 4 == 4 else packet[6] == 58
    parsed = read(packet[: 28 if packet[0] >> 4 == 4 else 48] if is_icmp else packet)
    if packet[0] >> 4 == 4:
        assert len(packet) == parsed.len
        assert dpkt.in_cksum(packet[:20]) == 0
        protocol, payload, addresses = parsed.p, packet[20:], packet[12:20]
    else:
        assert len(packet) == 40 + parsed.plen
        protocol, payload, addresses = packet[6], packet[40:], packet[8:40]
    if fragment_field(packet) is None:
        assert isinstance(parsed.data, (dpkt.tcp.TCP, dpkt.udp.UDP, dpkt.icmp.ICMP, dpkt.icmp6.ICMP6))
        assert parsed.data.sum
        pseudo = b"" if protocol == 1 else addresses + len(payload).to_bytes(4, "big") + bytes((0, 0, 0, protocol))
        assert dpkt.in_cksum(pseudo + payload) == 0
        if protocol == 17:
            assert parsed.data.ulen == len(payload)


def reassemble(packets: Sequence[bytes]) -> bytes:
    """The payload of a packet that left in fragments, put together without any of the stack's own code."""
    version = packets[0][0] >> 4
    start = 20 if version == 4 else 48
    parts: dict[int, bytes] = {}
    end = None
    identifications = set()
    for packet in packets:
        field = fragment_field(packet)
        assert field is not None
        offset = (field & 0x1FFF) << 3 if version == 4 else field & 0xFFF8
        more = field & 0x2000 if version == 4 else field & 1
        parts[offset] = packet[start:]
        identifications.add(packet[4:6] if version == 4 else packet[44:48])
        if not more:
            end = offset + len(packet) - start
    assert len(identifications) == 1
    whole = b"".join(parts[offset] for offset in sorted(parts))
    position = 0
    for offset in sorted(parts):
        assert offset == position
        position += len(parts[offset])
    assert position == end
    return whole
