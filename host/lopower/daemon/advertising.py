"""Advertising the devices' ranges to the tailnet: the rules of changing it, and how it is told."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from lopower.daemon.errors import OperationError
from lopower.devices.advertising import Advertisement, via_address, via_name
from lopower.tailnet.tsnet_control import SidecarError

if TYPE_CHECKING:
    from lopower.daemon.operations import Runtime
    from lopower.devices.device import Device
    from lopower.devices.registry import Registry
    from lopower.tailnet.routes import IPNetwork
    from lopower.tailnet.tsnet import TsnetDriver


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
        """What is advertised, and which of it the tailnet has approved."""
        advertisement = self._registry.advertisement
        if advertisement is None:
            return {"site": None, "routes": []}
        driver = self._runtime.tailnet_node()
        node = None if driver is None else driver.proxy
        approved = () if node is None else node.routes_approved
        return {
            "site": advertisement.site,
            "routes": [
                {"route": str(route), "approved": route in approved}
                for route in advertisement.routes(self._registry.ranges)
            ],
        }

    def of_device(self, device: Device) -> dict[str, Any] | None:
        """A device's 4via6 address and name, if its site is advertised."""
        advertisement = self._registry.advertisement
        if advertisement is None or advertisement.site is None or device.ipv4 is None:
            return None
        driver = self._runtime.tailnet_node()
        node = None if driver is None else driver.proxy
        return {
            "address": str(via_address(advertisement.site, device.ipv4)),
            "name": via_name(advertisement.site, device.ipv4, "" if node is None else node.magic_dns_suffix),
        }

    async def advertise(self, advertisement: Advertisement, *, shared: bool) -> dict[str, Any]:
        """Advertise the devices' ranges.

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
        routes = advertisement.routes(self._registry.ranges)
        if not routes:
            raise OperationError("4via6 addresses stand for IPv4 ones, and devices have none", "leave --via away")
        if not shared:
            await self._refuse_others(driver, routes)
        async with self._change:
            await asyncio.to_thread(self._registry.set_advertisement, advertisement)
            self._runtime.advertisement_changed()
        return self.document()

    async def withdraw(self) -> dict[str, Any]:
        """Advertise nothing any more."""
        async with self._change:
            await asyncio.to_thread(self._registry.set_advertisement, None)
            self._runtime.advertisement_changed()
        return self.document()

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
