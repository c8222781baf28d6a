"""Pairs of cores with visible wires, simulated time and seeded links; for CPython and MicroPython."""

from lopower_device import kernels as k
from lopower_device import ticks
from lopower_device.addresses import Networks
from lopower_device.counters import COUNT
from lopower_device.crypto import words
from lopower_device.keypair import Static
from lopower_device.noise import public_key
from lopower_device.peer import Peer
from lopower_device.stack import Stack

MTU = 1420


class Random:
    """Seeded, the same on both interpreters (numbers of Knuth's MMIX generator's low half)."""

    def __init__(self, seed):
        self._state = seed * 2654435761 + 1 & 0x7FFFFFFF

    def __call__(self, limit):
        self._state = self._state * 1103515245 + 12345 & 0x7FFFFFFF
        return (self._state >> 8) % limit

    def bytes(self, n):
        return bytes([self(256) for _ in range(n)])


class Wire:
    """Stands for a peer between two stacks: packets with loss, duplicates and reordering by percent."""

    def __init__(self):
        self.tx = self.rx = bytearray(1600)
        self.counters = words(COUNT)
        self.sent = []

    def send(self, length, now):
        self.sent.append(bytes(memoryview(self.tx)[16 : 16 + length]))


class Net:
    """Two stacks, `one` and `other`, and time."""

    def __init__(self, seed=1, loss=0, duplicate=0, reorder=0, delay=5, ipv6=False, rings=(4140, 2760)):
        self.random = Random(seed)
        self.now = 0x1FFFFFFF - 2000  # time wraps during each test
        self.loss, self.duplicate, self.reorder, self.delay = loss, duplicate, reorder, delay
        addresses = [bytes((10, 0, 0, n)) for n in (1, 2)] if not ipv6 else [bytes(15) + bytes((n,)) for n in (3, 4)]
        self.addresses = addresses
        self.wires = Wire(), Wire()
        self.one, self.other = [
            Stack(
                peer=wire,
                addresses=[address],
                mtu=MTU,
                entropy=self.random.bytes,
                receive_ring=rings[0],
                send_ring=rings[1],
            )
            for wire, address in zip(self.wires, addresses)
        ]
        self.flying = []
        self.seen = []
        self.elapsed = 0

    def step(self, milliseconds=1):
        """Time passes; what is due arrives."""
        self.now = ticks.add(self.now, milliseconds)
        self.elapsed += milliseconds
        for side, wire in enumerate(self.wires):
            for packet in wire.sent:
                self.seen.append((side, packet))
                copies = 0 if self.random(100) < self.loss else 2 if self.random(100) < self.duplicate else 1
                for _ in range(copies):
                    late = self.delay * 3 if self.random(100) < self.reorder else 0
                    self.flying.append((self.elapsed + self.delay + late, side, packet))
            wire.sent = []
        if self.flying:
            arrived = [entry for entry in self.flying if entry[0] <= self.elapsed]
            if arrived:
                self.flying = [entry for entry in self.flying if entry[0] > self.elapsed]
            for _, side, packet in sorted(arrived, key=lambda entry: entry[0]):
                self.deliver(1 - side, packet)
        for stack in (self.one, self.other):
            stack.handle_timers(self.now)

    def deliver(self, side, packet):
        """A packet to one of the stacks."""
        stack = (self.one, self.other)[side]
        k.copy(stack.rx, 16, packet, 0, len(packet))
        stack.receive(len(packet), self.now)

    def run(self, condition, limit=60_000):
        """Until something is so; fails after `limit` milliseconds."""
        while not condition():
            assert limit > 0, "not in time"
            step = 1 if self.flying or self.wires[0].sent or self.wires[1].sent else 10
            self.step(step)
            limit -= step

    def connected(self, port=80):
        """(client's connection, server's)."""
        listener = self.other.listen(port, 4)
        client = self.one.connect((self.addresses[1], port), self.now)
        self.run(lambda: listener.ready and client.is_open)
        return client, listener.ready.pop(0)


def checksum_is_right(packet):
    """IPv4's header and the checksum of what is inside."""
    packet = bytearray(packet)
    if packet[0] >> 4 == 4:
        assert k.checksum_add(packet, 0, 20, 0) == 0xFFFF
        protocol, at, size, source = packet[9], 20, 8, 12
        length = len(packet) - 20
    else:
        protocol, at, size, source = packet[6], 40, 32, 8
        length = len(packet) - 40
    total = 0
    if protocol != 1:
        total = k.checksum_add(packet, source, size, (protocol << 8) + ((length & 255) << 8 | length >> 8))
    return k.checksum_add(packet, at, length, total) == 0xFFFF


class Tunnel:
    """Two WireGuard peers of ours: each one the other's proxy."""

    def __init__(self, psk=None, keepalive=0, mtu=MTU):
        self.random = Random(7)
        self.now = 0x1FFFFFFF - 1000
        self.stamp = 0
        keys = [bytes([number]) * 32 for number in (1, 2)]
        self.flying = []
        self.wires = []
        self.peers = []
        for side in (0, 1):
            self.peers.append(
                Peer(
                    static=Static(keys[side], public_key(keys[1 - side]), psk),
                    mtu=mtu,
                    allowed=Networks(["10.0.0.0/8", "fd00::/8"]),
                    persistent_keepalive=keepalive,
                    transmit=self._transmit(side),
                    entropy=self.random.bytes,
                    jitter=self.random,
                    timestamp=self._timestamp,
                    counters=words(COUNT),
                )
            )
        self.one, self.other = self.peers
        for peer in self.peers:
            self.compute(peer)

    def _transmit(self, side):
        def transmit(buffer, length):
            datagram = bytes(memoryview(buffer)[:length])
            self.wires.append((side, datagram))
            self.flying.append((1 - side, datagram))

        return transmit

    def _timestamp(self):
        self.stamp += 1
        return bytes(8) + self.stamp.to_bytes(4, "big")

    def compute(self, peer):
        """A handshake's computation to its end."""
        while peer.step(self.now):
            pass

    def settle(self):
        """All datagrams arrive; the plaintext packets that came, as (side, packet)."""
        packets = []
        self.compute(self.one)
        self.compute(self.other)
        while self.flying:
            side, datagram = self.flying.pop(0)
            packet = self.deliver(side, datagram)
            if packet:
                packets.append((side, packet))
        return packets

    def deliver(self, side, datagram):
        """One datagram; the packet it brought."""
        peer = self.peers[side]
        k.copy(peer.rx, 0, datagram, 0, min(len(datagram), 1536))
        length = peer.receive(len(datagram), self.now)
        packet = bytes(memoryview(peer.rx)[16 : 16 + length]) if length else None
        self.compute(peer)
        return packet

    def send(self, side, packet):
        """A packet into one end."""
        peer = self.peers[side]
        peer.tx[16 : 16 + len(packet)] = packet
        peer.send(len(packet), self.now)

    def wait(self, milliseconds, step=250):
        """Time passes, with timers; what arrives meanwhile is delivered."""
        packets = []
        while milliseconds > 0:
            part = min(step, milliseconds)
            milliseconds -= part
            self.now = ticks.add(self.now, part)
            for peer in self.peers:
                peer.handle_timers(self.now)
            packets += self.settle()
        return packets

    def connect(self):
        """A session."""
        self.one.connect(self.now)
        self.settle()


def ipv4(length=40, source=(10, 0, 0, 1)):
    """A packet of some length."""
    return (
        bytes((0x45, 0, length >> 8, length & 255))
        + bytes(8)
        + bytes(source)
        + bytes((10, 0, 0, 2))
        + bytes(length - 20)
    )
