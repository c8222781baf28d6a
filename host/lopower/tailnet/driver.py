"""What the bridge asks of a tailnet, whoever carries it: the host's own network stack, or a node of the proxy's.

A dial is an object, not a coroutine: the bridge watches its socket together with all others, so that a connection
costs no task, and giving a dial up is closing its socket. `advance` is the driver's part of it: `SO_ERROR` for a socket
of the kernel's, the reply of a SOCKS5 server for a stream to one.
"""
# ruff: noqa: N818  (the names say what happened to the dial)

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from typing_extensions import Buffer

IPAddress = IPv4Address | IPv6Address

# Tailscale's ranges: 100.64.0.0/10 (RFC 6598) and a unique local prefix, which 4via6 addresses lie in as well.
TAILNET_IPV4: Final = ip_network("100.64.0.0/10")
TAILNET_IPV6: Final = IPv6Network("fd7a:115c:a1e0::/48")
MAGIC_DNS_IPV4: Final = IPv4Address("100.100.100.100")
MAGIC_DNS_IPV6: Final = IPv6Address("fd7a:115c:a1e0::53")


def in_tailnet_ranges(address: IPAddress) -> bool:
    """Whether only a tailnet may carry this address: anywhere else it belongs to strangers."""
    return address in TAILNET_IPV4 if address.version == 4 else address in TAILNET_IPV6


class DialError(Exception):
    """A connection upstream that did not come about; the subclass says what the device is told."""


class DialRefused(DialError):
    """The destination answered that nothing listens there."""


class DialUnreachable(DialError):
    """There is no way to the destination: no route, or a router said so."""


class DialTimedOut(DialError):
    """Nothing answered."""


class DialForbidden(DialError):
    """Something on the way, or we ourselves, will not have it."""


_UNREACHABLE: Final = frozenset(
    getattr(errno, name)
    for name in (
        ["EADDRNOTAVAIL", "EAFNOSUPPORT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENONET", "EPROTO"]
    )
    if hasattr(errno, name)
)


def dial_error(code: int) -> DialError:
    """The exception for an `errno` that connecting, or writing to a connected UDP socket, ended with."""
    text = os.strerror(code)
    if code in (errno.ECONNREFUSED, errno.ECONNRESET):
        return DialRefused(text)
    if code == errno.ETIMEDOUT:
        return DialTimedOut(text)
    if code in (errno.EACCES, errno.EPERM):
        return DialForbidden(text)
    return DialUnreachable(text) if code in _UNREACHABLE else DialError(text)


class UdpSocket(Protocol):
    """What the bridge needs of a connected, non-blocking UDP socket. `socket.socket` is one."""

    def fileno(self) -> int:
        """The descriptor to watch."""

    def send(self, payload: Buffer, /) -> int:
        """Send one datagram.

        Raises:
            BlockingIOError: there is no room; nothing was sent.
            OSError: what became of an earlier datagram, or of this one.
            EOFError: the flow is over.
        """

    def recv_into(self, slot: memoryview[int], /) -> int:
        """Receive one datagram, whose length it returns; raises as `send`."""

    def close(self) -> None:
        """Give it back."""


class TcpDial(Protocol):
    """A connection upstream that is being made.

    Attributes:
        socket: non-blocking, owned by the caller from the start; closing it gives the dial up.
    """

    socket: socket.socket

    def advance(self) -> bool:
        """Look again, after the socket became readable or writable. True: it is connected; False: not yet.

        Raises:
            DialError: it will not be; the caller closes the socket.
        """


class Driver(Protocol):
    """One tailnet, as the bridge and the DNS server see it.

    Attributes:
        name: what `--tailnet` calls it.
        has_exit_node: public addresses are reached through the tailnet, by a node that its owner has chosen.
        host_network: its flows are flows of the host's network stack, so that the host's ping sockets serve as well.
    """

    name: str
    has_exit_node: bool
    host_network: bool

    def routes(self, address: IPAddress) -> bool:
        """Whether the tailnet has a route to `address` now. Cheap: it is asked for every flow."""

    def accepts(self, address: IPAddress) -> bool:
        """Whether devices may reach `address`, outside the tailnet's ranges, through the tailnet without a rule.

        The owner has accepted that route for this node. Cheap: it is asked for every flow that no rule is about.
        """

    def dial_tcp(self, destination: IPAddress, port: int, node: str | None = None) -> TcpDial:
        """Begin to connect, from one of our nodes; None: from the proxy's.

        Raises:
            DialError: it failed at once.
        """

    def open_udp(self, destination: IPAddress, port: int, node: str | None = None) -> UdpSocket:
        """A connected, non-blocking UDP socket; only what `destination` sends arrives there.

        Raises:
            DialError: there is no way to the destination.
        """

    async def query(self, message: bytes) -> bytes:
        """The tailnet's resolver's answer to one DNS message.

        Raises:
            DialError: there is no tailnet, or its resolver does not answer.
        """

    async def ping(self, destination: IPAddress, timeout: float) -> bool:
        """Whether `destination` answers an echo request within `timeout` seconds. Only without `host_network`.

        Raises:
            DialError: there is no way to the destination.
        """

    def status(self) -> dict[str, Any]:
        """For `lopower status`: at least `driver`, `connected` (bool), `detail` and `advice` (text, or None)."""

    async def close(self) -> None:
        """Give everything back; dials and sockets handed out are their owners'."""
