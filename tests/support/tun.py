"""Our stack on a TUN device, in a thread, so that Linux's own TCP is its peer; a link of ours in between, each way.

The stack's side offers a few services: `ECHO`, `DISCARD` (answers the end of the stream with its SHA-256), `SOURCE`
(sends as many bytes as the first eight of the stream say), `RESET` (aborts at the first byte). Other ports refuse.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import selectors
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final, Protocol

import dpkt

from lopower.netstack.config import StackConfig
from lopower.netstack.events import TcpSynReceived
from lopower.netstack.stack import Stack
from lopower.netstack.tcp.connection import Connection
from lopower.wire.rows import PacketBatch, PacketRows
from tests.support.link_emulator import Link, LinkConditions
from tests.support.netns import Namespace, one_namespace

LINK: Final = "tun0"
MTU: Final = 1420
LINUX: Final = {4: "10.9.0.2", 6: "fd00:9::2"}
STACK: Final = {4: "10.9.0.1", 6: "fd00:9::1"}
ROUTER: Final = {4: bytes((10, 9, 0, 99)), 6: bytes.fromhex("fd000009000000000000000000000099")}
RESET, ECHO, DISCARD, SOURCE = 6, 7, 9, 19
ROWS: Final = 256
PEER: Final = "linux"

_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x1001


def stream(size: int) -> bytes:
    """What `SOURCE` sends."""
    return random.Random(size).randbytes(size)


class Service(Protocol):
    """The owner of one connection on the stack's side."""

    def turn(self, connection: Connection, now: float) -> None:
        """The connection has news."""


class Echo:
    """Everything back, no faster than it is taken."""

    def turn(self, connection: Connection, now: float) -> None:
        while connection.received:
            taken = connection.send(connection.received[0], now)
            if not taken:
                return
            connection.consume(taken, now)
        if connection.peer_closed:
            connection.shutdown(now)


class Discard:
    """The digest, once the other side has said all."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._answered = False

    def turn(self, connection: Connection, now: float) -> None:
        for part in connection.received:
            self._digest.update(part)
        connection.consume(connection.received_bytes, now)
        if connection.peer_closed and not self._answered:
            self._answered = True
            connection.send(self._digest.digest(), now)
            connection.shutdown(now)


class Source:
    """As many bytes as asked, written into the connection's own slots."""

    def __init__(self) -> None:
        self._asked = b""
        self._data: memoryview[int] | None = None

    def turn(self, connection: Connection, now: float) -> None:
        if self._data is None:
            self._asked += b"".join(map(bytes, connection.received))
            connection.consume(connection.received_bytes, now)
            if len(self._asked) < 8:
                return
            self._data = memoryview(stream(struct.unpack("!Q", self._asked[:8])[0]))
        while self._data:
            committed = 0
            for slot in connection.send_slots():
                part = self._data[: len(slot)]
                slot[: len(part)] = part
                self._data = self._data[len(part) :]
                committed += len(part)
                if not self._data:
                    break
            if not committed:
                return
            connection.commit(committed, now)
        connection.shutdown(now)


class Reset:
    """A RST for the first byte."""

    def turn(self, connection: Connection, now: float) -> None:
        if connection.received:
            connection.abort(now)


SERVICES: Final[dict[int, Callable[[], Service]]] = {RESET: Reset, ECHO: Echo, DISCARD: Discard, SOURCE: Source}


class StackHost:
    """The stack's side: one thread that owns the stack and the TUN device.

    Attributes:
        up: the link from Linux to the stack; `down`: the other.
        path_mtu: what the way to Linux carries; larger packets are answered with "too big" by a router on it.
        connections: every one there was.
        fault: what ended the thread, if anything did.
    """

    def __init__(self, space: Namespace, up: LinkConditions, down: LinkConditions, seed: int) -> None:
        self.space = space
        self.up, self.down = Link(up, seed), Link(down, seed + 1)
        self.path_mtu = 65_535
        self.connections: list[Connection] = []
        self.fault: BaseException | None = None
        self.stack = Stack(
            config=StackConfig(local_addresses=frozenset(map(_packed, STACK.values())), mtu=MTU),
            entropy=os.urandom,
            uniform=random.Random(seed).uniform,
            output=self,
        )
        self._batch = PacketBatch(PacketRows(ROWS, 1440))
        self._orders: list[Callable[[float], None]] = []
        self._ending = False
        self._wake_reader, self._wake_writer = os.pipe()
        self._tun = space.call(_open_tun)
        try:
            space.ip("link", "set", LINK, "mtu", str(MTU), "up")
            space.ip("address", "add", f"{LINUX[4]}/24", "dev", LINK)
            space.ip("address", "add", f"{LINUX[6]}/64", "dev", LINK, "nodad")
        except BaseException:
            os.close(self._tun)
            raise
        self._thread = threading.Thread(target=self._run, name="stack on TUN")
        self._thread.start()

    def send_packets(self, peer: Any, packets: Sequence[Any], now: float) -> None:
        """`PacketOutput`: towards Linux."""
        for packet in packets:
            self._towards_linux(bytes(packet), now)

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        """`PacketOutput`: towards Linux."""
        for row in range(first, first + count):
            length = last_length if row == first + count - 1 else packet_length
            self._towards_linux(bytes(rows.packet(row, length)), now)

    def connect(self, version: int, port: int, service: Service) -> Connection:
        """An active open from the stack to Linux."""
        opened: list[Connection] = []
        done = threading.Event()

        def order(now: float) -> None:
            connection = self.stack.tcp.connect(
                PEER, (_packed(STACK[version]), 40_000 + port), (_packed(LINUX[version]), port), now
            )  # fmt: skip
            connection.owner = service
            self.connections.append(connection)
            opened.append(connection)
            done.set()

        self._orders.append(order)
        os.write(self._wake_writer, b"w")
        assert done.wait(10), "the stack's thread has ended"
        return opened[0]

    def close(self) -> None:
        """End the thread; what ended it before is raised."""
        self._ending = True
        os.write(self._wake_writer, b"w")
        self._thread.join()
        for descriptor in (self._tun, self._wake_reader, self._wake_writer):
            os.close(descriptor)
        if self.fault is not None:
            raise self.fault

    def _towards_linux(self, packet: bytes, now: float) -> None:
        if len(packet) > self.path_mtu:
            self.up.offer(_too_big(packet, self.path_mtu), now)
        else:
            self.down.offer(packet, now)

    def _run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._tun, selectors.EVENT_READ)
                selector.register(self._wake_reader, selectors.EVENT_READ)
                while not self._ending:
                    due = (self.stack.next_timer(), self.up.next_due(), self.down.next_due())
                    deadline = min((at for at in due if at is not None), default=None)
                    timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
                    for key, _ in selector.select(timeout):
                        if key.fd == self._wake_reader:
                            os.read(self._wake_reader, 64)
                    self._turn()
        except BaseException as exc:
            self.fault = exc

    def _turn(self) -> None:
        stack, batch, now = self.stack, self._batch, time.monotonic()
        for _ in range(ROWS):
            try:
                self.up.offer(os.read(self._tun, 65_535), now)
            except BlockingIOError:
                break
        arrived = self.up.due(now)
        for first in range(0, max(len(arrived), 1), ROWS):
            batch.clear()
            for row, packet in enumerate(arrived[first : first + ROWS]):
                start = row * batch.rows.stride
                batch.rows.view[start : start + len(packet)] = packet
                batch.lengths[row] = len(packet)
                batch.count += 1
            if batch.count:
                batch.runs.append((PEER, 0, batch.count))
                stack.receive(batch, now)
            self._owners(now)
            stack.flush(now)
        due = stack.next_timer()
        if due is not None and due <= now:
            stack.handle_timer(now)
            self._owners(now)
            stack.flush(now)
        for packet in self.down.due(time.monotonic()):
            try:
                os.write(self._tun, packet)
            except OSError:  # the kernel's queue is full: lost, as on a link
                pass

    def _owners(self, now: float) -> None:
        while self._orders:
            self._orders.pop(0)(now)
        for event in self.stack.take_events():
            if not isinstance(event, TcpSynReceived):
                continue
            connection = event.connection
            self.connections.append(connection)
            service = SERVICES.get(connection.local[1])
            if service is None:
                connection.reject(now)
            else:
                connection.owner = service()
                connection.accept(now)
        for flow in self.stack.take_dirty():
            if flow.owner is not None and isinstance(flow, Connection):
                flow.owner.turn(flow, now)


@contextmanager
def stack_on_tun(
    *, up: LinkConditions | None = None, down: LinkConditions | None = None, seed: int = 1
) -> Iterator[StackHost]:
    """A namespace with `tun0`, and our stack at its other end."""
    with one_namespace("tun") as space:
        host = StackHost(space, up or LinkConditions(), down or LinkConditions(), seed)
        try:
            yield host
        finally:
            host.close()


def _open_tun() -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", LINK.encode(), _IFF_TUN_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _too_big(packet: bytes, mtu: int) -> bytes:
    """A router's ICMP error about a packet of the stack's (RFC 1191 section 4, RFC 4443 section 3.2)."""
    if packet[0] >> 4 == 4:
        body = struct.pack("!HH", 0, mtu) + packet[:28]
        error = dpkt.icmp.ICMP(type=3, code=4, data=body)
        return bytes(dpkt.ip.IP(src=ROUTER[4], dst=packet[12:16], p=1, data=error))
    error = dpkt.icmp6.ICMP6(type=2, code=0, data=struct.pack("!I", mtu) + packet[:1232])
    whole = dpkt.ip6.IP6(src=ROUTER[6], dst=packet[8:24], nxt=58, hlim=64, data=error)
    whole.plen = len(bytes(error))
    whole.extension_hdrs = {}
    whole.p = 58
    return bytes(whole)
