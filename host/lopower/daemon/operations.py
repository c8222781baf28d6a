"""What can be asked of the daemon, and the rules of it: the one place where registry and data plane are kept in step.

Every change is a transaction of the registry, in a thread, and then told to the data plane, on the loop; one change at
a time. What a change did is found by comparing the devices before and after, since one may touch several: a device that
is renamed or removed takes other devices' rules about it along.

Answers are what the control API sends: dictionaries of JSON's types.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar

from lopower import __version__
from lopower.bridge.inbound import DEVICE_PORT
from lopower.daemon import documents
from lopower.daemon.advertising import Advertising
from lopower.daemon.diagnosis import Diagnosis, diagnose
from lopower.daemon.endpoints import Endpoints, NoEndpointError, find
from lopower.daemon.errors import OperationError
from lopower.daemon.exposing import LOGIN_SECONDS, Exposing
from lopower.daemon.requests import OutputFormat
from lopower.daemon.runtime_protocol import Runtime
from lopower.daemon.settings import Settings, changes
from lopower.daemon.statistics import DeviceStatistics, InterfaceStatistics
from lopower.devices import configurations
from lopower.devices.addresses import gateway_of
from lopower.devices.allowed_ips import allowed_ips_of_all
from lopower.devices.csv_import import ImportedDevice
from lopower.devices.device import Device, NewDevice, ServedPort
from lopower.devices.keys import format_key
from lopower.devices.policy import Rule
from lopower.devices.registry import Registry
from lopower.devices.server_facts import ServerEndpoint, ServerFacts
from lopower.tailnet.driver import TAILNET_IPV4, TAILNET_IPV6, DialError, DialRefused
from lopower.tailnet.routes import HostSnapshot, interface_addresses, take_snapshot
from lopower.tailnet.tsnet import TsnetDriver
from lopower.tailnet.tsnet_control import SidecarError
from lopower.tailnet.tsnet_inbound import PROXY_NODE

log = logging.getLogger(__name__)

T = TypeVar("T")

# A request ends some time: a client that wants more asks again.
MAX_ECHOES: Final = 100
MAX_ECHO_SECONDS: Final = 60.0


class Operations:
    """Everything the control API offers.

    Args:
        registry: the devices.
        runtime: the data plane.
        settings: in force.
        server_public_key: 32 bytes.
        load_settings: reads the settings anew, for `reload`; raises SettingsError.
        find_endpoints: what devices dial, by settings and UDP port; raises NoEndpointError.
        host_snapshot: the host's addresses: which networks `lan` is, and whether there is a tailnet.

    Attributes:
        advertising: the devices' ranges as routes of the tailnet.
        exposing: what of the devices the tailnet reaches.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        runtime: Runtime,
        settings: Settings,
        server_public_key: bytes,
        load_settings: Callable[[], Settings],
        find_endpoints: Callable[[Settings, int], Endpoints] = find,
        host_snapshot: Callable[[], HostSnapshot] = lambda: take_snapshot(interface_addresses()),
    ) -> None:
        self.settings = settings
        self._registry = registry
        self._runtime = runtime
        self._public_key = server_public_key
        self._load_settings = load_settings
        self._find_endpoints = find_endpoints
        self._host_snapshot = host_snapshot
        self._digests: dict[int, str] = {}  # by the device's id
        self._digests_for: ServerFacts | None = None
        self._change = asyncio.Lock()
        self.advertising = Advertising(registry, runtime, self._change)
        self.exposing = Exposing(registry, runtime, self._change, lambda: self.settings)

    # Reading.

    def status(self) -> dict[str, Any]:
        """The daemon, its devices by state, what the data plane says, and warnings."""
        states: dict[str, int] = {}
        outdated = 0
        for document in self.devices():
            states[document["state"]] = states.get(document["state"], 0) + 1
            outdated += document["outdated"]
        interface = self._runtime.interface_statistics()
        return {
            "version": __version__,
            "process": os.getpid(),
            "uptime": round(interface.uptime, 3),
            "state_dir": str(self.settings.state_dir),
            "config": None if self.settings.config is None else str(self.settings.config),
            "port": interface.port,
            "devices": {"total": len(self._registry.devices()), "outdated": outdated, **states},
            "served": self.served(),
            "advertised": self.advertising.document(),
            "own_nodes": self.exposing.own_nodes(),
            "counters": dict(sorted(interface.counters.items())),
            "warnings": self._warnings(),
            "data_plane": self._runtime.status(),
        }

    def server(self) -> dict[str, Any]:
        """All that another tool needs to reach this server as a device."""
        ranges = self._registry.ranges
        endpoints: list[str] = []
        allowed: list[str] = []
        try:
            found = self._endpoints()
            endpoints, warning = [str(endpoint) for endpoint in found.addresses], found.warning
            allowed = [str(network) for network in allowed_ips_of_all(self._server_facts())]
        except NoEndpointError as error:
            warning = str(error)
        return {
            "public_key": format_key(self._public_key),
            "endpoints": endpoints,
            "warning": warning,
            "port": self._runtime.interface_statistics().port,
            "range_ipv4": None if ranges.ipv4 is None else str(ranges.ipv4),
            "range_ipv6": str(ranges.ipv6),
            "gateway_ipv4": None if ranges.ipv4 is None else str(gateway_of(ranges.ipv4)),
            "gateway_ipv6": str(gateway_of(ranges.ipv6)),
            "mtu": self.settings.mtu,
            "allowed_ips": allowed,
            "rules": [str(rule) for rule in (*self.settings.allow, *self.settings.deny)],
            "search_domains": list(self.settings.search_domain),
        }

    def devices(self) -> list[dict[str, Any]]:
        """All devices, by name."""
        interface = self._runtime.interface_statistics()
        server = self._server_facts_or_none()
        return [
            documents.device_summary(*self._judge(device, interface, server)) for device in self._registry.devices()
        ]

    def device(self, name: str) -> dict[str, Any]:
        """One device, with what is known about its connection.

        Raises:
            DeviceNotFound: there is none of this name.
        """
        device = self._registry.get(name)
        interface = self._runtime.interface_statistics()
        details = documents.device_details(*self._judge(device, interface, self._server_facts_or_none()))
        return {
            **details,
            "via": self.advertising.of_device(device),
            "tailnet_name": self.advertising.name_of(device),
        }

    def served(self) -> list[dict[str, Any]]:
        """What the gateway offers."""
        return [documents.served_port(entry) for entry in self._registry.served_ports()]

    # Devices.

    async def add_devices(
        self, requests: Sequence[ImportedDevice], form: OutputFormat, with_qr: bool
    ) -> list[dict[str, Any]]:
        """Add devices, all or none; their configurations, with the private keys made for them, which are kept nowhere.

        Raises:
            RegistryError: one cannot be added, or cannot have a configuration in this format.
            NoEndpointError: configurations would name no endpoint.
        """
        server = self._server_facts()
        new = [request.device for request in requests]
        if form in configurations.FORMATS_WITHOUT_PRESHARED_KEY:
            new = [replace(device, preshared_key=None) for device in new]
        keys = [request.private_key for request in requests]

        def add() -> list[Device]:
            # Before anything is kept: a device whose configuration cannot be handed out would be there in vain.
            for device, key in zip(new, keys, strict=True):
                documents.configuration(_as_if_added(device, server), server, form, key, False)
            return self._registry.add_many(new)

        added = await self._commit(add)
        server = self._server_facts()
        return [
            await self._hand_out(device, server, form, key, with_qr) for device, key in zip(added, keys, strict=True)
        ]

    async def configuration(self, name: str, form: OutputFormat, given: bool = True) -> dict[str, Any]:
        """A device's configuration as it should be now, with a placeholder for the private key.

        `given`: it counts as the one that the device has.

        Raises:
            DeviceNotFound, ConfigurationUnavailable, NoEndpointError: there is none to give.
        """
        device, server = self._registry.get(name), self._server_facts()
        if not given:
            return await asyncio.to_thread(documents.configuration, device, server, form, None, False)
        return await self._hand_out(device, server, form, None, False)

    async def remove_device(self, name: str) -> dict[str, Any]:
        """Remove a device; its flows end at once."""
        exposed = self._registry.exposures()
        removed = await self._commit(lambda: self._registry.remove(name))
        if exposed != self._registry.exposures():
            self._runtime.exposures_changed(self._registry.exposures())
        return {"name": removed.name}

    async def rename_device(self, name: str, new_name: str) -> dict[str, Any]:
        """Give a device another name; rules that name it follow."""
        renamed = await self._commit(lambda: self._registry.rename(name, new_name))
        return self.device(renamed.name)

    async def replace_key(self, name: str, public_key: bytes) -> dict[str, Any]:
        """Give a device another key; whoever has the old one is cut off at once."""
        await self._commit(lambda: self._registry.replace_key(name, public_key))
        return self.device(name)

    async def set_enabled(self, name: str, enabled: bool) -> dict[str, Any]:
        """Let a device connect, or not."""
        await self._commit(lambda: self._registry.set_enabled(name, enabled))
        return self.device(name)

    async def change_rules(self, name: str, add: Sequence[Rule], remove: Sequence[Rule]) -> dict[str, Any]:
        """Add rules to a device and take others away.

        Raises:
            OperationError: a rule to be taken away is not there.
        """

        def change() -> Device:
            rules = list(self._registry.get(name).rules)
            for rule in remove:
                if rule not in rules:
                    have = "; ".join(map(str, rules)) or "none"
                    raise OperationError(f"{name} has no rule {str(rule)!r}", f"its rules: {have}")
                rules.remove(rule)
            return self._registry.set_rules(name, [*rules, *(rule for rule in add if rule not in rules)])

        await self._commit(change)
        return self.device(name)

    async def reset_clock(self, name: str) -> dict[str, Any]:
        """Accept a device's next initiation whatever its time stamp."""
        async with self._change:
            previous = self._registry.get(name)
            device = await asyncio.to_thread(self._registry.reset_timestamp, name)
            self._runtime.device_changed(device, previous)
        log.warning("the time stamp of %s was reset: its next initiation is accepted whatever its clock says", name)
        return self.device(name)

    # Ports of the gateway.

    async def serve(self, entry: ServedPort) -> dict[str, Any]:
        """Offer a port of the gateway's, or point one that is offered elsewhere."""
        async with self._change:
            await asyncio.to_thread(self._registry.serve, entry)
            self._runtime.serve_changed(self._registry.served_ports())
        return documents.served_port(entry)

    async def unserve(self, protocol: Literal["tcp", "udp"], port: int) -> dict[str, Any]:
        """Offer a port no longer."""
        async with self._change:
            entry = await asyncio.to_thread(self._registry.unserve, protocol, port)
            self._runtime.serve_changed(self._registry.served_ports())
        return documents.served_port(entry)

    # The proxy's own node.

    async def login(self, auth_key: str) -> dict[str, Any]:
        """Log the node in, with a key, or by the URL that is in the answer.

        Raises:
            OperationError: there is no node, or it cannot be asked.
        """
        driver = self._tailnet_node("tailscale up")
        try:
            await driver.login(auth_key)
        except SidecarError as error:
            raise OperationError(f"cannot log in: {error}", "lopower status") from None
        await driver.settled(PROXY_NODE, LOGIN_SECONDS)
        return driver.status()

    async def logout(self) -> dict[str, Any]:
        """Give up the node's identity in the tailnet.

        Raises:
            OperationError: there is no node, or it cannot be asked.
        """
        driver = self._tailnet_node("tailscale logout")
        try:
            await driver.logout()
        except SidecarError as error:
            raise OperationError(f"cannot log out: {error}", "lopower status") from None
        return driver.status()

    def _tailnet_node(self, command: str) -> TsnetDriver:
        driver = self._runtime.tailnet_node()
        if driver is None:
            raise OperationError(
                "the tailnet is reached through this host's own membership",
                f"`{command}` on this host; or start the daemon with --tailnet tsnet",
            )
        return driver

    # The rest.

    async def ping(self, name: str, count: int, interval: float, timeout: float) -> list[dict[str, Any]]:
        """Echo requests to a device, through its tunnel.

        Raises:
            OperationError: it is disabled, or not connected.
        """
        if not (1 <= count <= MAX_ECHOES and 0 <= interval <= MAX_ECHO_SECONDS and 0 < timeout <= MAX_ECHO_SECONDS):
            raise OperationError(
                f"count is from 1 to {MAX_ECHOES}, interval and timeout are at most {MAX_ECHO_SECONDS:g} s"
            )
        device = self._registry.get(name)
        if not device.enabled:
            raise OperationError(f"{name} is disabled", f"lopower device enable {name}")
        return [documents.echo_result(result) for result in await self._runtime.ping(device, count, interval, timeout)]

    async def call(self, name: str, port: int) -> socket.socket:
        """A connection to a TCP port of a device, through its tunnel, from the gateway's address.

        Raises:
            OperationError: the device is not there, or refuses.
        """
        device = self._registry.get(name)
        if not device.enabled:
            raise OperationError(f"{name} is disabled", f"lopower device enable {name}")
        try:
            return await self._runtime.call(device, port)
        except DialRefused:
            raise OperationError(
                f"{name} refuses a connection to its port {port}", _refused_hint(device, port)
            ) from None
        except DialError as error:
            raise OperationError(f"{name} cannot be reached: {error}", f"lopower device show {name}") from None

    async def doctor(self) -> list[dict[str, Any]]:
        """This host, as the running daemon needs it."""
        from lopower.daemon import doctor  # rarely asked for, and knows much

        facts = doctor.Facts(
            running=True, port=self._runtime.interface_statistics().port, ranges=self._registry.ranges.networks
        )
        # In a thread: names are resolved, and files read.
        checks = await asyncio.to_thread(doctor.run, self.settings, facts)
        return [check._asdict() for check in checks]

    def reload(self) -> dict[str, Any]:
        """Read the settings again; what needs a restart stays as it was.

        Raises:
            SettingsError: they cannot be used; all stay as they were.
        """
        new = self._load_settings()
        reloadable, need_restart = changes(self.settings, new)
        self.settings = replace(self.settings, **{name: getattr(new, name) for name in reloadable})
        self._runtime.reload(self.settings)
        if reloadable:
            log.info("settings reloaded: %s", ", ".join(reloadable))
        if need_restart:
            log.warning("these settings changed and take effect after a restart: %s", ", ".join(need_restart))
        return {"reloaded": reloadable, "need_restart": need_restart}

    async def _commit(self, change: Callable[[], T]) -> T:
        """Change the registry, and tell the data plane what became of it."""
        async with self._change:
            before = {device.id: device for device in self._registry.devices()}
            result = await asyncio.to_thread(change)
            touched: list[Device] = []
            for device in self._registry.devices():
                previous = before.pop(device.id, None)
                if previous is None:
                    touched.append(device)
                    self._runtime.device_added(device)
                elif device is not previous and _concerns_runtime(device, previous):
                    touched += (device, previous)
                    self._runtime.device_changed(device, previous)
            for device in before.values():
                touched.append(device)
                self._runtime.device_removed(device)
            self._forget_digests(touched)
        return result

    def _forget_digests(self, touched: Sequence[Device]) -> None:
        """Configurations change that belong to these devices, and to those that a rule of theirs lets them reach."""
        if any(rule.device is not None for rule in (*self.settings.allow, *self.settings.deny)):
            self._digests.clear()
            return
        named = {rule.device for device in touched for rule in device.rules if rule.device is not None}
        for device in touched:
            self._digests.pop(device.id, None)
        if named:
            for device in self._registry.devices():
                if device.name in named:
                    self._digests.pop(device.id, None)

    async def _hand_out(
        self, device: Device, server: ServerFacts, form: OutputFormat, private_key: bytes | None, with_qr: bool
    ) -> dict[str, Any]:
        """A configuration, remembered as the one the device has."""
        document = await asyncio.to_thread(documents.configuration, device, server, form, private_key, with_qr)
        digest = self._digests[device.id] = configurations.digest(device, server)
        if digest != device.configuration_digest:
            await asyncio.to_thread(self._registry.set_configuration_digest, device.name, digest)
        return document

    def _judge(
        self, device: Device, interface: InterfaceStatistics, server: ServerFacts | None
    ) -> tuple[Device, DeviceStatistics, Diagnosis, bool]:
        statistics = self._runtime.device_statistics(device)
        endpoint = "unknown" if server is None else str(server.endpoints[0])
        diagnosis = diagnose(device, statistics, interface, server_key=self._public_key, endpoint=endpoint)
        return device, statistics, diagnosis, server is not None and self._is_outdated(device, server)

    def _is_outdated(self, device: Device, server: ServerFacts) -> bool:
        if device.configuration_digest is None:
            return False
        digest = self._digests.get(device.id)
        if digest is None:
            digest = self._digests[device.id] = configurations.digest(device, server)
        return digest != device.configuration_digest

    def _endpoints(self) -> Endpoints:
        return self._find_endpoints(self.settings, self._runtime.interface_statistics().port)

    def _server_facts_or_none(self) -> ServerFacts | None:
        try:
            return self._server_facts()
        except NoEndpointError:
            return None

    def _server_facts(self) -> ServerFacts:
        settings = self.settings
        host = self._host_snapshot()
        tailnet = self._runtime.tailnet_networks()
        if tailnet is None:
            tailnet = (TAILNET_IPV4, TAILNET_IPV6) if host.tailnet else ()
        facts = ServerFacts(
            public_key=self._public_key,
            endpoints=[ServerEndpoint(*endpoint) for endpoint in self._endpoints().addresses],
            ranges=self._registry.ranges,
            rules=(*settings.deny, *settings.allow),
            tailnet=tailnet,
            lan=host.attached,
            devices=self._registry.devices(),
            mtu=settings.mtu,
            search_domain=settings.search_domain[0] if settings.search_domain else None,
        )
        # Digests are worth keeping: each takes 0.4 ms, for all networks that a device may reach, and packets wait
        # meanwhile. The devices' own part in them changes only in `_commit`.
        without_devices = replace(facts, devices=())
        if without_devices != self._digests_for:
            self._digests_for = without_devices
            self._digests.clear()
        return facts

    def _warnings(self) -> list[str]:
        try:
            warning = self._endpoints().warning
        except NoEndpointError as error:
            warning = str(error)
        return [warning] if warning else []


def _as_if_added(new: NewDevice, server: ServerFacts) -> Device:
    """A device with addresses as it could get them."""
    ranges = server.ranges
    automatic = ranges.ipv4[2] if ranges.ipv4 is not None else None
    return Device(
        id=0,
        name=new.name,
        public_key=new.public_key,
        preshared_key=new.preshared_key,
        ipv4=automatic if new.ipv4 == "auto" else new.ipv4,
        ipv6=ranges.ipv6[2] if new.ipv6 == "auto" else new.ipv6,
        enabled=True,
        rules=new.rules,
        full_tunnel=new.full_tunnel,
        mtu=new.mtu,
        persistent_keepalive=new.persistent_keepalive,
        created_at=datetime.now(UTC),
    )


def _concerns_runtime(device: Device, previous: Device) -> bool:
    """Whether more changed than what the data plane itself stores."""
    return replace(device, **_STORED_BY_RUNTIME) != replace(previous, **_STORED_BY_RUNTIME)


_STORED_BY_RUNTIME: Final[dict[str, Any]] = {
    "last_timestamp": None,
    "last_endpoint": None,
    "configuration_digest": None,
    "firmware": None,
}


def _refused_hint(device: Device, port: int) -> str:
    if port != DEVICE_PORT:
        return "does its program listen there?"
    if device.firmware is None:
        return "it has never said that it runs lopower's firmware, which listens there"
    return "its firmware may be older than updates through the tunnel: use the cable, lopower flash"
