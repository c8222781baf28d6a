"""A whole proxy in the test's own loop: registry, runtime and virtual devices on loopback, without the control API."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

from lopower.daemon.runtime import ProxyRuntime
from lopower.daemon.settings_sources import resolve
from lopower.devices.device import Device, NewDevice, ServedPort
from lopower.devices.keys import generate_private_key, load_or_create_server_key, public_key_of
from lopower.devices.policy import Rule
from lopower.devices.registry import Registry
from lopower_hil.virtual_device import DeviceConfiguration, VirtualDevice

GATEWAY_IPV4 = "10.90.0.1"
GATEWAY_IPV6 = "fd7a:115c:a1e0:9909::1"


def free_udp_port() -> int:
    """A UDP port of loopback that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Proxy:
    """One proxy. `start` and `stop` may be repeated; the state directory stays, as over a restart of the daemon."""

    def __init__(self, directory: Path, **flags: object) -> None:
        self.port = free_udp_port()
        resolver = directory / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        base: dict[str, object] = {
            "state_dir": str(directory),
            "listen": f"127.0.0.1:{self.port}",
            "resolv_conf": str(resolver),
        }
        self.settings = resolve(flags={**base, **flags}, environ={})
        self.directory = directory
        self.private_key = load_or_create_server_key(directory / "server.key")
        self.device_keys: dict[str, bytes] = {}

    def start(self) -> None:
        """Open the registry and begin."""
        self.registry = Registry.open(
            self.directory / "devices.db", server_public_key=public_key_of(self.private_key)
        )  # fmt: skip
        self.registry.set_ranges(self.settings.ipv4_range, self.settings.ipv6)
        self.runtime = ProxyRuntime(self.settings, self.registry, self.private_key, asyncio.get_running_loop())
        self.runtime.open_socket()
        self.runtime.start()

    async def stop(self, timeout: float = 0.0) -> None:
        """End in order."""
        await self.runtime.close(timeout)
        self.registry.close()

    def enrol(self, name: str, *rules: str) -> Device:
        """A new device, live."""
        self.device_keys[name] = private_key = generate_private_key()
        device = self.registry.add(
            NewDevice(name=name, public_key=public_key_of(private_key), rules=tuple(map(Rule.parse, rules)))
        )
        self.runtime.device_added(device)
        return device

    def configuration(self, name: str) -> DeviceConfiguration:
        """What the device would be given."""
        device = self.registry.get(name)
        addresses = ", ".join(str(address) for address in (device.ipv4, device.ipv6) if address is not None)
        lines = [
            "[Interface]",
            f"PrivateKey = {_base64(self.device_keys[name])}",
            f"Address = {addresses}",
            "[Peer]",
            f"PublicKey = {_base64(self.runtime.interface.public_key)}",
            "AllowedIPs = 0.0.0.0/0, ::/0",
            f"Endpoint = 127.0.0.1:{self.port}",
        ]
        if device.preshared_key is not None:
            lines.append(f"PresharedKey = {_base64(device.preshared_key)}")
        return DeviceConfiguration.parse("\n".join(lines))

    def device(self, name: str) -> VirtualDevice:
        """A virtual device, not started."""
        return VirtualDevice(self.configuration(name), features=self.runtime.path.socket.features)

    def serve(self, port: int, target_port: int) -> None:
        """The gateway's TCP port reaches a port of loopback."""
        self.registry.serve(ServedPort(protocol="tcp", port=port, target=(ip_address("127.0.0.1"), target_port)))
        self.runtime.serve_changed(self.registry.served_ports())


@asynccontextmanager
async def running_proxy(directory: Path, **flags: object) -> AsyncIterator[Proxy]:
    """A proxy that runs; ends with it."""
    proxy = Proxy(directory, **flags)
    proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


@asynccontextmanager
async def tcp_server(handler: Handler) -> AsyncIterator[int]:
    """A server on loopback; its port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=1 << 20)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handler that sends back what comes."""
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        pass


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()
