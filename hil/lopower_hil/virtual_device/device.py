"""The virtual device: a WireGuard interface and a netstack of its own, driven by asyncio."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lopower.daemon.datapath import DataPath
from lopower.daemon.tai64n import to_tai64n
from lopower.daemon.udp_socket import SocketFeatures
from lopower.netstack.config import StackConfig
from lopower.netstack.events import EchoReplyReceived, TcpSynReceived, UdpFlowOpened
from lopower.netstack.stack import Stack
from lopower.wire.datagrams import Endpoint
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.events import Event
from lopower.wireguard.interface import Interface
from lopower_hil.virtual_device.configuration import DeviceConfiguration
from lopower_hil.virtual_device.flows import VirtualDatagrams, VirtualStream

Address = IPv4Address | IPv6Address


class VirtualDevice:
    """A WireGuard device in user space.

    Use as `async with VirtualDevice(configuration) as device`. Addresses are taken as text or as ipaddress objects.

    Attributes:
        configuration: what it was made from.
        handshake_seconds: how long the last awaited handshake took.
    """

    def __init__(
        self,
        configuration: DeviceConfiguration,
        *,
        features: SocketFeatures | None = None,
        clock: Callable[[], float] = time.monotonic,
        timestamp: Callable[[], bytes] | None = None,
    ) -> None:
        self.configuration = configuration
        self.handshake_seconds = 0.0
        self._features = features or SocketFeatures()
        self._clock = clock
        self._timestamp = timestamp or (lambda: to_tai64n(time.time_ns()))
        self._listeners: dict[int, Callable[[VirtualStream], None]] = {}
        self._datagram_listeners: dict[int, Callable[[VirtualDatagrams], None]] = {}
        self._echoes: dict[tuple[int, int], asyncio.Future[float]] = {}
        self._echo_sequence = 0
        self._echo_identifier = random.randrange(1 << 16)
        self._session = asyncio.Event()

    async def __aenter__(self) -> VirtualDevice:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Open the socket and begin; no packet leaves yet unless the configuration has a persistent keepalive.

        Raises:
            OSError: the endpoint's name cannot be resolved, or no socket can be had.
        """
        loop = asyncio.get_running_loop()
        configuration = self.configuration
        host, port = configuration.endpoint
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        address = found[0][4]
        self._path = DataPath(loop, self._clock)
        udp = self._path.open_socket("" if found[0][0] == socket.AF_INET6 else "0.0.0.0", 0, self._features)
        uniform = random.SystemRandom().uniform
        self._interface = Interface(
            private_key=configuration.private_key,
            config=InterfaceConfig(),
            entropy=os.urandom,
            uniform=uniform,
            timestamp=self._timestamp,
            transmit=udp.transmit,
        )
        self._peer = self._interface.add_peer(
            configuration.server_public_key,
            preshared_key=configuration.preshared_key,
            allowed_ips=configuration.allowed_ips,
            endpoint=Endpoint(str(address[0]), int(address[1]), int(address[3]) if len(address) == 4 else 0),
            persistent_keepalive=configuration.persistent_keepalive,
        )
        self._stack = Stack(
            config=StackConfig(
                local_addresses=frozenset(interface.ip.packed for interface in configuration.addresses),
                mtu=configuration.mtu,
            ),
            entropy=os.urandom,
            uniform=uniform,
            output=self._interface,
        )
        self._path.start(self._interface, self._stack, self)

    async def stop(self) -> None:
        """End all flows and close the socket."""
        self._stack.forget_peer(self._peer, self._clock())
        self._stack.flush(self._clock())
        self._path.stop()

    async def handshake(self, timeout: float = 10.0) -> float:
        """Make sure of a session; the seconds it took.

        Raises:
            TimeoutError: the server did not answer.
        """
        began = self._clock()
        self._session.clear()
        if not self._peer.has_session(began):
            self._interface.connect(self._peer, began)
            self._path.wake()
            async with asyncio.timeout(timeout):
                await self._session.wait()
        self.handshake_seconds = self._clock() - began
        return self.handshake_seconds

    async def ping(self, destination: str | Address, timeout: float = 5.0, payload: bytes = bytes(56)) -> float:
        """One echo request; the round trip in seconds.

        Raises:
            TimeoutError: no answer.
        """
        packed = ip_address(destination).packed
        self._echo_sequence = (self._echo_sequence + 1) & 0xFFFF
        key = (self._echo_identifier, self._echo_sequence)
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._echoes[key] = future
        began = self._clock()
        try:
            self._stack.send_echo_request(self._peer, self._source(packed), packed, *key, payload, began)
            self._path.wake()
            async with asyncio.timeout(timeout):
                return await future - began
        finally:
            del self._echoes[key]

    async def open_connection(self, host: str | Address, port: int, timeout: float = 10.0) -> VirtualStream:
        """Connect by TCP.

        Raises:
            ConnectionRefusedError: a RST came.
            OSError: unreachable, or prohibited, as ICMP said.
            TimeoutError: nothing came.
        """
        packed = ip_address(host).packed
        connection = self._stack.tcp.connect(self._peer, (self._source(packed), 0), (packed, port), self._clock())
        stream = VirtualStream(connection, self._clock, self._path.wake)
        self._path.wake()
        try:
            async with asyncio.timeout(timeout):
                await stream.connected()
        except BaseException:
            if not connection.is_closed:
                stream.abort()
            raise
        return stream

    def datagrams(self, host: str | Address, port: int) -> VirtualDatagrams:
        """A UDP flow to `host` and `port`, from a port of its own."""
        packed = ip_address(host).packed
        flow = self._stack.udp.open(self._peer, (self._source(packed), 0), (packed, port), self._clock())
        return VirtualDatagrams(flow, self._clock, self._path.wake)

    def listen(self, port: int, accepted: Callable[[VirtualStream], None]) -> None:
        """Accept TCP connections to `port`."""
        self._listeners[port] = accepted

    def listen_datagrams(self, port: int, opened: Callable[[VirtualDatagrams], None]) -> None:
        """Accept UDP flows to `port`."""
        self._datagram_listeners[port] = opened

    def turn(self, now: float) -> bool:
        """The application's part of a turn of the data path."""
        for event in self._stack.take_events():
            if isinstance(event, TcpSynReceived):
                accepted = self._listeners.get(event.connection.local[1])
                if accepted is None:
                    event.connection.reject(now)
                else:
                    event.connection.accept(now)
                    accepted(VirtualStream(event.connection, self._clock, self._path.wake))
            elif isinstance(event, UdpFlowOpened):
                opened = self._datagram_listeners.get(event.flow.local[1])
                if opened is None:
                    event.flow.unreachable("port", now)
                else:
                    opened(VirtualDatagrams(event.flow, self._clock, self._path.wake))
            elif isinstance(event, EchoReplyReceived):
                future = self._echoes.get((event.identifier, event.sequence))
                if future is not None and not future.done():
                    future.set_result(now)
        for flow in self._stack.take_dirty():
            owner: Any = flow.owner
            if owner is not None:
                owner.advance(now)
        return False

    def interface_events(self, events: list[Event], now: float) -> None:
        """What the interface reports: a device keeps no time stamps of its server, so they count as stored at once."""
        for event in events:
            token = getattr(event, "token", None)
            if token is not None:
                self._interface.timestamps_stored(token, now)
        if self._peer.has_session(now):
            self._session.set()

    def next_timer(self) -> float | None:
        """No timers beside the cores' own."""
        return None

    def handle_timer(self, now: float) -> None:
        """Nothing is ever due."""

    def _source(self, destination: bytes) -> bytes:
        for interface in self.configuration.addresses:
            if len(interface.packed) == len(destination):
                return interface.ip.packed
        raise OSError(f"this device has no address of the version of {ip_address(destination)}")
