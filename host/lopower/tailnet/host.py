"""The host's own network stack: direct dials for what is allowed by name, and the `host` driver.

The driver needs nothing: on a host that is in a tailnet already, its devices reach the tailnet with the host's
identity. Its one duty is to dial the tailnet's ranges only where the route leaves by a tailnet interface. Elsewhere
100.64.0.0/10 is a provider's CGNAT, and the devices' traffic would go to strangers in clear text.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import socket
from collections.abc import Sequence
from typing import Any, Final

from lopower.tailnet.driver import (
    MAGIC_DNS_IPV4,
    DialForbidden,
    DialRefused,
    DialTimedOut,
    DialUnreachable,
    IPAddress,
    dial_error,
    in_tailnet_ranges,
)
from lopower.tailnet.routes import HostNetwork

# How long the tailnet's resolver may take; the DNS server answers SERVFAIL within 5 s.
QUERY_SECONDS: Final = 4.0
_DNS_PORT: Final = 53
_MAX_DNS_MESSAGE: Final = 65_535
# Linux: choose the local port when connecting, so that one source address has 28,000 ports per destination, not in all.
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 600), ("TCP_KEEPINTVL", 75), ("TCP_KEEPCNT", 9))
_CONNECTING: Final = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


class HostTcpDial:
    """A connection that the kernel is making.

    Attributes:
        socket: the connecting socket.
    """

    __slots__ = ("_never_self", "socket")

    def __init__(self, connecting: socket.socket, never_self: bool) -> None:
        self.socket = connecting
        self._never_self = never_self

    def advance(self) -> bool:
        """As `TcpDial.advance`."""
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise dial_error(code)
        try:
            destination = self.socket.getpeername()[0]
        except OSError:
            return False  # not connected and no error: still on its way
        if self._never_self and self.socket.getsockname()[0] == destination:
            raise DialForbidden(f"{destination} is an address of this host")
        return True


class HostDialer:
    """Sockets of the host's network stack.

    Args:
        sources: addresses to send from, taken in turn for each IP version; several multiply the connections that one
            destination can have at a time. Empty: the kernel chooses.
        never_self: refuse a destination that turns out to be this host itself: its addresses may have changed a moment
            ago, and policy has not heard of it yet.
    """

    def __init__(self, *, sources: Sequence[IPAddress] = (), never_self: bool = True) -> None:
        self._never_self = never_self
        self._sources = {
            version: itertools.cycle([str(source) for source in sources if source.version == version])
            for version in {source.version for source in sources}
        }

    def dial_tcp(self, destination: IPAddress, port: int) -> HostTcpDial:
        """As `Driver.dial_tcp`."""
        connecting = self._socket(destination, socket.SOCK_STREAM)
        try:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEPALIVE:
                if hasattr(socket, name):
                    connecting.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            code = connecting.connect_ex((str(destination), port))
        except BaseException:
            connecting.close()
            raise
        if code not in _CONNECTING:
            connecting.close()
            raise dial_error(code)
        return HostTcpDial(connecting, self._never_self)

    def open_udp(self, destination: IPAddress, port: int) -> socket.socket:
        """As `Driver.open_udp`."""
        connected = self._socket(destination, socket.SOCK_DGRAM)
        try:
            connected.connect((str(destination), port))
            if self._never_self and connected.getsockname()[0] == str(destination):
                raise DialForbidden(f"{destination} is an address of this host")
        except OSError as exc:
            connected.close()
            raise dial_error(exc.errno or 0) from None
        except BaseException:
            connected.close()
            raise
        return connected

    def _socket(self, destination: IPAddress, kind: int) -> socket.socket:
        family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
        try:
            made = socket.socket(family, kind)
        except OSError as exc:
            raise dial_error(exc.errno or 0) from None
        made.setblocking(False)
        sources = self._sources.get(destination.version)
        if sources is not None:
            with contextlib.suppress(OSError):
                made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            source = next(sources)
            try:
                made.bind((source, 0))
            except OSError as exc:
                made.close()
                raise DialUnreachable(f"the source address {source} cannot be used: {exc.strerror}") from None
        return made


class HostDriver:
    """The `host` driver: the tailnet that the host is in, if it is in one.

    Args:
        network: the host's addresses and routes; the driver watches neither and closes neither.
        advise_tsnet: the other driver could be used, and is worth a word.
    """

    name = "host"
    has_exit_node = False
    host_network = True

    def __init__(self, network: HostNetwork, *, advise_tsnet: bool = False) -> None:
        self._network = network
        self._advise_tsnet = advise_tsnet
        self._dialer = HostDialer()

    def routes(self, address: IPAddress) -> bool:
        """As `Driver.routes`: whether the host's route leaves by a tailnet interface."""
        tailnet = self._network.snapshot.tailnet
        return bool(tailnet) and self._network.source_for(address) in tailnet

    def accepts(self, address: IPAddress) -> bool:
        """As `Driver.accepts`: what the host has accepted is for the host, and devices need a rule."""
        return False

    def dial_tcp(self, destination: IPAddress, port: int, node: str | None = None) -> HostTcpDial:
        """As `Driver.dial_tcp`."""
        self._require_route(destination)
        return self._dialer.dial_tcp(destination, port)

    def open_udp(self, destination: IPAddress, port: int, node: str | None = None) -> socket.socket:
        """As `Driver.open_udp`."""
        self._require_route(destination)
        return self._dialer.open_udp(destination, port)

    async def query(self, message: bytes) -> bytes:
        """As `Driver.query`: from 100.100.100.100 alone, over UDP, and over TCP when the answer did not fit."""
        self._require_route(MAGIC_DNS_IPV4)
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                answer = await self._query_udp(message)
                return await self._query_tcp(message) if _truncated(answer) else answer
        except TimeoutError:
            raise DialTimedOut(f"{MAGIC_DNS_IPV4} did not answer within {QUERY_SECONDS:g} s") from None
        except OSError as exc:
            raise dial_error(exc.errno or 0) from None

    async def ping(self, destination: IPAddress, timeout: float) -> bool:
        """As `Driver.ping`: never asked, since the host's ping sockets do it."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """As `Driver.status`."""
        snapshot = self._network.snapshot
        connected = bool(snapshot.tailnet)
        if connected:
            own = sorted(filter(in_tailnet_ranges, snapshot.tailnet), key=lambda a: (a.version, a))
            addresses = ", ".join(map(str, own))
            detail, advice = f"this host is in a tailnet, as {addresses}", None
        elif snapshot.suspects:
            addresses = ", ".join(str(address) for address in sorted(snapshot.suspects, key=str))
            detail = (
                f"this host is in no tailnet: {addresses} is its Internet provider's (the default route leaves by it)"
            )
            advice = "install Tailscale on this host and log in (https://tailscale.com/download), with IPv6 left on"
        else:
            detail = (
                "this host is in no tailnet, so tailnet addresses are unreachable and tailnet names are not resolved"
            )
            advice = "install Tailscale on this host and log in (https://tailscale.com/download); no restart is needed"
        if advice is not None and self._advise_tsnet:
            advice = f"start with --tailnet tsnet, and lopower joins by itself; or {advice}"
        return {"driver": self.name, "connected": connected, "detail": detail, "advice": advice}

    async def close(self) -> None:
        """As `Driver.close`."""

    def _require_route(self, destination: IPAddress) -> None:
        if not self.routes(destination):
            kind = "tailnet address" if in_tailnet_ranges(destination) else "address"
            raise DialUnreachable(f"no tailnet interface of this host has a route to the {kind} {destination}")

    async def _query_udp(self, message: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        with self._dialer.open_udp(MAGIC_DNS_IPV4, _DNS_PORT) as connected:
            await loop.sock_sendall(connected, message)
            while True:
                answer = await loop.sock_recv(connected, _MAX_DNS_MESSAGE)
                if answer[:2] == message[:2]:
                    return answer

    async def _query_tcp(self, message: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(str(MAGIC_DNS_IPV4), _DNS_PORT)
        try:
            writer.write(len(message).to_bytes(2, "big") + message)
            size = int.from_bytes(await reader.readexactly(2), "big")
            return await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise DialRefused(f"{MAGIC_DNS_IPV4} closed the connection in the middle of its answer") from None
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _truncated(answer: bytes) -> bool:
    return len(answer) > 2 and bool(answer[2] & 0x02)
