"""WireGuard interfaces on a simulated network: a clock that is set, visible wires, losses by a predicate.

A `Node` owns one `Interface`. What it transmits goes onto its `Network`, datagram by datagram, and arrives when the
network is told to deliver. Accepted time stamps are "stored" at once unless a node is told to hold them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from lopower.wire.datagrams import DatagramBatch, Endpoint
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.events import Event, TimestampsAccepted
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer

SLOT = 65_536


def ipv4_packet(source: str, destination: str, payload: bytes = b"") -> bytes:
    """An IPv4 packet (protocol 253) that is whole; checksums are not WireGuard's business."""
    header = bytes((0x45, 0)) + (20 + len(payload)).to_bytes(2, "big") + bytes(4) + bytes((64, 253, 0, 0))
    return header + ip_address(source).packed + ip_address(destination).packed + payload


def ipv6_packet(source: str, destination: str, payload: bytes = b"") -> bytes:
    """An IPv6 packet (next header 59)."""
    header = bytes((0x60, 0, 0, 0)) + len(payload).to_bytes(2, "big") + bytes((59, 64))
    return header + ip_address(source).packed + ip_address(destination).packed + payload


@dataclass(frozen=True, slots=True)
class Datagram:
    """On the wire."""

    data: bytes
    source: Endpoint
    destination: Endpoint


class Wallclock:
    """TAI64N stamps that increase strictly, from a simulated wall clock."""

    def __init__(self, seconds: int = 1_700_000_000) -> None:
        self.seconds = seconds
        self._count = 0

    def __call__(self) -> bytes:
        self._count += 1
        return (2**62 + 10 + self.seconds).to_bytes(8, "big") + self._count.to_bytes(4, "big")


@dataclass
class Network:
    """Datagrams under way, in order. `drops(datagram)` says which are lost."""

    now: float = 1000.0
    wire: list[Datagram] = field(default_factory=list)
    nodes: dict[tuple[str, int], Node] = field(default_factory=dict)
    log: list[Datagram] = field(default_factory=list)
    drops: Callable[[Datagram], bool] = lambda _: False

    def carry(self, datagram: Datagram) -> None:
        self.log.append(datagram)
        if not self.drops(datagram):
            self.wire.append(datagram)

    def deliver(self) -> int:
        """Deliver what is on the wire, and what comes of it, until it is empty. Returns the number of datagrams."""
        delivered = 0
        while self.wire:
            under_way, self.wire = self.wire, []
            arriving: dict[tuple[str, int], list[Datagram]] = {}
            for datagram in under_way:
                arriving.setdefault((datagram.destination.host, datagram.destination.port), []).append(datagram)
            for address, datagrams in arriving.items():
                if address in self.nodes:
                    self.nodes[address].receive_datagrams([(d.data, d.source) for d in datagrams])
            delivered += len(under_way)
        return delivered

    def run_until(self, end: float) -> None:
        """Let time pass: timers fire at their deadlines, datagrams arrive without delay."""
        self.deliver()
        while True:
            nodes = list(dict.fromkeys(self.nodes.values()))
            deadlines = [deadline for node in nodes if (deadline := node.interface.next_timer()) is not None]
            deadline = min(deadlines, default=end)
            if deadline > end:
                break
            self.now = max(self.now, deadline)
            due = [node for node in nodes if (at := node.interface.next_timer()) is not None and at <= self.now]
            if not due:
                break
            for node in due:
                node.handle_timer()
            self.deliver()
        self.now = max(self.now, end)


class Node:
    """An interface, its address and what it received."""

    def __init__(
        self,
        network: Network,
        name: str,
        address: str,
        *,
        port: int = 51820,
        seed: int = 0,
        config: InterfaceConfig | None = None,
        jitter: float = 0.0,
        wallclock: Wallclock | None = None,
        private_key: bytes | None = None,
    ) -> None:
        self.network = network
        self.name = name
        self.endpoint = Endpoint(address, port)
        self.random = random.Random(f"{name}/{seed}")
        self.wallclock = wallclock or Wallclock()
        self.private_key = private_key or self.random.randbytes(32)
        self.batch = DatagramBatch(bytearray(16 * SLOT))
        self.received: list[tuple[Peer, bytes]] = []
        self.events: list[Event] = []
        self.stored: dict[Peer, bytes] = {}
        self.holds_timestamps = False
        self.held: list[int] = []
        self.transmissions: list[tuple[int, int]] = []  # bytes and segment size of each call
        self.interface = Interface(
            private_key=self.private_key,
            config=config or InterfaceConfig(),
            entropy=self.random.randbytes,
            uniform=lambda a, b: a + (b - a) * jitter,
            timestamp=self.wallclock,
            transmit=self.transmit,
        )
        network.nodes[address, port] = self

    def move(self, address: str, port: int = 51820) -> None:
        """Another outer address from now on, as behind a NAT that has forgotten us."""
        del self.network.nodes[self.endpoint.host, self.endpoint.port]
        self.endpoint = Endpoint(address, port)
        self.network.nodes[address, port] = self

    def transmit(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint, /) -> None:
        self.transmissions.append((len(datagrams), segment_size))
        for at in range(0, len(datagrams), segment_size):
            self.network.carry(Datagram(bytes(datagrams[at : at + segment_size]), self.endpoint, endpoint))

    def receive_datagrams(self, datagrams: Sequence[tuple[bytes, Endpoint]], *, coalesce: bool = True) -> None:
        """As the UDP socket does with GRO: equal sizes from one source together, the last one of them shorter."""
        supers: list[tuple[bytearray, int, Endpoint]] = []
        open_for_more = False
        for data, source in datagrams:
            if coalesce and open_for_more:
                payload, size, endpoint = supers[-1]
                if endpoint == source and 0 < len(data) <= size and len(payload) + len(data) < SLOT - 64:
                    payload += data
                    open_for_more = len(data) == size and len(payload) < 64 * size
                    continue
            supers.append((bytearray(data), max(len(data), 1), source))
            open_for_more = True
        for first in range(0, len(supers), 16):
            self.batch.clear()
            for slot, (payload, size, source) in enumerate(supers[first : first + 16]):
                self.batch.buffer[slot * SLOT : slot * SLOT + len(payload)] = payload
                self.batch.append(slot * SLOT, len(payload), size, source)
            self._receive()

    def receive(self, data: bytes, source: Endpoint) -> None:
        """One datagram, in a turn of its own."""
        self.receive_datagrams([(data, source)])

    def _receive(self) -> None:
        packets = self.interface.receive(self.batch, self.network.now)
        covered = 0
        for peer, first, last in packets.runs:
            assert first == covered
            covered = last
            for row in range(first, last):
                length = packets.lengths.item(row)
                if length:
                    self.received.append((peer, bytes(packets.rows.packet(row, length))))
        assert covered == packets.count
        self.received += packets.large
        self.take_events()

    def handle_timer(self) -> None:
        self.interface.handle_timer(self.network.now)
        self.take_events()

    def take_events(self) -> None:
        for event in self.interface.take_events():
            self.events.append(event)
            if isinstance(event, TimestampsAccepted):
                self.stored.update(event.timestamps)
                if self.holds_timestamps:
                    self.held.append(event.token)
                else:
                    self.interface.timestamps_stored(event.token, self.network.now)

    def release_timestamps(self) -> None:
        """The disk has caught up."""
        for token in self.held:
            self.interface.timestamps_stored(token, self.network.now)
        self.held.clear()
        self.take_events()

    def add(self, other: Node, *allowed_ips: str, known: bool = False, **options: Any) -> Peer:
        """Make the other node a peer; `known`: with its endpoint."""
        return self.interface.add_peer(
            other.interface.public_key,
            allowed_ips=allowed_ips,
            endpoint=other.endpoint if known else None,
            **options,
        )

    def send(self, peer: Peer, *packets: bytes) -> None:
        self.interface.send_packets(peer, packets, self.network.now)
        self.take_events()

    def events_of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def packets(self) -> list[bytes]:
        """What was received since the last call, without padding."""
        packets = [trimmed(packet) for _, packet in self.received]
        self.received.clear()
        return packets


def trimmed(packet: bytes) -> bytes:
    """A packet without padding, by its IP header."""
    if packet[0] >> 4 == 4:
        return packet[: int.from_bytes(packet[2:4], "big")]
    return packet[: 40 + int.from_bytes(packet[4:6], "big")]


class Pair:
    """A device that initiates and a server that knows it, with addresses 10.90.0.2 and 10.90.0.1."""

    def __init__(self, *, psk: bytes | None = None, jitter: float = 0.0, **device: Any) -> None:
        self.network = Network()
        self.device = Node(self.network, "device", "192.0.2.2", port=40000, jitter=jitter)
        self.server = Node(self.network, "server", "192.0.2.1", jitter=jitter)
        self.to_server = self.device.add(self.server, "0.0.0.0/0", "::/0", known=True, preshared_key=psk, **device)
        self.to_device = self.server.add(self.device, "10.90.0.2/32", "fd7a:115c:a1e0:9909::2/128", preshared_key=psk)

    @property
    def now(self) -> float:
        return self.network.now

    def up(self, payload: bytes = b"") -> bytes:
        """A packet of the device."""
        return ipv4_packet("10.90.0.2", "10.90.0.1", payload)

    def down(self, payload: bytes = b"") -> bytes:
        """A packet to the device."""
        return ipv4_packet("10.90.0.1", "10.90.0.2", payload)

    def connect(self) -> None:
        """Handshake and confirmation."""
        self.device.interface.connect(self.to_server, self.now)
        self.network.deliver()
        assert self.to_server.has_session(self.now)
        assert self.to_device.has_session(self.now)
        self.device.packets()
        self.server.packets()
