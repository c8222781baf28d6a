"""The devices' ranges as subnet routes of the tailnet: as they are, or by 4via6 addresses, which tell sites apart."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TYPE_CHECKING, Final

from lopower.devices.errors import InvalidAdvertisement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lopower.devices.addresses import Ranges
    from lopower.devices.device import Device

IPNetwork = IPv4Network | IPv6Network

# fd7a:115c:a1e0:b1a:0:SITE:<the IPv4 address> (Tailscale, "4via6 subnet routers").
_VIA: Final = 0xFD7A_115C_A1E0_0B1A << 64
MAX_SITE: Final = 65_535


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
            if not device.enabled:
                continue
            if self.site is None:
                found += [ip_network(address) for address in (device.ipv4, device.ipv6) if address is not None]
            elif device.ipv4 is not None:
                found.append(ip_network(via_address(self.site, device.ipv4)))
        return tuple(found)


def via_address(site: int, address: IPv4Address) -> IPv6Address:
    """The 4via6 address of an IPv4 address at a site."""
    return IPv6Address(_VIA | site << 32 | int(address))


def via_name(site: int, address: IPv4Address, domain: str) -> str:
    """The name that the tailnet's resolver knows for it."""
    label = f"{str(address).replace('.', '-')}-via-{site}"
    return f"{label}.{domain}" if domain else label
