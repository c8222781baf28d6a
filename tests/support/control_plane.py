"""A control plane without a data plane: real registry, real operations, real control server; statistics by hand."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lopower.bridge.exposed import node_of
from lopower.daemon.control import ControlServer
from lopower.daemon.endpoints import Endpoints
from lopower.daemon.operations import Operations
from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings import Settings
from lopower.daemon.settings_sources import resolve
from lopower.daemon.statistics import DeviceStatistics, EchoResult, InterfaceStatistics
from lopower.devices.device import Device, ServedPort
from lopower.devices.exposures import Exposure
from lopower.devices.keys import generate_private_key, public_key_of
from lopower.devices.registry import Registry
from lopower.tailnet.driver import DialTimedOut
from lopower.tailnet.host_inbound import HostListeners
from lopower.tailnet.routes import HostSnapshot, IPNetwork
from lopower.tailnet.tsnet import TsnetDriver
from lopower.tailnet.tsnet_control import NodeConfig

PORT = 51820
NO_NETWORKS = HostSnapshot(frozenset(), (), frozenset(), frozenset())


@dataclass
class RecordingRuntime:
    """Keeps what it is told, and tells what a test put in.

    Attributes:
        events: what happened to devices: `added NAME`, `changed NAME`, `removed NAME`.
    """

    events: list[str] = field(default_factory=list)
    statistics: dict[str, DeviceStatistics] = field(default_factory=dict)
    interface: InterfaceStatistics = field(default_factory=lambda: InterfaceStatistics(uptime=60.0, port=PORT))
    served: tuple[ServedPort, ...] = ()
    exposed: tuple[Exposure, ...] = ()
    driver: TsnetDriver | None = None
    listeners: HostListeners | None = None
    previous: Device | None = None
    settings: Settings | None = None
    echo_seconds: list[float | None] = field(default_factory=lambda: [0.0125])

    def device_added(self, device: Device) -> None:
        self.events.append(f"added {device.name}")

    def device_changed(self, device: Device, previous: Device) -> None:
        self.events.append(f"changed {device.name}")
        self.previous = previous

    def device_removed(self, device: Device) -> None:
        self.events.append(f"removed {device.name}")

    def device_statistics(self, device: Device) -> DeviceStatistics:
        return self.statistics.get(device.name, DeviceStatistics())

    def interface_statistics(self) -> InterfaceStatistics:
        return self.interface

    def status(self) -> dict[str, Any]:
        return {"flows": 0}

    def serve_changed(self, entries: Sequence[ServedPort]) -> None:
        self.served = tuple(entries)

    async def call(self, device: Device, port: int) -> socket.socket:
        """A connection that never gets an answer."""
        raise DialTimedOut(f"{device.name} did not answer at {port}")

    async def ping(self, device: Device, count: int, interval: float, timeout: float) -> list[EchoResult]:
        return [EchoResult(sequence=n + 1, seconds=s, address="10.90.0.2") for n, s in enumerate(self.echo_seconds)]

    def exposures_changed(self, exposures: Sequence[Exposure]) -> None:
        self.exposed = tuple(exposures)
        if self.driver is not None:
            nodes = {node_of(e.device_id): NodeConfig(hostname=e.hostname) for e in exposures if e.kind == "node"}
            self.driver.set_nodes(nodes)

    def advertisement_changed(self) -> None:
        self.events.append("advertisement changed")

    def tailnet_networks(self) -> tuple[IPNetwork, ...] | None:
        return None

    def tailnet_node(self) -> TsnetDriver | None:
        return self.driver

    def host_listeners(self) -> HostListeners | None:
        return self.listeners

    def reload(self, settings: Settings) -> None:
        self.settings = settings


@dataclass
class ControlPlane:
    """The parts, and the CLI that talks to them."""

    settings: Settings
    registry: Registry
    runtime: RecordingRuntime
    operations: Operations
    server: ControlServer
    endpoints: list[HostPort]
    next_settings: list[Settings]
    environment: dict[str, str]

    async def lopower(self, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
        """Run `lopower ARGUMENTS` as a process of its own: exit code, standard output, standard error."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lopower.cli.main", *arguments,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=self.environment,
        )  # fmt: skip
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


def environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the machine's own lopower is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOPOWER_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONWARNINGS": "error"}


@asynccontextmanager
async def control_plane(directory: Path, **flags: object) -> AsyncIterator[ControlPlane]:
    """Everything up, with its state in `directory`; down at the end."""
    state_dir = directory / "state"
    state_dir.mkdir(mode=0o700)
    environ = environment(directory)
    settings = resolve(flags={"state_dir": str(state_dir), **flags}, environ=environ, is_root=False)
    public_key = public_key_of(generate_private_key())
    registry = Registry.open(state_dir / "devices.db", server_public_key=public_key)
    runtime = RecordingRuntime()
    endpoints = [HostPort("192.0.2.7", PORT)]
    next_settings = [settings]
    operations = Operations(
        registry=registry,
        runtime=runtime,
        settings=settings,
        server_public_key=public_key,
        load_settings=lambda: next_settings[-1],
        find_endpoints=lambda _settings, _port: Endpoints(tuple(endpoints), ""),
        host_snapshot=lambda: NO_NETWORKS,
    )
    server = ControlServer(operations, path=settings.socket, mode=settings.socket_mode, group=settings.control_group)
    await server.start()
    environ["LOPOWER_STATE_DIR"] = str(state_dir)
    try:
        yield ControlPlane(settings, registry, runtime, operations, server, endpoints, next_settings, environ)
    finally:
        await server.close()
        registry.close()
