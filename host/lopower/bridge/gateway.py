"""The gateway's own services, by protocol and port: DNS, time, the page, and what the host offers through it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Protocol

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.policy import Protocol as TransportProtocol
from lopower.bridge.policy import Via

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.devices.device import ServedPort
    from lopower.netstack.tcp.connection import Connection
    from lopower.netstack.udp import UdpFlow

# Ports that `serve` cannot take: devices rely on what the gateway has there.
RESERVED_PORTS: Final = frozenset({("tcp", 53), ("udp", 53), ("udp", 123), ("tcp", 80), ("udp", 9909)})


class TcpService(Protocol):
    """A service of the gateway on TCP."""

    def accept(self, state: DeviceState, connection: Connection, now: float) -> None:
        """Serve a connection; it waits for `accept` or `reject`."""


class UdpService(Protocol):
    """A service of the gateway on UDP."""

    def receive(self, flow: GatewayUdp, payloads: list[Any], now: float) -> None:
        """Answer datagrams through `flow.send`, now or later; the payloads are valid during this call."""


class GatewayUdp(Flow):
    """One device's address and port talking to a service of the gateway.

    Attributes:
        flow: the device's side; None once it is closed.
    """

    kind: TransportProtocol = "udp"
    via: Via = Via.GATEWAY

    def __init__(self, table: FlowTable, state: DeviceState, flow: UdpFlow, service: UdpService, now: float) -> None:
        super().__init__(table, state, now)
        self.flow: UdpFlow | None = flow
        self._service = service
        self._latest = now
        flow.owner = self
        state.udp_flows += 1
        table.add(self)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self.table.config.dns_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self._open().local

    def send(self, payloads: list[bytes], now: float) -> None:
        """Answer the device; dropped if the flow has ended meanwhile."""
        if self.flow is not None:
            self._latest = now
            self.flow.send(payloads, now)

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        flow = self._open()
        if flow.is_closed:
            self.abort(now)
            return False
        payloads = flow.received
        if payloads:
            self._latest = now
            self._service.receive(self, payloads, now)
            payloads.clear()
        return False

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        flow = self._open()
        self.flow = None
        flow.owner = None
        flow.close()
        self.state.udp_flows -= 1
        self.table.discard(self)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        flow = self._open()
        return {"protocol": "udp", "remote": flow.remote, "local": flow.local, "via": "gateway"}

    def _open(self) -> UdpFlow:
        if self.flow is None:
            raise RuntimeError("the flow was closed")
        return self.flow


class Gateway:
    """The table of services.

    Attributes:
        tcp, udp: the gateway's own, by port.
        served: what `serve` put there, by protocol and port.
    """

    def __init__(self) -> None:
        self.tcp: dict[int, TcpService] = {}
        self.udp: dict[int, UdpService] = {}
        self.served: dict[tuple[str, int], ServedPort] = {}

    def offers(self, protocol: str, port: int) -> bool:
        """Whether there is a service."""
        if (protocol, port) in self.served:
            return True
        return port in (self.tcp if protocol == "tcp" else self.udp)

    def set_served(self, entries: Iterable[ServedPort]) -> None:
        """The served ports are these from now on.

        Raises:
            ValueError: one of them is a port of the gateway's own services.
        """
        served: dict[tuple[str, int], ServedPort] = {(entry.protocol, entry.port): entry for entry in entries}
        for protocol, port in served:
            if (protocol, port) in RESERVED_PORTS:
                raise ValueError(f"the gateway needs {protocol} port {port} for itself; choose another one")
        self.served = served
