"""Advertising the devices' ranges and names to the tailnet: the rules of changing it, and how it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv6Network, ip_network
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.exposed import VIA_RANGE
from lopower.bridge.tailnet_names import DNS_PORT
from lopower.daemon.errors import OperationError
from lopower.devices.advertising import Advertisement, Zone, via_address, via_name
from lopower.tailnet.driver import TAILNET_IPV6
from lopower.tailnet.tsnet_control import SidecarError

if TYPE_CHECKING:
    from lopower.daemon.runtime_protocol import Runtime
    from lopower.devices.device import Device
    from lopower.devices.registry import Registry
    from lopower.tailnet.routes import IPNetwork
    from lopower.tailnet.tsnet import TsnetDriver

ADMIN_CONSOLE: Final = "https://login.tailscale.com/admin/machines"


class Advertising:
    """A part of `Operations`.

    Args:
        registry: the devices.
        runtime: the data plane.
        change: held during a change of the registry.
    """

    def __init__(self, registry: Registry, runtime: Runtime, change: asyncio.Lock) -> None:
        self._registry = registry
        self._runtime = runtime
        self._change = change

    def document(self) -> dict[str, Any]:
        """What is advertised, which of it the tailnet has approved, and what is to be done about the rest."""
        advertisement, zone = self._registry.advertisement, self._registry.zone
        driver = self._runtime.tailnet_node()
        node = None if driver is None else driver.proxy
        approved = () if node is None else node.routes_approved
        routes = () if advertisement is None else advertisement.routes(self._registry.ranges)
        return {
            "site": None if advertisement is None else advertisement.site,
            "routes": [{"route": str(route), "approved": route in approved} for route in routes],
            "zone": None if zone is None else zone.name,
            "servers": [] if zone is None or node is None else [str(address) for address in node.addresses],
            "advice": _advice(driver, routes, approved),
        }

    def of_device(self, device: Device) -> dict[str, Any] | None:
        """A device's 4via6 address and names, if its site is advertised."""
        advertisement = self._registry.advertisement
        if advertisement is None or advertisement.site is None or device.ipv4 is None:
            return None
        driver = self._runtime.tailnet_node()
        node = None if driver is None else driver.proxy
        return {
            "address": str(via_address(advertisement.site, device.ipv4)),
            "name": via_name(advertisement.site, device.ipv4, "" if node is None else node.magic_dns_suffix),
        }

    def name_of(self, device: Device) -> str | None:
        """What the tailnet may call a device, if names are advertised."""
        zone = self._registry.zone
        return None if zone is None else f"{device.name}.{zone}"

    async def advertise(
        self, advertisement: Advertisement, *, shared: bool, zone: Zone | None = None
    ) -> dict[str, Any]:
        """Advertise the devices' ranges, and their names where a zone is given; without one names stay as they are.

        Raises:
            OperationError: the proxy has no node, or another node advertises one of them and `shared` was not said.
            RegistryError: there is nothing to advertise in this way.
        """
        driver = self._runtime.tailnet_node()
        if driver is None:
            raise OperationError(
                "routes are advertised by a node of the proxy's own, and the tailnet is reached through this host's",
                "start the daemon with --tailnet tsnet",
            )
        if zone is not None:
            self._check_zone(driver, zone)
        routes = advertisement.routes(self._registry.ranges)
        if not routes:
            raise OperationError("4via6 addresses stand for IPv4 ones, and devices have none", "leave --via away")
        if not shared and advertisement != self._registry.advertisement:
            await self._refuse_others(driver, routes)
        async with self._change:
            await asyncio.to_thread(self._registry.set_advertisement, advertisement)
            if zone is not None:
                await asyncio.to_thread(self._registry.set_zone, zone)
            self._runtime.advertisement_changed()
        return self.document()

    async def withdraw(self, *, names_only: bool = False) -> dict[str, Any]:
        """Advertise nothing any more; with `names_only` the routes stay."""
        async with self._change:
            await asyncio.to_thread(self._registry.set_zone, None)
            if not names_only:
                await asyncio.to_thread(self._registry.set_advertisement, None)
            self._runtime.advertisement_changed()
        return self.document()

    def _check_zone(self, driver: TsnetDriver, zone: Zone) -> None:
        node = driver.proxy
        suffix = "" if node is None else node.magic_dns_suffix.lower()
        if suffix and f".{zone}".endswith(f".{suffix}"):
            raise OperationError(
                f"clients look names of {suffix} up by themselves and would not ask here", "choose a domain of your own"
            )
        for entry in self._registry.exposures():
            if entry.kind == "port" and entry.port == DNS_PORT:
                device = next(one.name for one in self._registry.devices() if one.id == entry.device_id)
                raise OperationError(
                    f"{entry.transport} port {DNS_PORT} of the proxy's node is exposed to {device}",
                    f"lopower expose {device} --port {DNS_PORT}{' --udp' if entry.transport == 'udp' else ''} --off",
                )

    async def _refuse_others(self, driver: TsnetDriver, routes: tuple[IPNetwork, ...]) -> None:
        """Two nodes with one route are for failover; by accident the one takes the other's traffic."""
        try:
            peers = await driver.peers()
        except SidecarError as error:
            raise OperationError(f"what others advertise cannot be found out: {error}", "lopower status") from None
        for peer in peers:
            theirs = [ip_network(route) for route in peer.get("routes") or ()]
            for ours in routes:
                if any(ours.version == other.version and other.prefixlen and ours.overlaps(other) for other in theirs):
                    raise OperationError(
                        f"{peer.get('name')} advertises {ours}, or a part of it, already",
                        "use another --ipv4 and --ipv6 range, a site of its own with --via, or --shared for failover",
                    )


def _advice(driver: TsnetDriver | None, routes: Sequence[IPNetwork], approved: Sequence[IPNetwork]) -> str | None:
    """What somebody has to do for all routes to work; None: nothing."""
    waiting = [route for route in routes if route not in approved]
    if not waiting:
        return None
    if driver is None:
        return "nothing of it reaches the tailnet, since that is reached through this host's own membership"
    node = driver.proxy
    inside = next(
        (r for r in waiting if isinstance(r, IPv6Network) and r.subnet_of(TAILNET_IPV6) and not _is_via(r)), None
    )
    if inside is not None and (len(waiting) < len(routes) or (node is not None and node.error)):
        return (
            f"{inside} lies in the tailnet's own range, which some control servers do not take as a route; if it is "
            "never approved, start with --ipv6 random (devices need new configurations then)"
        )
    if driver.control_url:
        how = "`headscale nodes approve-routes`, or autoApprovers in its policy"
        return f"an admin of {driver.control_url} approves routes: {how}"
    return f"an admin of the tailnet approves routes, at {ADMIN_CONSOLE}, or its autoApprovers do"


def _is_via(route: IPv6Network) -> bool:
    return route.subnet_of(VIA_RANGE)
