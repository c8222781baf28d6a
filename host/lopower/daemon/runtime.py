"""The running data plane: one WireGuard interface, one stack and one bridge, kept equal to the registry.

Everything here runs on the loop. What touches the disk goes through `WriteBehind`, what waits is a task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from lopower.bridge.bridge import Bridge
from lopower.bridge.device_state import DeviceState
from lopower.bridge.poller import Poller
from lopower.daemon.datapath import DataPath
from lopower.daemon.memory import MemoryKeeper, heap_trimmer, resident_bytes
from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings import Settings
from lopower.daemon.statistics import DeviceStatistics, EchoResult, InterfaceStatistics
from lopower.daemon.tai64n import TimestampSource
from lopower.daemon.tailnet import with_tailnet
from lopower.daemon.tailnet_side import TailnetSide
from lopower.daemon.udp_socket import SocketFeatures
from lopower.daemon.write_behind import WriteBehind
from lopower.devices.device import Device, ServedPort
from lopower.devices.exposures import Exposure
from lopower.devices.firmware import Firmware
from lopower.devices.registry import Registry
from lopower.dns.config import DnsConfig, parse_route
from lopower.dns.server import DnsServer
from lopower.netstack.config import StackConfig
from lopower.netstack.stack import Stack
from lopower.tailnet.driver import DialUnreachable
from lopower.tailnet.host import HostDialer
from lopower.tailnet.host_inbound import HostListeners
from lopower.tailnet.routes import HostNetwork, HostSnapshot, IPNetwork
from lopower.tailnet.tsnet import TsnetDriver
from lopower.wire.datagrams import Endpoint
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.events import EndpointChanged, Event, TimestampsAccepted
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer

log = logging.getLogger(__name__)

IPAddress = IPv4Address | IPv6Address

# Devices' last endpoints are stored this often, seconds. One lost to a crash costs that device the wait for its own
# next handshake, nothing else.
ENDPOINT_INTERVAL: Final = 10.0
STAMP_RENEWAL_INTERVAL: Final = 60.0
# After a restart the devices are called at their last endpoints, so many at a time: with thousands of them neither we
# nor their network are flooded.
CALLS_PER_ROUND: Final = 50
CALL_INTERVAL: Final = 0.1


class ProxyRuntime:
    """See the module.

    Attributes:
        path: the turn of the loop.
        tailnet: its other side; `driver` is the tailnet's.
        interface, stack, bridge: the layers.
        network: the host's addresses and routes.
        port: the UDP port in use.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        private_key: bytes,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_reload: Callable[[Settings], None] = lambda settings: None,
        on_login: Callable[[str], None] = lambda url: None,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._private_key = private_key
        self._loop = loop
        self._clock = clock
        self._on_reload = on_reload
        self._started = clock()
        self._peers: dict[int, Peer] = {}  # by the device's id
        self._tasks: set[asyncio.Task[None]] = set()
        self._moved: dict[bytes, tuple[str, int]] = {}
        self._stamps = WriteBehind(loop, "handshake time stamps", registry.store_timestamps, clock)
        self.network = HostNetwork()
        self.tailnet = TailnetSide(
            settings,
            registry,
            self.network,
            loop,
            clock=clock,
            contact=_contact,
            changed=self._tailnet_changed,
            on_login=on_login,
        )
        self.driver = self.tailnet.driver
        self._dns_settings: DnsConfig | None = None
        self._endpoints = WriteBehind(loop, "device endpoints", registry.store_endpoints, clock)
        self._firmware = WriteBehind(loop, "what devices run", registry.store_firmware, clock)
        self.path = DataPath(loop, clock)

    def open_socket(self) -> None:
        """Bind the UDP port.

        Raises:
            OSError: it cannot be bound.
        """
        settings = self._settings
        features = SocketFeatures(
            gro="gro" not in settings.without,
            gso="gso" not in settings.without,
            pktinfo="pktinfo" not in settings.without,
        )
        self.port = self.path.open_socket(settings.listen.host, settings.listen.port, features).port

    def start(self) -> None:
        """Begin; the socket must be open."""
        settings, registry, loop, clock = self._settings, self._registry, self._loop, self._clock
        uniform = random.Random().uniform  # jitter is no secret, and costs no system call this way
        self._timestamp = TimestampSource(time.time_ns, registry.timestamps_reserved_until, self._reserve_timestamps)
        self.interface = Interface(
            private_key=self._private_key,
            config=InterfaceConfig(mtu=settings.mtu, rate_limit_exempt=settings.trusted_sources),
            entropy=os.urandom,
            uniform=uniform,
            timestamp=self._timestamp,
            transmit=self.path.socket.transmit,
        )
        ranges = registry.ranges
        self.stack = Stack(
            config=StackConfig(
                local_addresses=frozenset(address.packed for address in ranges.gateways),
                mtu=settings.mtu,
                mtu_for=_mtu_of,
            ),
            entropy=os.urandom,
            uniform=uniform,
            output=self.interface,
        )
        self._dns_settings = self._dns_config(settings)
        self.dns = DnsServer(self._dns_settings, names=self, tailnet=self.driver.query, entropy=os.urandom, clock=clock)
        self.poller = Poller(loop, self.path.wake, use_epoll="epoll" not in settings.without, turn=self.path.turn)
        self.bridge = Bridge(
            stack=self.stack,
            driver=self.driver,
            dialer=HostDialer(sources=settings.source_address),
            poller=self.poller,
            loop=loop,
            dns=self.dns,
            clock=clock,
            gateway=ranges.gateways,
            ranges=ranges.networks,
            rules=(*settings.deny, *settings.allow),
            contact=_contact,
            announced=self._announced,
            names=("gateway", *(f"gateway.{domain}" for domain in settings.search_domain)),
            has_endpoint=lambda peer: peer.endpoint is not None,
        )
        self.network.listeners.append(self._host_changed)
        self.network.watch(loop)
        self.bridge.host_changed(self.network.snapshot)
        self.bridge.set_served(registry.served_ports(), clock())
        for device in registry.devices():
            self._add_peer(device)
        self.path.start(self.interface, self.stack, self)
        self.tailnet.start(self.bridge)
        self._run(self._call_devices())
        self._run(self._housekeeping())
        keeper = MemoryKeeper(
            self.path.release_unused, lambda: self.path.counters["turns"], resident_bytes, heap_trimmer()
        )
        self._run(keeper.run())

    async def close(self, timeout: float) -> None:
        """End: flows get `timeout` seconds to end by themselves, then a RST."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bridge.close(timeout)
        self._dns_settings = None
        await self.tailnet.close()
        await self.dns.close()
        self.network.close()
        self.poller.close()
        self.path.stop()
        if self._moved:
            self._endpoints.put(list(self._moved.items()))
        await self._endpoints.close()
        await self._firmware.close()
        await self._stamps.close()

    # What the data path asks of its application.

    def turn(self, now: float) -> bool:
        """The bridge's part of a turn."""
        return self.bridge.turn(now)

    def next_timer(self) -> float | None:
        """The bridge's next timer."""
        return self.bridge.next_timer()

    def handle_timer(self, now: float) -> None:
        """The bridge's timers."""
        self.bridge.handle_timer(now)

    def interface_events(self, events: list[Event], now: float) -> None:
        """Remember over a restart what must be: handshakes' time stamps before their answers, and endpoints."""
        for event in events:
            if isinstance(event, TimestampsAccepted):
                stamps = [(peer.public_key, stamp) for peer, stamp in event.timestamps]
                self._stamps.put(stamps, partial(self._stamps_stored, event.token))
            elif isinstance(event, EndpointChanged) and event.peer.endpoint is not None:
                self._moved[event.peer.public_key] = event.peer.endpoint[:2]

    # What the DNS server asks.

    def addresses(self, label: str) -> list[IPAddress] | None:
        """The addresses of the device with this name."""
        device = self._registry.find(label)
        if device is None or not device.enabled:
            return None
        return [address for address in (device.ipv4, device.ipv6) if address is not None]

    def name_of(self, address: IPAddress) -> str | None:
        """The name of the device with this address."""
        device = self.bridge.devices.device_at(address.packed)
        return None if device is None else device.name

    # What the control plane asks.

    def device_added(self, device: Device) -> None:
        """A device is in the registry from now on."""
        self._add_peer(device)
        self.tailnet.devices_changed()
        self.path.wake()

    def device_removed(self, device: Device) -> None:
        """A device is in the registry no more."""
        self._remove_peer(device.id)
        self.tailnet.devices_changed()

    def device_changed(self, device: Device, previous: Device) -> None:
        """A device is a different one now, live; its flows end only where the change forbids them."""
        peer = self._peers.get(device.id)
        same_tunnel = (device.public_key, device.ipv4, device.ipv6, device.enabled) == (
            previous.public_key, previous.ipv4, previous.ipv6, previous.enabled,
        )  # fmt: skip
        if peer is None or not same_tunnel:
            self._remove_peer(device.id)
            self._add_peer(device)
            self.tailnet.devices_changed()
            self.path.wake()
            return
        peer.set_preshared_key(device.preshared_key)
        if device.last_timestamp is None and previous.last_timestamp is not None:
            peer.reset_timestamp()
        state: DeviceState = peer.context
        state.device = device
        state.mtu = peer.mtu = device.mtu or self._settings.mtu
        self.bridge.device_changed(peer, self._clock())

    def serve_changed(self, entries: Iterable[ServedPort]) -> None:
        """The served ports are these from now on."""
        self.bridge.set_served(entries, self._clock())

    def exposures_changed(self, exposures: Iterable[Exposure]) -> None:
        """The tailnet reaches these from now on."""
        self.tailnet.exposures_changed(exposures)

    def advertisement_changed(self) -> None:
        """The tailnet is told of the devices' ranges, and of who is there, as the registry says."""
        self.tailnet.advertisement_changed()

    def reload(self, settings: Settings) -> None:
        """Put into force what of `settings` can be changed without a restart."""
        self._settings = settings
        self.bridge.set_rules((*settings.deny, *settings.allow), self._clock())
        self.bridge.set_dialer(HostDialer(sources=settings.source_address))
        self.interface.set_rate_limit_exempt(settings.trusted_sources)
        self._dns_settings = self._dns_config(settings)
        self.dns.reload(self._dns_settings)
        self.tailnet.reload(settings)
        self._on_reload(settings)

    def device_statistics(self, device: Device) -> DeviceStatistics:
        """What has been counted of a device since it was enabled, or since the daemon started."""
        peer = self._peers.get(device.id)
        if peer is None:
            return DeviceStatistics()
        now, state = self._clock(), peer.context
        return DeviceStatistics(
            latest_handshake=_age(peer.latest_handshake, now),
            last_packet=_age(peer.last_packet, now),
            endpoint=None if peer.endpoint is None else HostPort(peer.endpoint.host, peer.endpoint.port),
            rx_bytes=peer.rx_bytes,
            tx_bytes=peer.tx_bytes,
            rx_packets=peer.rx_packets,
            tx_packets=peer.tx_packets,
            counters=peer.counters + state.counters,
            tcp_flows=state.tcp_flows,
            udp_flows=state.udp_flows,
            refusals=tuple(
                {
                    "protocol": refusal.protocol,
                    "destination": refusal.destination,
                    "port": refusal.port,
                    "reason": refusal.reason,
                    "message": refusal.message,
                    "count": refusal.count,
                    "age": round(now - refusal.latest, 3),
                }
                for refusal in state.refusals.values()
            ),
        )

    def interface_statistics(self) -> InterfaceStatistics:
        """What has been counted of all since the daemon started."""
        now, interface = self._clock(), self.interface
        return InterfaceStatistics(
            uptime=now - self._started,
            port=self.port,
            counters=dict(interface.counters),
            recent_unknown=tuple(
                (key, HostPort(endpoint.host, endpoint.port), now - at)
                for key, endpoint, at in interface.recent_unknown
            ),
            recent_wrong_mac1=tuple(
                (HostPort(endpoint.host, endpoint.port), now - at) for endpoint, at in interface.recent_wrong_mac1
            ),
        )

    def status(self) -> dict[str, Any]:
        """The data plane's part of `lopower status`."""
        socket = self.path.socket
        kernel = {"gro": socket.features.gro, "gso": socket.features.gso, "pktinfo": socket.features.pktinfo}
        return {
            **self.bridge.status(),
            "dns": self.dns.status(),
            "kernel": {**kernel, "epoll": self.poller.edge_triggered},
            "socket_counters": dict(socket.counters),
            "stack_counters": dict(self.stack.counters),
            "turns": dict(self.path.counters),
            "failures": self.failures(),
        }

    def tailnet_networks(self) -> tuple[IPNetwork, ...] | None:
        """What devices can reach through the proxy's own node; None without one."""
        return self.tailnet.networks()

    def tailnet_node(self) -> TsnetDriver | None:
        """The driver that has nodes of its own, if that is in use."""
        return self.tailnet.node

    def host_listeners(self) -> HostListeners | None:
        """The ports of the host's tailnet addresses; None with a node of the proxy's own."""
        return self.tailnet.listeners

    async def call(self, device: Device, port: int) -> socket.socket:
        """A connection to a device's TCP port, from the gateway's address.

        Raises:
            DialError: it does not come about.
        """
        peer = self._peers.get(device.id)
        if peer is None:
            raise DialUnreachable(f"{device.name} is disabled")
        return await self.bridge.call(peer, port)

    async def ping(self, device: Device, count: int, interval: float, timeout: float) -> list[EchoResult]:
        """Echo requests to a device, to its IPv4 address if it has one, one after the other."""
        address = device.ipv4 or device.ipv6
        peer = self._peers.get(device.id)
        if peer is None or address is None:
            return []
        source = next(own for own in self._registry.ranges.gateways if own.version == address.version)
        results: list[EchoResult] = []
        for sequence in range(1, count + 1):
            seconds = await self.bridge.pings.ping(peer, source.packed, address.packed, timeout)
            results.append(EchoResult(sequence=sequence, seconds=seconds, address=str(address)))
            if sequence < count:
                await asyncio.sleep(max(0.0, interval - (seconds or timeout)))
        return results

    def failures(self) -> list[str]:
        """What does not work at the moment, in words."""
        return [
            f"{what} cannot be stored: {failing}"
            for what, failing in (
                ("handshake time stamps", self._stamps.failing),
                ("device endpoints", self._endpoints.failing),
                ("what devices run", self._firmware.failing),
            )
            if failing is not None
        ]

    # Peers.

    def _add_peer(self, device: Device) -> None:
        if not device.enabled:
            return
        mtu = device.mtu or self._settings.mtu
        state = DeviceState(device, mtu=mtu)
        endpoint = None if device.last_endpoint is None else Endpoint(*device.last_endpoint)
        peer = self.interface.add_peer(
            device.public_key,
            preshared_key=device.preshared_key,
            allowed_ips=[address for address in (device.ipv4, device.ipv6) if address is not None],
            endpoint=endpoint,
            last_timestamp=device.last_timestamp,
            mtu=mtu,
            context=state,
        )
        self._peers[device.id] = peer
        self.bridge.add_peer(peer)

    def _remove_peer(self, device_id: int) -> None:
        peer = self._peers.pop(device_id, None)
        if peer is None:
            return
        self._moved.pop(peer.public_key, None)
        self.bridge.remove_peer(peer, self._clock())
        self.interface.remove_peer(peer.public_key)
        self.path.wake()

    # Background work.

    async def _call_devices(self) -> None:
        """Initiate to the devices' last endpoints: they still send to sessions that ended with the last run."""
        waiting = [peer for peer in self._peers.values() if peer.endpoint is not None]
        for first in range(0, len(waiting), CALLS_PER_ROUND):
            now = self._clock()
            for peer in waiting[first : first + CALLS_PER_ROUND]:
                if self.interface.peers.get(peer.public_key) is peer and not peer.has_session(now):
                    self.interface.connect(peer, now)
            self.path.wake()
            await asyncio.sleep(CALL_INTERVAL)

    async def _housekeeping(self) -> None:
        renewed = self._clock()
        while True:
            await asyncio.sleep(ENDPOINT_INTERVAL)
            if self._moved:
                self._endpoints.put(list(self._moved.items()))
                self._moved.clear()
            now = self._clock()
            if now - renewed >= STAMP_RENEWAL_INTERVAL:
                renewed = now
                self._timestamp.renew()

    def _run(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stamps_stored(self, token: int) -> None:
        self.interface.timestamps_stored(token, self._clock())
        self.path.wake()

    def _reserve_timestamps(self, until: int) -> None:
        try:
            self._registry.reserve_timestamps(until)
        except Exception as error:
            # Devices go on accepting our stamps as long as the clock does not go back over a crash in this time.
            log.warning("our own handshake time stamps could not be reserved: %s", error)

    def _announced(self, peer: Peer, firmware: Firmware) -> None:
        """A board has started, and says what it runs."""
        state: DeviceState = peer.context
        name = state.device.name
        log.info("%s started (%s): package %s, %s", name, firmware.reset, firmware.package, firmware.image)
        if firmware.gave_up is not None:
            log.warning("%s gave an update up and runs what it ran before: %s", name, firmware.reason)
        self._firmware.put([(peer.public_key, firmware)])

    def _tailnet_changed(self) -> None:
        """What the tailnet says changed: names, routes, or whether we are in it."""
        if self._dns_settings is None:
            return  # not started yet, or ending
        config = self._dns_config(self._settings)
        if config != self._dns_settings:
            self._dns_settings = config
            self.dns.reload(config)
        self.bridge.recheck(self._clock())

    def _host_changed(self, snapshot: HostSnapshot) -> None:
        self.bridge.host_changed(snapshot)
        self.tailnet.host_changed(snapshot)

    def _dns_config(self, settings: Settings) -> DnsConfig:
        ranges = self._registry.ranges
        config = DnsConfig(
            gateway_addresses=ranges.gateways,
            ranges=ranges.networks,
            resolv_conf=settings.resolv_conf,
            routes=dict(map(parse_route, settings.dns_route)),
            https_resolvers=settings.https_resolver,
            https_ca=settings.https_ca,
            search_domains=settings.search_domain,
            ipv4=not settings.no_ipv4,
        )
        return config if self.tailnet.node is None else with_tailnet(config, self.tailnet.node.proxy)


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def _contact(peer: Peer, now: float) -> bool | None:
    """As `inbound.Contact`."""
    if peer.has_session(now):
        return True
    return None if peer.endpoint is not None else False


def _mtu_of(peer: Any) -> int:
    mtu: int = peer.context.mtu
    return mtu
