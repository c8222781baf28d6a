"""Flows from the tailnet to devices: the peer there is answered only once the device was.

A device without a session gets a few seconds to be woken: WireGuard tries its last endpoint as soon as there is a
packet for it. Who refuses, cannot be woken, or is not exposed, is refused to the peer in time.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.between import CONNECTING, dial_error_of
from lopower.bridge.exposed import Exposed, Target
from lopower.bridge.policy import Via
from lopower.bridge.tailnet_names import DNS_PORT, TailnetNames
from lopower.bridge.tcp import DIAL_COUNTERS, StitchedTcp
from lopower.bridge.udp import OutboundUdp, ReceiveSlots
from lopower.netstack.errors import FlowError, FlowRefused
from lopower.tailnet.driver import DialError, in_tailnet_ranges
from lopower.tailnet.tsnet_inbound import PROXY_NODE
from lopower.wire import socks5

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.flow import FlowTable
    from lopower.devices.exposures import Exposure
    from lopower.netstack.tcp.connection import Connection
    from lopower.netstack.udp import UdpFlow
    from lopower.tailnet.tsnet_inbound import InboundRequest

# Where a device lets its gateway update it, and nobody else (firmware/lopower_device/tunnel.py, `VISIT_PORT`), on TCP;
# and where it tells its gateway, on UDP, what it runs.
DEVICE_PORT: Final = 9909

# Whether a device has a session, or (None) none but an endpoint to try, or (False) neither.
Contact = Callable[[Any, float], bool | None]


class AwaitedDevice:
    """The device's answer, as a dial: the socket watched meanwhile is the peer's stream."""

    __slots__ = ("_connection", "socket")

    def __init__(self, connection: Connection, stream: socket.socket) -> None:
        self._connection = connection
        self.socket = stream

    def advance(self) -> bool:
        """As `TcpDial.advance`."""
        connection = self._connection
        if connection.is_closed:
            raise self.error_of(connection)
        return connection.state not in CONNECTING

    @staticmethod
    def error_of(connection: Connection) -> DialError:
        """Why a connection to a device did not come about."""
        return dial_error_of(connection.error)


class InboundTcp(StitchedTcp):
    """A connection that a node of the tailnet opened to a device."""

    def __init__(
        self,
        table: FlowTable,
        state: DeviceState,
        connection: Connection,
        request: InboundRequest,
        timeout: float,
        tls: bool,
        now: float,
    ) -> None:
        self._request = request
        self._tls = tls
        self._timeout = timeout
        super().__init__(table, state, connection, AwaitedDevice(connection, request.stream), Via.INBOUND, now)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self.started + self._timeout if self._dial is not None else super().deadline

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        if self._dial is not None and self._ending and self._request.peer_gave_up():
            self.table.count(self.state, "inbound_cancelled")
            self.abort(now)
            return False
        return super().serve(now)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {**super().describe(), "from": self._request.name or str(self._request.source)}

    def _has_news(self) -> bool:
        return True

    def _opened(self, now: float) -> None:
        self.table.count(self.state, "inbound_accepted")
        self._request.accept(tls=self._tls)

    def _failed_to_open(self, error: DialError, now: float) -> None:
        self.table.count(self.state, f"inbound_{DIAL_COUNTERS.get(type(error), 'dial_failed')}")
        self._gave_up(now)

    def _gave_up(self, now: float) -> None:
        self._request.refuse()
        if not self.connection.is_closed:
            self.connection.abort(now)

    def _device_ended(self) -> None:
        if self._dial is not None:
            self._failed_to_open(dial_error_of(self.connection.error), self.started)
        super()._device_ended()


class InboundUdp(OutboundUdp):
    """Datagrams between a node of the tailnet and a device, begun by the node."""

    def __init__(
        self,
        table: FlowTable,
        state: DeviceState,
        flow: UdpFlow,
        request: InboundRequest,
        slots: ReceiveSlots,
        now: float,
    ) -> None:
        self._request = request
        self._datagrams = request.datagrams()
        super().__init__(table, state, flow, self._datagrams, Via.INBOUND, slots, now)

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        if self.flow.error is FlowRefused:
            self.table.count(self.state, "inbound_udp_refused")
            self._datagrams.send_notice(socks5.CONNECTION_REFUSED)
            self.flow.error = None
        return super().serve(now)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {**super().describe(), "from": self._request.name or str(self._request.source)}


class Inbound:
    """Takes flows from the tailnet.

    Args:
        table: where flows are entered.
        slots: for datagrams, shared.
        gateway: the gateway's addresses, packed, by IP version.
        contact: whether a device can be talked to.
        exposed: which device is meant.
        names: answers questions about names at port 53 of the proxy's node.
    """

    def __init__(
        self,
        *,
        table: FlowTable,
        slots: ReceiveSlots,
        gateway: dict[int, bytes],
        contact: Contact,
        exposed: Exposed,
        names: TailnetNames,
    ) -> None:
        self._table = table
        self._slots = slots
        self._gateway = gateway
        self._contact = contact
        self._exposed = exposed
        self._names = names

    def set_exposures(self, exposures: Iterable[Exposure], now: float) -> None:
        """The exposures are these from now on; flows that they do not permit any more end."""
        self._exposed.set(exposures)
        for flow in self._table:
            if isinstance(flow, InboundTcp | InboundUdp):
                target = self._find(flow._request)
                if not isinstance(target, Target) or target.state is not flow.state or target.port != _port_of(flow):
                    self._table.count(flow.state, "policy_changed")
                    flow.abort(now)

    def opened(self, request: InboundRequest, now: float, closing: bool = False) -> None:
        """A flow came."""
        table, config = self._table, self._table.config
        if not closing and self._asks_for_names(request) and self._names.opened(request):
            return
        target = self._find(request)
        if not isinstance(target, Target):
            table.counters[target] += 1
            _refuse(request)
            return
        state, peer = target.state, target.state.peer
        reason = None
        contact = self._contact(peer, now)
        count, limit = (
            (state.tcp_flows, config.max_tcp_flows_per_device)
            if request.transport == "tcp"
            else (state.udp_flows, config.max_udp_flows_per_device)
        )
        ends = self._ends(target, request)
        if closing:
            reason = "closing"
        elif len(table) >= config.max_flows or count >= limit or state.dials >= config.max_dials_per_device:
            reason = "flow_limit"
        elif contact is False:
            reason = "inbound_device_off"
        elif target.port == DEVICE_PORT:
            reason = "inbound_device_port"
        elif ends is None:
            reason = "inbound_no_address"
        if reason is not None or ends is None:
            table.count(state, reason or "")
            _refuse(request)
            return
        local, remote = ends
        try:
            if request.transport == "tcp":
                connection = table.stack.tcp.connect(peer, local, remote, now)
                timeout = config.wake_timeout if contact is None else config.inbound_timeout
                InboundTcp(table, state, connection, request, timeout, target.tls, now)
            else:
                flow = table.stack.udp.open(peer, local, remote, now)
                InboundUdp(table, state, flow, request, self._slots, now)
                table.count(state, "inbound_accepted")
                request.accept()
        except FlowError:
            table.count(state, "dial_failed")
            _refuse(request)

    def _asks_for_names(self, request: InboundRequest) -> bool:
        return (
            request.destination_port == DNS_PORT
            and request.node == PROXY_NODE
            and self._exposed.routed(request.destination) is None
        )

    def _find(self, request: InboundRequest) -> Target | str:
        return self._exposed.find(
            node=request.node,
            transport=request.transport,
            destination=request.destination,
            port=request.destination_port,
            source=request.source,
            user=request.user,
            tags=request.tags,
        )

    def _ends(self, target: Target, request: InboundRequest) -> tuple[tuple[bytes, int], tuple[bytes, int]] | None:
        """Our end and the device's. The device sees the peer itself where it can answer to that address."""
        device = target.state.device
        address = target.address
        if address is None:
            wanted, other = (device.ipv4, device.ipv6) if request.source.version == 4 else (device.ipv6, device.ipv4)
            address = wanted or other
        if address is None:
            return None
        remote = (address.packed, target.port)
        if request.source.version == address.version and in_tailnet_ranges(request.source):
            return (request.source.packed, request.source_port), remote
        gateway = self._gateway.get(address.version)
        return None if gateway is None else ((gateway, 0), remote)


def _port_of(flow: InboundTcp | InboundUdp) -> int:
    port: int = (flow.connection if isinstance(flow, InboundTcp) else flow.flow).remote[1]
    return port


def _refuse(request: InboundRequest) -> None:
    request.refuse()
    request.stream.close()
