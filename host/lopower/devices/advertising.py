"""The devices' ranges as subnet routes of the tailnet, and the domain under which it finds their names.

The ranges are advertised as they are, or by 4via6 addresses, which tell sites apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final

from lopower.devices.errors import InvalidAdvertisement, InvalidZone

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lopower.devices.addresses import Ranges
    from lopower.devices.device import Device

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

# fd7a:115c:a1e0:b1a:0:SITE:<the IPv4 address> (Tailscale, "4via6 subnet routers").
_VIA: Final = 0xFD7A_115C_A1E0_0B1A << 64
MAX_SITE: Final = 65_535
# A name has 253 characters at most, and a device's takes up to 63 of them and a dot.
MAX_ZONE: Final = 189
_ZONE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class Advertisement:
    """How the ranges are advertised.

    Attributes:
        site: by 4via6 addresses of this site, 0 to 65,535; None: as they are.
    """

    site: int | None = None

    def __post_init__(self) -> None:
        if self.site is not None and not 0 <= self.site <= MAX_SITE:
            raise InvalidAdvertisement(f"site {self.site} is out of range; sites are 0 to {MAX_SITE}")

    @classmethod
    def parse(cls, text: str) -> Advertisement:
        """What `str` gives."""
        return cls(int(text.removeprefix("via:"))) if text.startswith("via:") else cls()

    def __str__(self) -> str:
        return "routes" if self.site is None else f"via:{self.site}"

    def routes(self, ranges: Ranges) -> tuple[IPNetwork, ...]:
        """The routes; none by 4via6 where devices have no IPv4 range that could be mapped."""
        if self.site is None:
            return ranges.networks
        if ranges.ipv4 is None:
            return ()
        first = via_address(self.site, ranges.ipv4.network_address)
        return (IPv6Network((int(first), 96 + ranges.ipv4.prefixlen)),)

    def destinations(self, devices: Iterable[Device]) -> tuple[IPNetwork, ...]:
        """The addresses behind the routes that somebody has."""
        found: list[IPNetwork] = []
        for device in devices:
            found += map(ip_network, self.addresses(device))
        return tuple(found)

    def addresses(self, device: Device) -> tuple[IPAddress, ...]:
        """Where the tailnet reaches a device by these routes; nowhere while it is disabled."""
        if not device.enabled:
            return ()
        if self.site is None:
            return tuple(address for address in (device.ipv4, device.ipv6) if address is not None)
        return () if device.ipv4 is None else (via_address(self.site, device.ipv4),)


@dataclass(frozen=True, slots=True)
class Zone:
    """The domain under which the tailnet finds the devices' names.

    Attributes:
        name: in lower case, without the final dot.
    """

    name: str

    @classmethod
    def parse(cls, text: str) -> Zone:
        """`iot.example.org`, in any letter case.

        Raises:
            InvalidZone: it is no domain, or one that clients do not ask a server for.
        """
        name = text.strip().removesuffix(".").lower()
        if not _ZONE.fullmatch(name) or len(name) > MAX_ZONE:
            raise InvalidZone(
                f"{text!r} is no domain: labels of letters, digits and hyphens with dots between, "
                f"{MAX_ZONE} characters at most, such as iot.home.arpa"
            )
        if f".{name}".endswith(".local"):
            raise InvalidZone(f"clients ask for {text!r} by multicast, not here; choose another, such as iot.home.arpa")
        return cls(name)

    def __str__(self) -> str:
        return self.name


def via_address(site: int, address: IPv4Address) -> IPv6Address:
    """The 4via6 address of an IPv4 address at a site."""
    return IPv6Address(_VIA | site << 32 | int(address))


def via_name(site: int, address: IPv4Address, domain: str) -> str:
    """The name that the tailnet's resolver knows for it."""
    label = f"{str(address).replace('.', '-')}-via-{site}"
    return f"{label}.{domain}" if domain else label
