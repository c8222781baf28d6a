"""Flows between devices: two halves in the same stack, each device seeing the other's real address.

The first device is answered only once the second has: a connection that the other refuses is refused, one that it does
not answer times out. Policy was asked before; what one device may open to another is its own matter, answers follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.policy import Protocol, Via
from lopower.bridge.tcp import reject_dial
from lopower.netstack.errors import FlowError, FlowProhibited, FlowRefused, FlowUnreachable
from lopower.netstack.tcp.states import TcpState
from lopower.tailnet.driver import DialError, DialForbidden, DialRefused, DialTimedOut, DialUnreachable
from lopower.wire.icmp import UnreachableKind

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.netstack.events import EchoReplyReceived, EchoRequested
    from lopower.netstack.tcp.connection import Connection
    from lopower.netstack.udp import UdpFlow

_DNS_PORT: Final = 53
CONNECTING: Final = (TcpState.SYN_SENT, TcpState.SYN_RECEIVED)
_UNREACHABLE_KINDS: Final[dict[type[FlowError], UnreachableKind]] = {
    FlowRefused: "port",
    FlowProhibited: "prohibited",
}
# Echo requests between devices whose reply may still come: a device that pings one that is off forgets its oldest.
MAX_OUTSTANDING_ECHOES: Final = 1024


class DeviceTcp(Flow):
    """A TCP connection from one device to another.

    Attributes:
        near: the connection of the device that opened it.
        far: the connection to the other.
    """

    kind: Protocol = "tcp"
    via: Via = Via.DEVICE

    def __init__(
        self, table: FlowTable, state: DeviceState, near: Connection, far_state: DeviceState, now: float
    ) -> None:
        super().__init__(table, state, now)
        self.near = near
        self.far_state = far_state
        self.far = table.stack.tcp.connect(far_state.peer, near.remote, near.local, now)
        self._accepted = False
        self._finished = False
        self._shut_near = False
        self._shut_far = False
        self._latest = now
        near.owner = self
        self.far.owner = self
        state.tcp_flows += 1
        state.dials += 1
        table.add(self)
        far_state.flows[self] = None

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        config = self.table.config
        if not self._accepted:
            return self.started + config.dial_timeout
        if self._shut_near and self._shut_far:
            return self._latest + config.tcp_linger_timeout
        if self._shut_near or self._shut_far:
            return self._latest + config.tcp_half_closed_timeout
        return self._latest + config.tcp_idle_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.near.local

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        near, far = self.near, self.far
        if not self._accepted:
            if near.is_closed:
                self.table.count(self.state, "dial_cancelled")
                self._finish(now)
                return False
            if far.is_closed:
                reject_dial(self.table, self.state, near, dial_error_of(far.error), now)
                self._finish(now)
                return False
            if far.state in CONNECTING:
                return False
            self._accepted = True
            self.state.dials -= 1
            self._latest = now
            near.accept(now)
        if (near.is_closed and near.error is not None) or (far.is_closed and far.error is not None):
            self._finish(now)
            return False
        self._shut_far = self._move(near, far, self._shut_far, now)
        self._shut_near = self._move(far, near, self._shut_near, now)
        if near.is_closed and far.is_closed and not near.received and not far.received:
            self._finish(now)
        return False

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        if not self._accepted:
            reject_dial(self.table, self.state, self.near, DialTimedOut(), now)
        else:
            self.table.count(self.state, "tcp_idle")
        self._finish(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        if not self._accepted:
            self.near.reject(now)
        self._finish(now)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {
            "protocol": "tcp",
            "remote": self.near.remote,
            "local": self.near.local,
            "via": f"device:{self.far_state.device.name}",
            "state": self.near.state.name.lower() if self._accepted else "dialling",
        }

    def _move(self, source: Connection, sink: Connection, shut: bool, now: float) -> bool:
        """Move what the sink takes; True once the source's end was passed on."""
        taken = 0
        if not sink.is_closed and not shut:
            for data in source.received:
                sent = sink.send(data, now)
                taken += sent
                if sent < len(data):
                    break
        if taken:
            source.consume(taken, now)
            self._latest = now
        if source.peer_closed and not source.received and not shut:
            self._latest = now
            sink.shutdown(now)
            return True
        return shut

    def _finish(self, now: float) -> None:
        if self._finished:
            return
        self._finished = True
        if not self._accepted:
            self.state.dials -= 1
        self.state.tcp_flows -= 1
        for connection in (self.near, self.far) if self._accepted else (self.far,):
            connection.owner = None
            if not connection.is_closed:
                connection.abort(now)
        self.near.owner = None
        self.far_state.flows.pop(self, None)
        self.table.discard(self)


def dial_error_of(error: type[FlowError] | None) -> DialError:
    """What a connection to a device that did not come about ended with, as a dial's error."""
    if error is FlowRefused:
        return DialRefused("the device refused the connection")
    if error is FlowProhibited:
        return DialForbidden("the device says it will not have it")
    if error is FlowUnreachable:
        return DialUnreachable("the device says it cannot be reached there")
    return DialTimedOut("the device did not answer")


class DeviceUdp(Flow):
    """Datagrams between an address and port of one device and one of another."""

    kind: Protocol = "udp"
    via: Via = Via.DEVICE

    def __init__(self, table: FlowTable, state: DeviceState, near: UdpFlow, far_state: DeviceState, now: float) -> None:
        super().__init__(table, state, now)
        self.near = near
        self.far_state = far_state
        self.far = table.stack.udp.open(far_state.peer, near.remote, near.local, now)
        self._latest = now
        config = table.config
        self._timeout = config.dns_timeout if near.local[1] == _DNS_PORT else config.udp_timeout
        near.owner = self
        self.far.owner = self
        state.udp_flows += 1
        table.add(self)
        far_state.flows[self] = None

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self._timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.near.local

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        for source, sink in ((self.near, self.far), (self.far, self.near)):
            if source.is_closed:
                self.expired(now)
                return False
            if source.received:
                self._latest = now
                sink.send(source.received, now)
                source.received.clear()
            if source.error is not None:
                sink.unreachable(_UNREACHABLE_KINDS.get(source.error, "host"), now)
        return False

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        self.table.count(self.state, "udp_idle")
        self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        for flow in (self.near, self.far):
            flow.owner = None
            flow.close()
        self.state.udp_flows -= 1
        self.far_state.flows.pop(self, None)
        self.table.discard(self)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {
            "protocol": "udp",
            "remote": self.near.remote,
            "local": self.near.local,
            "via": f"device:{self.far_state.device.name}",
        }


class DeviceEcho:
    """Echo requests from one device to another, and the replies to them alone."""

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._outstanding: dict[tuple[Any, bytes, bytes, int, int], EchoRequested] = {}

    def request(self, event: EchoRequested, far_state: DeviceState, now: float) -> None:
        """Send one request on to the other device."""
        key = (far_state.peer, event.destination, event.source, event.identifier, event.sequence)
        self._outstanding.pop(key, None)
        if len(self._outstanding) >= MAX_OUTSTANDING_ECHOES:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[key] = event
        self._table.stack.send_echo_request(
            far_state.peer, event.source, event.destination, event.identifier, event.sequence, event.payload, now
        )

    def reply(self, event: EchoReplyReceived, now: float) -> None:
        """Send one reply on to the device that asked, if one did."""
        key = (event.peer, event.source, event.destination, event.identifier, event.sequence)
        request = self._outstanding.pop(key, None)
        if request is not None:
            self._table.stack.send_echo_reply(request, event.payload, now)

    def forget(self, peer: Any) -> None:
        """Forget what a peer asked or was asked."""
        self._outstanding = {key: event for key, event in self._outstanding.items() if peer not in (key[0], event.peer)}
