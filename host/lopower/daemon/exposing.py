"""What of the devices the tailnet reaches: the rules of changing it, and how it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lopower.bridge.exposed import node_of
from lopower.daemon.errors import OperationError
from lopower.devices.errors import NotExposed
from lopower.devices.exposures import Exposure

if TYPE_CHECKING:
    from lopower.daemon.operations import Runtime
    from lopower.daemon.settings import Settings
    from lopower.devices.registry import Registry
    from lopower.tailnet.tsnet import TsnetDriver


class Exposing:
    """A part of `Operations`.

    Args:
        registry: the devices.
        runtime: the data plane.
        change: held during a change of the registry.
        settings: in force.
    """

    def __init__(
        self, registry: Registry, runtime: Runtime, change: asyncio.Lock, settings: Callable[[], Settings]
    ) -> None:
        self._registry = registry
        self._runtime = runtime
        self._change = change
        self._settings = settings

    def exposures(self) -> list[dict[str, Any]]:
        """What is exposed, and where the tailnet finds it."""
        names = {device.id: device.name for device in self._registry.devices()}
        driver = self._runtime.tailnet_node()
        return [
            self._document(exposure, names[exposure.device_id], driver)
            for exposure in self._registry.exposures()
            if exposure.device_id in names
        ]

    async def expose(self, name: str, exposure: Exposure) -> dict[str, Any]:
        """Let the tailnet reach something of a device.

        Args:
            name: the device; the exposure's own id of it is not looked at.
            exposure: what; without a host's name of its own node, that is the device's.

        Raises:
            OperationError: the proxy has no node, or as many as are permitted.
            RegistryError: the device is not there, or another is exposed at that place.
        """
        driver = self._runtime.tailnet_node()
        if driver is None:
            raise OperationError(
                "devices are exposed by a node of the proxy's own, and the tailnet is reached through this host's",
                "start the daemon with --tailnet tsnet",
            )
        async with self._change:
            device = self._registry.get(name)
            wanted = Exposure(
                device_id=device.id,
                kind=exposure.kind,
                transport=exposure.transport,
                port=exposure.port,
                target_port=exposure.target_port,
                hostname=(exposure.hostname or device.name) if exposure.kind == "node" else "",
                sources=exposure.sources,
            )
            if wanted.kind == "node":
                self._check_nodes(wanted)
            await asyncio.to_thread(self._registry.expose, wanted)
            self._runtime.exposures_changed(self._registry.exposures())
        return self._document(wanted, device.name, driver)

    async def unexpose(self, name: str, place: str | None) -> list[dict[str, Any]]:
        """Let the tailnet reach a device no longer, at one place or at all.

        Raises:
            RegistryError: the device is not there, or not exposed.
        """
        async with self._change:
            device = self._registry.get(name)
            mine = [entry for entry in self._registry.exposures() if entry.device_id == device.id]
            if place is not None:
                wanted = f"node:{device.id}" if place == "node" else place
                mine = [entry for entry in mine if entry.place == wanted]
            if not mine:
                where = "" if place is None else f" at {place}"
                raise NotExposed(f"{device.name} is not exposed{where}; `lopower expose` lists what is")
            await asyncio.to_thread(self._registry.unexpose, [entry.place for entry in mine])
            self._runtime.exposures_changed(self._registry.exposures())
        return [self._document(entry, device.name, None) for entry in mine]

    def _check_nodes(self, wanted: Exposure) -> None:
        nodes = [entry for entry in self._registry.exposures() if entry.kind == "node"]
        limit = self._settings().max_nodes
        if len(nodes) >= limit and wanted.place not in {entry.place for entry in nodes}:
            raise OperationError(
                f"{len(nodes)} devices have a node of their own, and max_nodes is {limit}",
                "each takes a few megabytes; raise the setting max_nodes",
            )

    def _document(self, exposure: Exposure, device: str, driver: TsnetDriver | None) -> dict[str, Any]:
        document: dict[str, Any] = {
            "device": device,
            "kind": exposure.kind,
            "place": "node" if exposure.kind == "node" else exposure.place,
            "from": [str(source) for source in exposure.sources],
        }
        if exposure.kind in ("port", "https"):
            document |= {"protocol": exposure.transport, "port": exposure.port, "target_port": exposure.target_port}
        if exposure.kind == "node":
            document["hostname"] = exposure.hostname
        if driver is not None:
            own = exposure.kind == "node"
            document["node"] = driver.node_document(node_of(exposure.device_id) if own else None)
        return document
