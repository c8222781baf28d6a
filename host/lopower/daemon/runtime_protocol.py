"""The data plane as operations see it: what they tell it, and what they ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from lopower.daemon.settings import Settings
    from lopower.daemon.statistics import DeviceStatistics, EchoResult, InterfaceStatistics
    from lopower.devices.device import Device, ServedPort
    from lopower.devices.exposures import Exposure
    from lopower.tailnet.host_inbound import HostListeners
    from lopower.tailnet.routes import IPNetwork
    from lopower.tailnet.tsnet import TsnetDriver


class Runtime(Protocol):
    """The data plane, as the rules see it (`runtime.ProxyRuntime`). Everything is called on the loop."""

    def device_added(self, device: Device) -> None:
        """A device is there, enabled or not."""

    def device_changed(self, device: Device, previous: Device) -> None:
        """A device is another than before: name, keys, addresses, rules, enabled, or its time stamp was reset."""

    def device_removed(self, device: Device) -> None:
        """A device is gone; its flows end."""

    def device_statistics(self, device: Device) -> DeviceStatistics:
        """What has been counted of a device."""

    def interface_statistics(self) -> InterfaceStatistics:
        """What has been counted of all."""

    def status(self) -> dict[str, Any]:
        """The data plane's own part of `lopower status`, JSON-able."""

    def serve_changed(self, entries: Sequence[ServedPort]) -> None:
        """The gateway offers these ports from now on."""

    def exposures_changed(self, exposures: Sequence[Exposure]) -> None:
        """The tailnet reaches these from now on."""

    def advertisement_changed(self) -> None:
        """The tailnet is told of the devices' ranges as the registry says."""

    def tailnet_networks(self) -> tuple[IPNetwork, ...] | None:
        """What devices can reach through the proxy's own node; None without one."""

    def tailnet_node(self) -> TsnetDriver | None:
        """The driver that has nodes of its own, if that is in use."""

    async def call(self, device: Device, port: int) -> socket.socket:
        """A connection to a device's TCP port, from the gateway's address; raises DialError."""

    def host_listeners(self) -> HostListeners | None:
        """The ports of the host's tailnet addresses; None with a node of the proxy's own."""

    async def ping(self, device: Device, count: int, interval: float, timeout: float) -> list[EchoResult]:
        """Echo requests to a device, one after the other; times in seconds."""

    def reload(self, settings: Settings) -> None:
        """The reloadable ones of these settings are in force from now on."""
