"""The tailnet's side of the running proxy: its driver, kept equal to the registry, and what comes from there.

Everything here runs on the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.exposed import node_of
from lopower.daemon.tailnet import make_driver, networks, node_config
from lopower.devices.exposures import Exposure
from lopower.dns import names
from lopower.dns.zone import ZoneConfig, ZoneServer
from lopower.tailnet.driver import in_tailnet_ranges
from lopower.tailnet.host_inbound import HostListeners, Permits, Port
from lopower.tailnet.tsnet import TsnetDriver

if TYPE_CHECKING:
    from lopower.bridge.bridge import Bridge
    from lopower.bridge.inbound import Contact
    from lopower.daemon.settings import Settings
    from lopower.devices.registry import Registry
    from lopower.tailnet.routes import HostNetwork, HostSnapshot, IPNetwork
    from lopower.tailnet.tsnet_control import NodeConfig
    from lopower.tailnet.tsnet_echo import InboundEcho, Verdict
    from lopower.tailnet.tsnet_inbound import InboundRequest

IPAddress = IPv4Address | IPv6Address

# A device answers an echo request of the tailnet's within this time, in seconds, or the peer gets no answer.
INBOUND_ECHO_SECONDS: Final = 5.0


class TailnetSide:
    """See the module.

    Args:
        settings: in force.
        registry: the devices.
        network: the host's addresses and routes.
        loop: runs everything.
        clock: monotonic seconds.
        contact: whether a device can be talked to.
        changed: called when what the tailnet says has changed.
        on_login: called with each URL at which somebody must log the proxy's node in.

    Attributes:
        driver: carries the tailnet.
        listeners: ports of the host's tailnet addresses; None with a node of the proxy's own.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        network: HostNetwork,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float],
        contact: Contact,
        changed: Callable[[], None],
        on_login: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._network = network
        self._loop = loop
        self._clock = clock
        self._contact = contact
        self._bridge: Bridge | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = changed
        self._on_login = on_login
        self._login_url: str | None = None
        self._zone_server = ZoneServer(self._zone, self, lambda: int(time.time()))
        self.driver = make_driver(settings, network, self._driver_changed, self._inbound_opened, self._inbound_echo)
        self.listeners: HostListeners | None = None
        if not isinstance(self.driver, TsnetDriver):
            self.listeners = HostListeners(loop, self._inbound_opened)

    def start(self, bridge: Bridge) -> None:
        """Begin: the bridge has the devices."""
        self._bridge = bridge
        if self.listeners is not None:
            self.listeners.set_addresses(_own(self._network.snapshot))
        self.exposures_changed(self._registry.exposures())
        self.advertisement_changed()
        if isinstance(self.driver, TsnetDriver):
            self.driver.start()

    async def close(self) -> None:
        """End: nothing comes any more, and nothing goes."""
        if self.listeners is not None:
            self.listeners.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.driver.close()

    @property
    def node(self) -> TsnetDriver | None:
        """The driver that has nodes of its own, if that is in use."""
        return self.driver if isinstance(self.driver, TsnetDriver) else None

    def networks(self) -> tuple[IPNetwork, ...] | None:
        """What devices can reach through the proxy's own node; None without one."""
        return None if self.node is None else networks(self.node.accepted)

    def host_changed(self, snapshot: HostSnapshot) -> None:
        """The host's addresses are these from now on."""
        if self.listeners is not None:
            self.listeners.set_addresses(_own(snapshot))

    def exposures_changed(self, exposures: Iterable[Exposure]) -> None:
        """The tailnet reaches these from now on."""
        if self._bridge is None:
            return
        entries = list(exposures)
        self._bridge.set_exposures(entries, self._clock())
        if self.node is not None:
            self.node.set_nodes(self._own_nodes(entries))
        if self.listeners is not None:
            self.listeners.set_ports(_ports(entries))

    def advertisement_changed(self) -> None:
        """The tailnet is told of the devices' ranges, and of who is there, as the registry says."""
        if self.node is None or self._bridge is None:
            return
        advertisement, registry = self._registry.advertisement, self._registry
        routes = () if advertisement is None else advertisement.routes(registry.ranges)
        destinations = () if advertisement is None else advertisement.destinations(registry.devices())
        self._bridge.names_in_tailnet.answer = None if registry.zone is None else self._zone_server.answer
        self._run(self.node.configure(advertise_routes=routes, inbound_destinations=destinations))

    def devices_changed(self) -> None:
        """Devices came or went, or have other addresses."""
        if self._registry.advertisement is not None:
            self.advertisement_changed()

    def reload(self, settings: Settings) -> None:
        """These settings are in force."""
        self._settings = settings
        if self.node is not None:
            self.node.set_nodes(self._own_nodes(self._registry.exposures()))
            config = node_config(settings)
            self._run(
                self.node.configure(
                    hostname=config.hostname,
                    advertise_tags=config.advertise_tags,
                    accept_routes=config.accept_routes,
                    exit_node=config.exit_node,
                )
            )

    # What the zone's server asks.

    def addresses(self, label: str) -> tuple[IPAddress, ...] | None:
        """As `ZoneNames.addresses`."""
        device = self._registry.find(label)
        if device is None or not device.enabled:
            return None
        advertisement = self._registry.advertisement
        return () if advertisement is None else advertisement.addresses(device)

    def name_of(self, address: IPAddress) -> str | None:
        """As `ZoneNames.name_of`."""
        found = None if self._bridge is None else self._bridge.device_behind(address)
        return None if found is None else str(found[0].context.device.name)

    # Behind the scenes.

    def _zone(self) -> ZoneConfig | None:
        zone, advertisement, node = self._registry.zone, self._registry.advertisement, self.node
        if zone is None or node is None:
            return None
        return ZoneConfig(
            name=names.from_text(zone.name),
            server=() if node.proxy is None else node.proxy.addresses,
            networks=() if advertisement is None else advertisement.routes(self._registry.ranges),
        )

    def _driver_changed(self) -> None:
        url = self.driver.status().get("login_url")
        if url is not None and url != self._login_url:
            self._on_login(url)
        self._login_url = url
        self._changed()

    def _own_nodes(self, exposures: Iterable[Exposure]) -> dict[str, NodeConfig]:
        """What the devices' own nodes are to be: as the proxy's, with a name and perhaps tags of their own."""
        common = node_config(self._settings)
        return {
            node_of(entry.device_id): replace(
                common, hostname=entry.hostname, advertise_tags=entry.tags or common.advertise_tags, exit_node=""
            )
            for entry in exposures
            if entry.kind == "node"
        }

    async def _inbound_echo(self, echo: InboundEcho) -> Verdict:
        target = None if self._bridge is None else self._bridge.device_behind(echo.destination)
        if target is None or self._bridge is None:
            return "unreachable"
        peer, address = target
        contact = self._contact(peer, self._clock())
        if contact is False:
            return "unreachable"
        source = next(own for own in self._registry.ranges.gateways if own.version == address.version)
        try:
            answered = await self._bridge.pings.ping(peer, source.packed, address.packed, INBOUND_ECHO_SECONDS)
        except RuntimeError:
            return "silence"
        return "answered" if answered is not None else "unreachable" if contact is None else "silence"

    def _inbound_opened(self, request: InboundRequest) -> None:
        assert self._bridge is not None
        self._bridge.inbound_opened(request)

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _own(snapshot: HostSnapshot) -> list[IPAddress]:
    """The host's addresses in the tailnet; its interface there may have others, such as a link-local one."""
    return [address for address in snapshot.tailnet if in_tailnet_ranges(address)]


def _ports(exposures: Iterable[Exposure]) -> dict[Port, Permits]:
    """The ports to listen on, and who may connect: nodes of the tailnet, and whoever was named."""
    return {(entry.transport, entry.port): partial(_permits, entry) for entry in exposures if entry.kind == "port"}


def _permits(exposure: Exposure, source: IPAddress) -> bool:
    return in_tailnet_ranges(source) or bool(exposure.sources)
