"""What devices dial: the setting, else the address that the default route leaves from."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, NamedTuple

from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings import Settings

IPAddress = IPv4Address | IPv6Address

# Addresses of the public Internet; a route to them is the default route. Nothing is sent to them.
_PUBLIC: Final[tuple[IPAddress, ...]] = (IPv4Address("8.8.8.8"), IPv6Address("2001:4860:4860::8888"))
# Where DHCP clients keep their leases: directory, files, and what a file must hold to be one at all (NetworkManager
# keeps a file per device, with or without a lease).
_LEASES: Final = (
    ("/run/systemd/netif/leases", "*", b""),
    ("/run/NetworkManager/devices", "*", b"dhcp"),
    ("/var/lib/dhcp", "*.leases", b""),
    ("/var/lib/dhcpcd", "*.lease*", b""),
)
_MAX_LEASE_BYTES: Final = 65_536


class NoEndpointError(Exception):
    """This host has no address that devices could dial; the text says what to do."""


class Endpoints(NamedTuple):
    """What devices dial.

    Attributes:
        addresses: the first goes into configurations; at least one.
        warning: for a person; empty if there is nothing to say.
    """

    addresses: tuple[HostPort, ...]
    warning: str


def find(settings: Settings, port: int, source_for: Callable[[IPAddress], IPAddress | None] | None = None) -> Endpoints:
    """The endpoints by setting, else those found out.

    Args:
        settings: its endpoints win; without one, a `listen` address is the endpoint.
        port: the UDP port that is listened on.
        source_for: which address of ours a destination is reached from; None: ask the kernel.

    Raises:
        NoEndpointError: none by setting, and this host has no default route.
    """
    if settings.endpoint:
        return Endpoints(tuple(HostPort(host, named or port) for host, named in settings.endpoint), "")
    if settings.listen.host not in ("", "::", "0.0.0.0"):
        return Endpoints((HostPort(settings.listen.host, port),), "")
    if source_for is None:
        from lopower.tailnet.routes import source_for as ask_kernel

        source_for = ask_kernel
    sources = [source_for(destination) for destination in _PUBLIC]
    found = [address for address in sources if address is not None and not address.is_unspecified]
    if not found:
        raise NoEndpointError(
            "this host has no default route, so it is unknown at which address devices can dial it; "
            "name one with --endpoint HOST[:PORT]"
        )
    warning = ""
    if has_lease(found[0]):
        warning = (
            f"devices are told to dial {found[0]}, which is a DHCP lease and may change: "
            "reserve it in the router, or name this host with --endpoint HOST"
        )
    return Endpoints(tuple(HostPort(str(address), port) for address in found), warning)


def has_lease(address: IPAddress) -> bool:
    """Whether a DHCP client of this host keeps a lease on the address; False also where leases cannot be read."""
    pattern = re.compile(rb"(?<![0-9a-fA-F.:])" + re.escape(str(address).encode()) + rb"(?![0-9a-fA-F.:])")
    for directory, names, mark in _LEASES:
        try:
            files = list(Path(directory).glob(names))
        except OSError:
            continue
        for file in files:
            try:
                with file.open("rb") as opened:
                    content = opened.read(_MAX_LEASE_BYTES)
            except OSError:
                continue
            if mark in content and pattern.search(content):
                return True
    return False
