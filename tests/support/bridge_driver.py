"""A tailnet for tests: its nodes are sockets on this machine's loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from lopower.tailnet.driver import DialError, DialUnreachable, IPAddress, TcpDial, in_tailnet_ranges
from lopower.tailnet.host import HostDialer

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


class SilentDial:
    """A dial that nobody answers."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.socket.setblocking(False)
        self.closed = False

    def advance(self) -> bool:
        """As `TcpDial.advance`."""
        return False

    def close(self) -> None:
        """Give the far end back."""
        self._other.close()


class LoopbackDriver:
    """Carries flows to node `address`, `port` to the same port of loopback, or where `targets` says.

    Attributes:
        errors: what dialling an address raises, instead.
        silent: addresses that never answer.
        dials: every TCP dial there was.
    """

    name = "loopback"
    has_exit_node = False
    host_network = True

    def __init__(self) -> None:
        self.errors: dict[str, Callable[[], DialError]] = {}
        self.silent: set[str] = set()
        self.dials: list[tuple[str, int]] = []
        self._dialer = HostDialer(never_self=False)
        self._silent_dials: list[SilentDial] = []

    def routes(self, address: IPAddress) -> bool:
        """As `Driver.routes`."""
        return in_tailnet_ranges(address)

    def accepts(self, address: IPAddress) -> bool:
        """As `Driver.accepts`."""
        return False

    async def ping(self, destination: IPAddress, timeout: float) -> bool:
        """As `Driver.ping`."""
        raise NotImplementedError

    def dial_tcp(self, destination: IPAddress, port: int, node: str | None = None) -> TcpDial:
        """As `Driver.dial_tcp`."""
        self.dials.append((str(destination), port))
        self._check(destination)
        if str(destination) in self.silent:
            dial = SilentDial()
            self._silent_dials.append(dial)
            return dial
        return self._dialer.dial_tcp(LOOPBACK[destination.version], port)

    def open_udp(self, destination: IPAddress, port: int, node: str | None = None) -> socket.socket:
        """As `Driver.open_udp`."""
        self._check(destination)
        return self._dialer.open_udp(LOOPBACK[destination.version], port)

    async def query(self, message: bytes) -> bytes:
        """As `Driver.query`."""
        raise DialUnreachable("this tailnet has no resolver")

    def status(self) -> dict[str, Any]:
        """As `Driver.status`."""
        return {"driver": self.name, "connected": True, "detail": "a tailnet on loopback", "advice": None}

    async def close(self) -> None:
        """As `Driver.close`."""
        for dial in self._silent_dials:
            dial.close()

    def _check(self, destination: IPAddress) -> None:
        error = self.errors.get(str(destination))
        if error is not None:
            raise error()
