"""Our WireGuard core on a plain UDP socket, in a thread: one side of a tunnel whose other side we did not write.

It answers echo requests to its inner addresses, and pings on its own, so that both sides can be the one that speaks
first. Every datagram is a batch of its own or one of a few: what the kernel has when the thread looks.
"""

from __future__ import annotations

import os
import random
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from lopower.wire.datagrams import DatagramBatch, Endpoint
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.events import TimestampsAccepted
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer
from tests.support.netns import Namespace

SLOT: Final = 65_536
SLOTS: Final = 16
IDENTIFIER: Final = 0x10B0


class CoreEndpoint:
    """One interface with one peer at most.

    Attributes:
        interface: belongs to the thread; look at it, but change it through `order`.
        replies: sequence numbers of the echo replies that came, with repetitions.
        requests: how many echo requests of the other side were answered.
        fault: what ended the thread, if anything did.
    """

    def __init__(self, space: Namespace, host: str, port: int, private_key: bytes) -> None:
        self._socket = space.call(lambda: _bind(host, port))
        self.interface = Interface(
            private_key=private_key,
            config=InterfaceConfig(),
            entropy=os.urandom,
            uniform=random.Random(port).uniform,
            timestamp=_timestamp,
            transmit=self._transmit,
        )
        self.replies: list[int] = []
        self.requests = 0
        self.fault: BaseException | None = None
        self._batch = DatagramBatch(bytearray(SLOT * SLOTS))
        self._orders: list[Callable[[float], None]] = []
        self._ending = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._thread = threading.Thread(target=self._run, name="WireGuard core")
        self._thread.start()

    def order(self, action: Callable[[float], None]) -> None:
        """Have the thread call `action(now)`, and wait for that."""
        done = threading.Event()

        def run(now: float) -> None:
            action(now)
            done.set()

        self._orders.append(run)
        os.write(self._wake_writer, b"w")
        assert done.wait(10), f"the core's thread has ended: {self.fault!r}"

    def add_peer(
        self, public_key: bytes, preshared_key: bytes | None, allowed: tuple[str, ...], endpoint: Endpoint | None = None
    ) -> Peer:
        """The other side."""

        def add(_: float) -> None:
            self.interface.add_peer(public_key, preshared_key=preshared_key, allowed_ips=allowed, endpoint=endpoint)

        self.order(add)
        return self.interface.peers[public_key]

    def ping(self, peer: Peer, source: str, destination: str, sequence: int) -> None:
        """One echo request through the tunnel; a session is made if there is none."""
        packet = echo_request(source, destination, sequence)
        self.order(lambda now: self.interface.send_packets(peer, [packet], now))

    def close(self) -> None:
        """End the thread; what ended it before is raised."""
        self._ending = True
        os.write(self._wake_writer, b"w")
        self._thread.join()
        self._socket.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)
        if self.fault is not None:
            raise self.fault

    def _transmit(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint, /) -> None:
        for at in range(0, len(datagrams), segment_size):
            try:
                self._socket.sendto(datagrams[at : at + segment_size], (endpoint.host, endpoint.port))
            except OSError:  # not reachable now: lost, as on a link
                pass

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._socket, selectors.EVENT_READ)
                selector.register(self._wake_reader, selectors.EVENT_READ)
                while not self._ending:
                    deadline = self.interface.next_timer()
                    timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
                    for key, _ in selector.select(timeout):
                        if key.fd == self._wake_reader:
                            os.read(self._wake_reader, 64)
                    self._turn(time.monotonic())
        except BaseException as exc:
            self.fault = exc

    def _turn(self, now: float) -> None:
        interface, batch = self.interface, self._batch
        batch.clear()
        for offset in range(0, SLOTS * SLOT, SLOT):
            try:
                length, source = self._socket.recvfrom_into(batch.view[offset : offset + SLOT])
            except OSError:  # drained, or an ICMP error for what was sent
                break
            batch.append(offset, length, max(length, 1), Endpoint(source[0], source[1]))
        if batch.lengths:
            packets = interface.receive(batch, now)
            for peer, first, last in packets.runs:
                for row in range(first, last):
                    if length := packets.lengths.item(row):
                        self._packet(peer, bytearray(packets.rows.packet(row, length)), now)
            for peer, packet in packets.large:
                self._packet(peer, bytearray(packet), now)
        while self._orders:
            self._orders.pop(0)(now)
        deadline = interface.next_timer()
        if deadline is not None and deadline <= now:
            interface.handle_timer(now)
        for event in interface.take_events():
            if isinstance(event, TimestampsAccepted):
                interface.timestamps_stored(event.token, now)

    def _packet(self, peer: Peer, packet: bytearray, now: float) -> None:
        version = packet[0] >> 4
        if version == 4:
            header, addresses, size = 20, 12, 4
            packet = packet[: int.from_bytes(packet[2:4], "big")]
        else:
            header, addresses, size = 40, 8, 16
            packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
        request, reply = (8, 0) if version == 4 else (128, 129)
        if packet[header] == reply and packet[header + 4 : header + 6] == IDENTIFIER.to_bytes(2, "big"):
            self.replies.append(int.from_bytes(packet[header + 6 : header + 8], "big"))
        elif packet[header] == request:
            source = packet[addresses : addresses + size]
            packet[addresses : addresses + size] = packet[addresses + size : addresses + 2 * size]
            packet[addresses + size : addresses + 2 * size] = source
            packet[header] = reply
            packet[header + 2 : header + 4] = bytes(2)
            packet[header + 2 : header + 4] = _icmp_checksum(packet, header)
            self.requests += 1
            self.interface.send_packets(peer, [packet], now)


def echo_request(source: str, destination: str, sequence: int, payload: bytes = b"lopower" * 8) -> bytes:
    """A whole packet."""
    ends = ip_address(source).packed + ip_address(destination).packed
    body = struct.pack("!BBHHH", 8 if len(ends) == 8 else 128, 0, 0, IDENTIFIER, sequence & 0xFFFF) + payload
    if len(ends) == 8:
        ip = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(body), 0, 64, 1, 0) + ends
        packet = bytearray(ip + body)
        packet[10:12] = _checksum(packet[:20])
    else:
        packet = bytearray(struct.pack("!IHBB", 0x60000000, len(body), 58, 64) + ends + body)
    header = len(packet) - len(body)
    packet[header + 2 : header + 4] = _icmp_checksum(packet, header)
    return bytes(packet)


def _icmp_checksum(packet: bytearray, header: int) -> bytes:
    body = bytes(packet[header:])
    if header == 20:
        return _checksum(body)
    return _checksum(bytes(packet[8:40]) + struct.pack("!IHBB", len(body), 0, 0, 58) + body)


def _checksum(data: bytes | bytearray) -> bytes:
    """RFC 1071, written out: the product's own is not used to check the product."""
    data = bytes(data) + bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _bind(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    opened.bind((host, port))
    opened.setblocking(False)
    return opened


def _timestamp() -> bytes:
    """TAI64N of now; time.time_ns does not repeat itself between two handshakes."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return struct.pack("!QI", 2**62 + 10 + seconds, nanoseconds)
