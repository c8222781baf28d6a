"""Two TCP layers joined by visible wires: a simulated clock, a seeded lossy link, and every packet on record."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lopower.netstack.events import TcpSynReceived
from lopower.netstack.rows import SegmentRun
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.layer import TcpLayer
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.wire.rows import PacketRows
from lopower.wire.tcp import ACK, PSH, SYN, TcpHeader, TcpOptions, parse_header

CLIENT4, SERVER4 = bytes((10, 90, 0, 7)), bytes((192, 0, 2, 1))
CLIENT6, SERVER6 = bytes.fromhex("fd7aa115c1e099090000000000000007"), bytes.fromhex("20010db8" + "00" * 11 + "01")
PEER = "peer"


@dataclass(frozen=True, slots=True)
class Ip:
    """The IP header as far as TCP asks for it."""

    version: int
    source: bytes
    destination: bytes
    header_length: int
    total_length: int
    protocol: int = 6


def parse_ip(packet: bytes) -> Ip:
    """Of a packet of ours: no options, no extension headers."""
    if packet[0] >> 4 == 4:
        return Ip(4, packet[12:16], packet[16:20], 20, int.from_bytes(packet[2:4], "big"))
    return Ip(6, packet[8:24], packet[24:40], 40, 40 + int.from_bytes(packet[4:6], "big"))


@dataclass(slots=True)
class Segment:
    """One packet on the wire, parsed."""

    at: float
    packet: bytes
    header: TcpHeader
    payload: bytes

    @property
    def flags(self) -> int:
        return self.header.flags


def parse_segment(packet: bytes, at: float = 0.0) -> Segment:
    """Parse a whole packet."""
    ip = parse_ip(packet)
    header = parse_header(packet[ip.header_length : ip.total_length])
    return Segment(at, packet, header, packet[ip.header_length + header.header_length : ip.total_length])


def assert_checksums_right(packet: bytes) -> None:
    """The one's complement sum over header and over pseudo-header and segment is zero, that is 0xffff."""
    ip = parse_ip(packet)
    assert ip.total_length == len(packet)
    segment = packet[ip.header_length :]
    pseudo = ip.source + ip.destination + len(segment).to_bytes(4, "big") + bytes((0, 0, 0, 6))
    assert int.from_bytes(pseudo + segment + bytes(len(segment) & 1), "big") % 0xFFFF == 0
    assert ip.version == 6 or int.from_bytes(packet[:20], "big") % 0xFFFF == 0


def strip_options(packet: bytes) -> bytes:
    """A SYN with its MSS alone; other packets as they are."""
    segment, ip = parse_segment(packet), parse_ip(packet)
    header = segment.header
    if not header.flags & SYN:
        return packet
    builder = SegmentBuilder(ip.source, ip.destination, header.source_port, header.destination_port)
    options = TcpOptions(maximum_segment_size=header.options.maximum_segment_size).to_bytes()
    return builder.build(header.sequence, header.acknowledgment, header.flags, header.window, options)


def find_runs(packets: Sequence[bytes], stride: int = 1504) -> list[SegmentRun]:
    """Put packets into rows and cut them into runs; segments that no run may hold are in runs of `last == first`."""
    rows = PacketRows(max(len(packets), 1), stride)
    runs: list[SegmentRun] = []
    for index, packet in enumerate(packets):
        rows.view[index * stride : index * stride + len(packet)] = packet
        segment = parse_segment(packet)
        ip, header, size = parse_ip(packet), segment.header, len(segment.payload)
        key = ip.source + ip.destination + packet[ip.header_length : ip.header_length + 4]
        plain = header.flags & ~PSH == ACK
        last = runs[-1] if runs else None
        if (
            last is not None
            and plain
            and last.last == index
            and last.last > last.first
            and (last.key, last.header_length, last.end_sequence) == (key, header.header_length, header.sequence)
        ):
            last.last += 1
            last.payload_lengths = np.append(last.payload_lengths, size)
            last.end_sequence = header.sequence + size & 0xFFFFFFFF
            last.acknowledgment, last.window = header.acknowledgment, header.window
            if size != last.uniform_length:
                last.uniform_length = -1
            continue
        run = SegmentRun()
        run.peer, run.rows, run.key, run.version = PEER, rows, key, ip.version
        run.first, run.last = index, index + 1 if plain else index
        run.ip_header_length, run.header_length = ip.header_length, header.header_length
        run.sequence, run.end_sequence = header.sequence, header.sequence + size & 0xFFFFFFFF
        run.acknowledgment, run.window = header.acknowledgment, header.window
        run.payload_lengths, run.uniform_length = np.array([size]), size
        runs.append(run)
    return runs


class Host:
    """One TCP layer and its owner, which accepts every flow unless `on_syn` says otherwise."""

    def __init__(
        self, name: str, *, seed: int = 1, config: TcpConfig | None = None, mtu: int = 1420, fast: bool = True
    ) -> None:
        self.name = name
        self.random = random.Random(f"{name}{seed}")
        self.counters: Counter[str] = Counter()
        self.outbox: list[bytes] = []
        self.unreachables: list[tuple[bytes, Any]] = []
        self.mtu = mtu
        self.fast = fast
        self.strips_options = False  # its SYNs offer an MSS and nothing else
        self.fast_segments = 0
        self.slow_segments = 0
        self.accepted: list[Connection] = []
        self.applications: list[Callable[[float], None]] = []
        self.arrived: list[tuple[float, bytes]] = []
        self.on_syn: Callable[[Connection, float], None] = self.accept
        self.layer = TcpLayer(
            config=config or TcpConfig(),
            entropy=self.random.randbytes,
            uniform=self.random.uniform,
            output=self,
            mtu_for=lambda peer: self.mtu,
            counters=self.counters,
            send_unreachable=lambda peer, packet, code, now: self.unreachables.append((packet, code)),
        )

    def accept(self, connection: Connection, now: float) -> None:
        self.accepted.append(connection)
        connection.accept(now)

    def send_packets(self, peer: Any, packets: Sequence[bytes | memoryview[int]], now: float) -> None:
        for packet in packets:
            self.outbox.append(strip_options(bytes(packet)) if self.strips_options else bytes(packet))

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        for row in range(first, first + count):
            length = last_length if row == first + count - 1 else packet_length
            assert not any(rows.view[row * rows.stride + length : row * rows.stride + (length + 15 & ~15)])
            self.outbox.append(bytes(rows.packet(row, length)))

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """One batch arrives; the owner's turn follows."""
        self.arrived.extend((now, packet) for packet in packets)
        if self.fast:
            for run in find_runs(packets):
                count = run.last - run.first
                if count and self.layer.receive_run(run, now):
                    self.fast_segments += count
                    continue
                for row in range(run.first, max(run.last, run.first + 1)):
                    self._receive_packet(packets[row], now)
        else:
            for packet in packets:
                self._receive_packet(packet, now)
        self.turn(now)

    def _receive_packet(self, packet: bytes, now: float) -> None:
        self.slow_segments += 1
        self.layer.receive_packet(PEER, memoryview(bytearray(packet)), parse_ip(packet), now)

    def turn(self, now: float) -> None:
        """Events, the applications, and what leaves."""
        for event in self.layer.take_events():
            assert isinstance(event, TcpSynReceived)
            self.on_syn(event.connection, now)
        for application in list(self.applications):
            application(now)
        self.layer.take_dirty()
        self.layer.flush(now)

    def assert_clean(self) -> None:
        """No flow, timer, buffer or packet is left."""
        layer = self.layer
        assert layer.connection_count == layer.half_open_count == 0
        assert layer.connections() == []
        assert layer.record_count == 0
        assert len(layer.timers) == 0
        assert layer.next_timer() is None
        assert layer.budget.used == 0
        assert not layer._peers
        assert not layer.active


@dataclass(slots=True)
class Link:
    """One direction: delay in seconds, probabilities of loss, duplication and reordering, and a rate in bytes per
    second.

    `drop` sees every segment and returns True for one that shall vanish; `log` holds what was sent, dropped or not.
    """

    seed: int = 1
    delay: float = 0.01
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    rate: float = 0.0
    queue: float = 0.2
    drop: Callable[[Segment], bool] | None = None
    log: list[Segment] = field(default_factory=list)
    dropped: int = 0
    busy_until: float = 0.0
    random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.random.seed(self.seed)

    def arrivals(self, packet: bytes, now: float) -> list[float]:
        """When copies of a packet arrive: none, one or two times."""
        assert_checksums_right(packet)
        segment = parse_segment(packet, now)
        self.log.append(segment)
        if (self.drop is not None and self.drop(segment)) or self.random.random() < self.loss:
            self.dropped += 1
            return []
        at = now + self.delay
        if self.rate:
            start = max(self.busy_until, now)
            if start - now > self.queue:
                self.dropped += 1
                return []
            self.busy_until = start + len(packet) / self.rate
            at = self.busy_until + self.delay
        if self.random.random() < self.reorder:
            at += self.delay * self.random.random()
        return [at, at + self.delay / 4] if self.random.random() < self.duplicate else [at]


class Network:
    """A client and a server, a link each way, and the clock."""

    def __init__(
        self,
        client: Host | None = None,
        server: Host | None = None,
        up: Link | None = None,
        down: Link | None = None,
        *,
        version: int = 4,
    ) -> None:
        self.client = client or Host("client")
        self.server = server or Host("server")
        self.up = up or Link(seed=11)
        self.down = down or Link(seed=22)
        self.version = version
        self.now = 1000.0
        self._events: list[tuple[float, int, Host, bytes]] = []
        self._number = 0

    def connect(self, port: int = 80) -> Connection:
        """The client opens a flow to the server."""
        local, remote = (CLIENT4, SERVER4) if self.version == 4 else (CLIENT6, SERVER6)
        connection = self.client.layer.connect(PEER, (local, 0), (remote, port), self.now)
        self.client.turn(self.now)
        self._collect()
        return connection

    def establish(self, port: int = 80) -> tuple[Connection, Connection]:
        """An established flow: the client's end and the server's."""
        connection = self.connect(port)
        before = len(self.server.accepted)
        self.run(30, lambda: connection.state.name == "ESTABLISHED" and len(self.server.accepted) > before)
        server = self.server.accepted[-1]
        self.run(5, lambda: server.state.name == "ESTABLISHED")
        return connection, server

    def inject(self, host: Host, packet: bytes) -> None:
        """A packet from nowhere arrives."""
        host.receive([packet], self.now)
        self._collect()

    def turn(self) -> None:
        """Both owners get a turn."""
        self.client.turn(self.now)
        self.server.turn(self.now)
        self._collect()

    def _collect(self) -> None:
        for source, target, link in ((self.client, self.server, self.up), (self.server, self.client, self.down)):
            packets, source.outbox = source.outbox, []
            for packet in packets:
                for at in link.arrivals(packet, self.now):
                    self._number += 1
                    heapq.heappush(self._events, (at, self._number, target, packet))

    def next_event(self) -> float | None:
        """When something happens next."""
        times = [self.client.layer.next_timer(), self.server.layer.next_timer()]
        if self._events:
            times.append(self._events[0][0])
        return min((at for at in times if at is not None), default=None)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let time pass; True as soon as `until` holds, False if it never did."""
        end = self.now + seconds
        self.turn()
        for _ in range(2_000_000):
            if until is not None and until():
                return True
            at = self.next_event()
            if at is None or at > end:
                self.now = end
                return until is not None and until()
            self.now = max(self.now, at)
            self._step()
        raise AssertionError("the simulation does not come to rest")

    def _step(self) -> None:
        for host in (self.client, self.server):
            batch: list[bytes] = []
            rest: list[tuple[float, int, Host, bytes]] = []
            while self._events and self._events[0][0] <= self.now + 1e-9:
                event = heapq.heappop(self._events)
                if event[2] is host:
                    batch.append(event[3])
                else:
                    rest.append(event)
            for event in rest:
                heapq.heappush(self._events, event)
            if batch:
                host.receive(batch, self.now)
        for host in (self.client, self.server):
            timer = host.layer.next_timer()
            if timer is not None and timer <= self.now:
                host.layer.handle_timer(self.now)
                host.turn(self.now)
        self._collect()


class Source:
    """Writes `data` into a connection as fast as it takes it, then closes its direction."""

    def __init__(self, host: Host, connection: Connection, data: bytes, *, shutdown: bool = True) -> None:
        self.connection = connection
        self.data = memoryview(data)
        self.position = 0
        self._shutdown = shutdown
        host.applications.append(self)

    def __call__(self, now: float) -> None:
        while self.position < len(self.data):
            slots = self.connection.send_slots()
            if not slots:
                return
            count = 0
            for slot in slots:
                piece = self.data[self.position + count : self.position + count + len(slot)]
                slot[: len(piece)] = piece
                count += len(piece)
            self.connection.commit(count, now)
            self.position += count
        if self._shutdown:
            self.connection.shutdown(now)


class Sink:
    """Reads all that comes, at most `rate` bytes a turn; closes its direction at the peer's FIN if told to."""

    def __init__(self, host: Host, connection: Connection, *, limit: int = 1 << 40, shutdown: bool = True) -> None:
        self.connection = connection
        self.data = bytearray()
        self.limit = limit
        self.finished = False
        self._shutdown = shutdown
        host.applications.append(self)

    def __call__(self, now: float) -> None:
        connection = self.connection
        size = min(connection.received_bytes, self.limit)
        if size:
            left = size
            for piece in connection.received:
                self.data += piece[:left]
                left -= min(len(piece), left)
                if not left:
                    break
            connection.consume(size, now)
        if connection.peer_closed and not connection.received_bytes and not self.finished:
            self.finished = True
            if self._shutdown:
                connection.shutdown(now)
