"""Ports of the host's tailnet addresses for the `host` driver: what the tailnet sends there goes to a device.

A port is listened on at each tailnet address that the host has, over both IP versions, and nowhere else; addresses
that appear or change are followed. The kernel answers a TCP peer before the device has: what the device refuses is
reset, therefore, where a node of the proxy's own would refuse. It does not tell either who a peer is, beyond its
address.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from lopower.tailnet.driver import IPAddress
from lopower.tailnet.tsnet_inbound import PROXY_NODE, InboundRequest
from lopower.wire.proxy_protocol import Transport

if TYPE_CHECKING:
    from typing_extensions import Buffer

log = logging.getLogger(__name__)

# What cannot be bound now may be later: another program ends, an address is no longer tentative (RFC 4862).
RETRY_SECONDS: Final = 5.0
_BACKLOG: Final = 128
# Taken for one readiness; the loop has other work.
_BATCH: Final = 64
_LARGEST_DATAGRAM: Final = 65_535
# Senders of one port whose flows have not ended. A peer takes as many of its ports as it likes.
MAX_SENDERS: Final = 1024
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

# Whether a peer with this address may connect.
Permits = Callable[[IPAddress], bool]
Port = tuple[Transport, int]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HostRequest(InboundRequest):
    """A connection that the kernel has accepted."""

    def accept(self, *, tls: bool = False) -> None:
        """As `InboundRequest.accept`: the kernel has done it."""

    def refuse(self) -> None:
        """As `InboundRequest.refuse`: all that is left is to reset it."""
        with contextlib.suppress(OSError):
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def peer_gave_up(self) -> bool:
        """As `InboundRequest.peer_gave_up`: a peer that has said all it has to say has not."""
        poll = select.poll()
        poll.register(self.stream, 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HostDatagramRequest(InboundRequest):
    """Datagrams of one sender; `stream` has those that came, as datagrams."""

    carrier: HostDatagrams

    def accept(self, *, tls: bool = False) -> None:
        """As `InboundRequest.accept`."""

    def refuse(self) -> None:
        """As `InboundRequest.refuse`; the peer is told nothing, which only the kernel could."""
        self.carrier.close()

    def datagrams(self) -> HostDatagrams:
        """As `InboundRequest.datagrams`."""
        return self.carrier


class HostDatagrams:
    """One sender's datagrams to a port of ours, with the calls of a connected UDP socket.

    What came is handed over through a pair of sockets, so that it can be watched like any other; what is answered
    leaves from the port itself.
    """

    __slots__ = ("_closed", "_feed", "_listening", "_sender", "_stream")

    def __init__(self, listening: socket.socket, sender: tuple[str, int], closed: Callable[[], None]) -> None:
        self._stream, self._feed = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._stream.setblocking(False)
        self._feed.setblocking(False)
        self._listening = listening
        self._sender = sender
        self._closed: Callable[[], None] | None = closed

    @property
    def stream(self) -> socket.socket:
        """Where datagrams come."""
        return self._stream

    def fileno(self) -> int:
        """As `socket.socket.fileno`."""
        return self._stream.fileno()

    def feed(self, payload: Buffer) -> None:
        """A datagram came; dropped if those before it were not taken."""
        with contextlib.suppress(OSError):
            self._feed.send(payload)

    def send(self, payload: Buffer) -> int:
        """As `UdpSocket.send`."""
        if self._listening.fileno() < 0:
            raise EOFError("the port is not listened on any more")
        return self._listening.sendto(payload, self._sender)

    def recv_into(self, slot: memoryview[int]) -> int:
        """As `UdpSocket.recv_into`."""
        return self._stream.recv_into(slot)

    def send_notice(self, code: int) -> None:
        """As `FramedUdp.send_notice`: ICMP errors are the kernel's to send, and it knows of none."""

    def close(self) -> None:
        """As `socket.socket.close`. Harmless when it was."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._stream.close()
            self._feed.close()
            closed()


@dataclass(frozen=True, slots=True)
class PortState:
    """What has become of a port.

    Attributes:
        addresses: where it is listened on.
        failures: where it is not, and why, for people.
    """

    addresses: tuple[IPAddress, ...]
    failures: tuple[tuple[IPAddress, str], ...]


class HostListeners:
    """All of them.

    Args:
        loop: watches the sockets.
        opened: called with each flow.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, opened: Callable[[InboundRequest], None]) -> None:
        self._loop = loop
        self._opened = opened
        self._ports: Mapping[Port, Permits] = {}
        self._addresses: frozenset[IPAddress] = frozenset()
        self._listening: dict[tuple[Port, IPAddress], _Listener] = {}
        self._failures: dict[tuple[Port, IPAddress], str] = {}
        self._retry: asyncio.TimerHandle | None = None

    def set_ports(self, ports: Mapping[Port, Permits]) -> None:
        """Listen on these ports from now on, and let these peers in."""
        self._ports = dict(ports)
        self._reconcile()

    def set_addresses(self, addresses: Iterable[IPAddress]) -> None:
        """The host's tailnet addresses are these from now on."""
        self._addresses = frozenset(addresses)
        self._reconcile()

    def state(self, port: Port) -> PortState:
        """What has become of a port."""
        return PortState(
            addresses=tuple(sorted((address for of, address in self._listening if of == port), key=_order)),
            failures=tuple(
                (address, text)
                for (of, address), text in sorted(self._failures.items(), key=lambda item: _order(item[0][1]))
                if of == port
            ),
        )

    def close(self) -> None:
        """Listen no longer; flows go on until their owners end them."""
        self._ports = {}
        self._reconcile()

    def _reconcile(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        wanted = {(port, address) for port in self._ports for address in self._addresses}
        for place in set(self._listening) - wanted:
            self._listening.pop(place).close()
        before, self._failures = self._failures, {}
        for place in sorted(wanted - set(self._listening), key=lambda place: (place[0], _order(place[1]))):
            (transport, number), address = place
            try:
                listening = _bound(transport, address, number)
            except OSError as error:
                text = self._failures[place] = _explain(error, transport, number)
                if before.get(place) != text:
                    log.warning("%s port %d of %s: %s", transport, number, address, text)
                continue
            kind = _TcpListener if transport == "tcp" else _UdpListener
            self._listening[place] = kind(self._loop, listening, number, self._opened, partial(self._permits, place[0]))
            log.info("listening on %s port %d of %s for the tailnet", transport, number, address)
        if self._failures:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._reconcile)

    def _permits(self, port: Port, source: IPAddress) -> bool:
        permits = self._ports.get(port)
        return permits is not None and permits(source)


class _Listener:
    """One port of one address."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        port: int,
        opened: Callable[[InboundRequest], None],
        permits: Permits,
    ) -> None:
        self._loop = loop
        self._socket = listening
        self._port = port
        self._opened = opened
        self._permits = permits
        self._address = ip_address(listening.getsockname()[0])
        loop.add_reader(listening.fileno(), self._ready)

    def close(self) -> None:
        """Listen no longer."""
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _ready(self) -> None:
        raise NotImplementedError


class _TcpListener(_Listener):
    def _ready(self) -> None:
        for _ in range(_BATCH):
            try:
                stream, (host, source_port, *_) = self._socket.accept()
            except OSError:  # none is left; or there is no descriptor for it, and the next turn tries again
                return
            stream.setblocking(False)
            with contextlib.suppress(OSError):
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            source = ip_address(host)
            request = HostRequest(
                node=PROXY_NODE,
                transport="tcp",
                source=source,
                source_port=source_port,
                destination=self._address,
                destination_port=self._port,
                name="",
                user="",
                tags=(),
                stream=stream,
            )
            if self._permits(source):
                self._opened(request)
            else:
                request.refuse()
                stream.close()


class _UdpListener(_Listener):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        port: int,
        opened: Callable[[InboundRequest], None],
        permits: Permits,
    ) -> None:
        self._senders: dict[tuple[str, int], HostDatagrams] = {}
        super().__init__(loop, listening, port, opened, permits)

    def _ready(self) -> None:
        for _ in range(_BATCH):
            try:
                payload, (host, source_port, *_) = self._socket.recvfrom(_LARGEST_DATAGRAM)
            except OSError:  # none is left, or an ICMP error about an answer of ours
                return
            sender = (host, source_port)
            carrier = self._senders.get(sender)
            if carrier is not None:
                carrier.feed(payload)
            elif len(self._senders) < MAX_SENDERS and self._permits(ip_address(host)):
                self._begin(sender, payload)

    def _begin(self, sender: tuple[str, int], payload: bytes) -> None:
        try:
            carrier = HostDatagrams(self._socket, sender, lambda: self._ended(sender))
        except OSError as error:  # no descriptors
            log.warning("a datagram from %s cannot be taken: %s", sender[0], error.strerror)
            return
        self._senders[sender] = carrier
        carrier.feed(payload)
        self._opened(
            HostDatagramRequest(
                node=PROXY_NODE,
                transport="udp",
                source=ip_address(sender[0]),
                source_port=sender[1],
                destination=self._address,
                destination_port=self._port,
                name="",
                user="",
                tags=(),
                stream=carrier.stream,
                carrier=carrier,
            )
        )

    def _ended(self, sender: tuple[str, int]) -> None:
        self._senders.pop(sender, None)


def _bound(transport: Transport, address: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made = socket.socket(family, socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if address.version == 6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport == "tcp":
            # Connections of an earlier run that linger are no reason to wait for minutes. It admits no second listener.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((str(address), port))
        if transport == "tcp":
            made.listen(_BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _explain(error: OSError, transport: Transport, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        flag = "t" if transport == "tcp" else "u"
        return (
            f"another program has it (`ss -{flag}lpn sport = :{port}` shows which); it is tried again every "
            f"{RETRY_SECONDS:g} s"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return "ports below 1024 need root, or CAP_NET_BIND_SERVICE; choose a higher one"
    return f"{error.strerror}; it is tried again every {RETRY_SECONDS:g} s"


def _order(address: IPAddress) -> tuple[int, int]:
    return address.version, int(address)
