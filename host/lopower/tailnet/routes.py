"""The host's own addresses and attached networks, and which address of its a destination would be reached from.

`getifaddrs` rather than netlink, because it is everywhere; a route is asked for by connecting a UDP socket, which sends
nothing, and looking at the source address the kernel chose.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ctypes.util
import logging
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from lopower.tailnet.driver import TAILNET_IPV4, TAILNET_IPV6, IPAddress, in_tailnet_ranges

log = logging.getLogger(__name__)

IPNetwork = IPv4Network | IPv6Network

# Where the kernel says when addresses change they are looked up then; this is for where it does not, and for luck.
REFRESH_SECONDS: Final = 30.0

_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_BSD_SOCKADDR: Final = sys.platform == "darwin" or "bsd" in sys.platform
_RTMGRP_ADDRESSES_AND_LINKS: Final = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
# Addresses of the public Internet, to learn the default route's source address; nothing is ever sent to them.
_PUBLIC_IPV4: Final = IPv4Address("8.8.8.8")
_PUBLIC_IPV6: Final = IPv6Address("2001:4860:4860::8888")
_DISCARD_PORT: Final = 9


class InterfaceAddress(NamedTuple):
    """One address of one interface that is up."""

    interface: str
    address: IPAddress
    prefix_length: int
    loopback: bool


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """The host's addresses at one moment.

    Attributes:
        addresses: all of them, packed.
        attached: the networks its interfaces lie in; without loopback, link-local, host routes and tailnet ranges.
        tailnet: addresses of its tailnet interfaces.
        suspects: addresses in 100.64.0.0/10 that belong to a provider's CGNAT, since the default route leaves there.
    """

    addresses: frozenset[bytes]
    attached: tuple[IPNetwork, ...]
    tailnet: frozenset[IPAddress]
    suspects: frozenset[IPAddress]


class _Ifaddrs(ctypes.Structure):
    pass


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
    ("netmask", ctypes.c_void_p),
    ("destination", ctypes.c_void_p),
    ("data", ctypes.c_void_p),
]


def _sockaddr(pointer: int | None) -> bytes | None:
    """The packed IP address in a `sockaddr`, or None."""
    if not pointer:
        return None
    head = ctypes.string_at(pointer, 2)
    family = head[1] if _BSD_SOCKADDR else struct.unpack("=H", head)[0]
    if family == socket.AF_INET:
        return ctypes.string_at(pointer + 4, 4)
    if family == socket.AF_INET6:
        return ctypes.string_at(pointer + 8, 16)
    return None


def interface_addresses() -> list[InterfaceAddress]:
    """The addresses of all interfaces that are up.

    Raises:
        OSError: the C library could not list them.
    """
    library = ctypes.CDLL(ctypes.util.find_library("c") if sys.platform != "linux" else None, use_errno=True)
    first = ctypes.POINTER(_Ifaddrs)()
    if library.getifaddrs(ctypes.byref(first)) != 0:
        raise OSError(ctypes.get_errno(), "getifaddrs failed")
    found = []
    try:
        entry = first
        while entry:
            item = entry.contents
            packed = _sockaddr(item.address)
            if packed is not None and item.flags & _IFF_UP:
                if len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:
                    packed = packed[:2] + b"\0\0" + packed[4:]  # BSD keeps the interface's number in there
                mask = _sockaddr(item.netmask)
                length = int.from_bytes(mask, "big").bit_count() if mask is not None else len(packed) * 8
                loopback = bool(item.flags & _IFF_LOOPBACK)
                found.append(InterfaceAddress(item.name.decode(), ip_address(packed), length, loopback))
            entry = item.next
    finally:
        library.freeifaddrs(first)
    return found


def source_for(destination: IPAddress) -> IPAddress | None:
    """The address of ours that a flow to `destination` would leave from; None without a route."""
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(destination), _DISCARD_PORT))
            return ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def take_snapshot(
    addresses: list[InterfaceAddress], default_sources: frozenset[IPAddress | None] | None = None
) -> HostSnapshot:
    """Sort the host's addresses.

    A tailnet interface is one with an address in Tailscale's IPv6 prefix, which nobody else uses, or in 100.64.0.0/10,
    unless the default route leaves by it: then the provider gave the address, and strangers live in that range.

    Args:
        addresses: as `interface_addresses` gives them.
        default_sources: where public addresses would be reached from; None: ask the kernel.
    """
    if default_sources is None:
        default_sources = frozenset({source_for(_PUBLIC_IPV4), source_for(_PUBLIC_IPV6)})
    sure = {entry.interface for entry in addresses if entry.address in TAILNET_IPV6}
    default = {entry.interface for entry in addresses if entry.address in default_sources}
    carrier = {entry.interface for entry in addresses if entry.address in TAILNET_IPV4}
    tailnet_interfaces = sure | (carrier - default)
    attached: dict[IPNetwork, None] = {}
    for entry in addresses:
        address = entry.address
        if entry.loopback or address.is_link_local or address.is_loopback or entry.interface in tailnet_interfaces:
            continue
        if entry.prefix_length < address.max_prefixlen and not in_tailnet_ranges(address):
            attached[ip_network((address.packed, entry.prefix_length), strict=False)] = None
    return HostSnapshot(
        addresses=frozenset(entry.address.packed for entry in addresses),
        attached=tuple(attached),
        tailnet=frozenset(entry.address for entry in addresses if entry.interface in tailnet_interfaces),
        suspects=frozenset(
            entry.address
            for entry in addresses
            if entry.interface not in tailnet_interfaces and entry.address in TAILNET_IPV4
        ),
    )


class HostNetwork:
    """The host's addresses, kept up to date, and its routes.

    Attributes:
        snapshot: the latest addresses.
        listeners: called with the new snapshot after it changed.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[HostSnapshot], None]] = []
        self.snapshot = take_snapshot(interface_addresses())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._netlink: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def refresh(self) -> None:
        """Look the addresses up again, and tell the listeners if they changed. The old ones stay if that fails."""
        try:
            snapshot = take_snapshot(interface_addresses())
        except OSError as exc:
            log.warning("the host's addresses could not be listed, so the last known ones stay in force: %s", exc)
            return
        if snapshot != self.snapshot:
            self.snapshot = snapshot
            for listener in self.listeners:
                listener(snapshot)

    def source_for(self, destination: IPAddress) -> IPAddress | None:
        """As the function of this name."""
        return source_for(destination)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Refresh when addresses change, until `close`."""
        self._loop = loop
        if sys.platform == "linux":
            self._netlink = _netlink_socket()
            if self._netlink is not None:
                loop.add_reader(self._netlink.fileno(), self._changed)
        self._timer = loop.call_later(REFRESH_SECONDS, self._tick)

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._netlink is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._netlink.fileno())
            self._netlink.close()
            self._netlink = None

    def _tick(self) -> None:
        self.refresh()
        if self._loop is not None:
            self._timer = self._loop.call_later(REFRESH_SECONDS, self._tick)

    def _changed(self) -> None:
        # What changed is not read out of the messages: the list is short and looked up as a whole.
        with contextlib.suppress(BlockingIOError):
            while self._netlink is not None:
                try:
                    self._netlink.recv(65_536)
                except BlockingIOError:
                    raise
                except OSError:
                    break  # ENOBUFS: messages were lost; looking everything up covers them
        self.refresh()


def _netlink_socket() -> socket.socket | None:
    """A socket on which the kernel says that links or addresses changed; None where that is not allowed."""
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        netlink.bind((0, _RTMGRP_ADDRESSES_AND_LINKS))
    except OSError:
        netlink.close()
        return None
    return netlink
