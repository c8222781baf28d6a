"""What of the devices the tailnet reaches: the rules of changing it, and how it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.exposed import node_of
from lopower.bridge.tailnet_names import DNS_PORT
from lopower.daemon.errors import OperationError
from lopower.devices.errors import NotExposed
from lopower.devices.exposures import Exposure
from lopower.tailnet.tsnet_control import SidecarError

if TYPE_CHECKING:
    from lopower.daemon.runtime_protocol import Runtime
    from lopower.daemon.settings import Settings
    from lopower.devices.registry import Registry
    from lopower.tailnet.host_inbound import HostListeners
    from lopower.tailnet.tsnet import TsnetDriver

# A URL, or the end of a login by key, comes within a second or two where the control server is well.
LOGIN_SECONDS: Final = 15.0


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
            OperationError: the proxy has no node, or as many as are permitted; or the port is taken by names.
            RegistryError: the device is not there, or another is exposed at that place.
        """
        driver = self._runtime.tailnet_node()
        if driver is None:
            _check_for_host(exposure)
        elif exposure.kind == "port" and exposure.port == DNS_PORT and self._registry.zone is not None:
            raise OperationError(
                f"port {DNS_PORT} of the proxy's node answers for names under {self._registry.zone}",
                "another port, or lopower advertise --dns --off",
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
                tags=exposure.tags,
                sources=exposure.sources,
            )
            if wanted.kind == "node":
                self._check_nodes(wanted)
            await asyncio.to_thread(self._registry.expose, wanted)
            self._runtime.exposures_changed(self._registry.exposures())
        if wanted.kind == "node" and driver is not None:
            await driver.settled(node_of(wanted.device_id), LOGIN_SECONDS)
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

    def own_nodes(self) -> dict[str, Any] | None:
        """The devices' own nodes, how many there may be, and what all nodes take; None: there can be none."""
        driver = self._runtime.tailnet_node()
        if driver is None:
            return None
        entries = [entry for entry in self.exposures() if entry["kind"] == "node"]
        running = len(driver.nodes)
        memory = driver.memory_bytes
        return {
            "devices": [entry["device"] for entry in entries],
            "waiting": [entry["device"] for entry in entries if not entry["node"]["connected"]],
            "limit": self._settings().max_nodes,
            "memory_bytes": memory,
            "memory_bytes_per_node": None if memory is None or not running else memory // running,
        }

    async def login(self, name: str, auth_key: str) -> dict[str, Any]:
        """Log a device's own node in, with a key, or by the URL that is in the answer.

        Raises:
            OperationError: it has none, or it cannot be asked.
            RegistryError: the device is not there.
        """
        device = self._registry.get(name)
        driver = self._runtime.tailnet_node()
        exposure = next((e for e in self._registry.exposures() if e.place == f"node:{device.id}"), None)
        if driver is None or exposure is None:
            raise OperationError(f"{device.name} has no node of its own", f"lopower expose {device.name} --node")
        node = node_of(device.id)
        try:
            await driver.login(auth_key, node)
        except SidecarError as error:
            raise OperationError(f"cannot log in: {error}", "lopower status") from None
        await driver.settled(node, LOGIN_SECONDS)
        return self._document(exposure, device.name, driver)

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
            document |= {"hostname": exposure.hostname, "tags": list(exposure.tags)}
        if driver is not None:
            own = exposure.kind == "node"
            document["node"] = driver.node_document(node_of(exposure.device_id) if own else None)
        elif (listeners := self._runtime.host_listeners()) is not None and exposure.kind == "port":
            document["node"] = _host_document(listeners, exposure)
        return document


def _check_for_host(exposure: Exposure) -> None:
    """What the host's own membership of a tailnet does not permit.

    Raises:
        OperationError: it needs a node of the proxy's own.
    """
    if exposure.kind != "port":
        raise OperationError(
            "this needs a node of the proxy's own, and the tailnet is reached through this host's membership",
            "start the daemon with --tailnet tsnet; or expose single ports: --port 8080:80",
        )
    named = [str(source) for source in exposure.sources if source.network is None]
    if named:
        raise OperationError(
            f"who {named[0]} is only a node of the proxy's own is told, and the tailnet is reached through this host's",
            "start the daemon with --tailnet tsnet; or name networks: --from 100.64.0.7/32",
        )


def _host_document(listeners: HostListeners, exposure: Exposure) -> dict[str, Any]:
    """A port of the host's tailnet addresses, as `TsnetDriver.node_document` tells of a node."""
    found = listeners.state((exposure.transport, exposure.port))
    if found.failures:
        state = "failed"
        detail = "; ".join(f"{address}: {text}" for address, text in found.failures)
    elif found.addresses:
        state, detail = "listening", "this host listens on its tailnet addresses"
    else:
        state, detail = "no-tailnet", "waits for this host to be in a tailnet"
    return {
        "driver": "host",
        "connected": state == "listening",
        "state": state,
        "detail": detail,
        "login_url": None,
        "dns_name": "",
        "certificates": False,
        "addresses": [str(address) for address in found.addresses],
    }
