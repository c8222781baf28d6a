"""Connections that the gateway itself opens to a device, for whoever administers the proxy: updates, logs, a console.

Devices let nobody else in at `DEVICE_PORT`. So whoever comes in from the tailnet and is shown to a device with the
gateway's address is kept from that port here (`inbound`).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.inbound import AwaitedDevice, Contact
from lopower.bridge.policy import Via
from lopower.bridge.tcp import StitchedTcp
from lopower.netstack.errors import FlowError
from lopower.tailnet.driver import DialError, DialTimedOut, DialUnreachable

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.flow import FlowTable
    from lopower.netstack.tcp.connection import Connection

# Whoever may open these may do anything here: this is against a script that leaves them open.
MAX_CALLS: Final = 256


class GatewayCall(StitchedTcp):
    """One connection; `answered` is done once the device has accepted it, or with a DialError."""

    def __init__(
        self,
        table: FlowTable,
        state: DeviceState,
        connection: Connection,
        near: socket.socket,
        timeout: float,
        now: float,
    ) -> None:
        self._timeout = timeout
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        super().__init__(table, state, connection, AwaitedDevice(connection, near), Via.INBOUND, now)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self.started + self._timeout if self._dial is not None else super().deadline

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {**super().describe(), "from": "gateway"}

    def _has_news(self) -> bool:
        return True

    def _opened(self, now: float) -> None:
        self.table.count(self.state, "gateway_calls")
        if not self.answered.done():
            self.answered.set_result(None)

    def _failed_to_open(self, error: DialError, now: float) -> None:
        self._end_call(error)
        if not self.connection.is_closed:
            self.connection.abort(now)

    def _gave_up(self, now: float) -> None:
        self._failed_to_open(DialUnreachable("the device was removed or disabled, or the daemon ends"), now)

    def _device_ended(self) -> None:
        if self._dial is not None:
            self._end_call(AwaitedDevice.error_of(self.connection))
        super()._device_ended()

    def _end_call(self, error: DialError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)


class GatewayCalls:
    """Opens them. `gateway`: the gateway's addresses, packed, by IP version."""

    def __init__(self, table: FlowTable, gateway: dict[int, bytes], contact: Contact) -> None:
        self._table = table
        self._gateway = gateway
        self._contact = contact

    async def open(self, peer: Any, port: int, now: float) -> socket.socket:
        """A socket whose other end is the device's port.

        Raises:
            DialError: the device does not accept it, or cannot be reached; the text is for the administrator.
        """
        table, config = self._table, self._table.config
        state: DeviceState = peer.context
        contact = self._contact(peer, now)
        if contact is False:
            raise DialUnreachable(f"{state.device.name} has no session, and it is not known where it is")
        if sum(isinstance(flow, GatewayCall) for flow in table) >= MAX_CALLS:
            raise DialUnreachable(f"{MAX_CALLS} connections to devices are open already")
        if len(table) >= config.max_flows or state.tcp_flows >= config.max_tcp_flows_per_device:
            raise DialUnreachable(f"{state.device.name} has too many connections open")
        address = state.device.ipv4 if state.device.ipv4 is not None and 4 in self._gateway else state.device.ipv6
        if address is None or address.version not in self._gateway:
            raise DialUnreachable(f"{state.device.name} has no address that the gateway can reach")
        ours, near = socket.socketpair()
        near.setblocking(False)
        try:
            local, remote = (self._gateway[address.version], 0), (address.packed, port)
            connection = table.stack.tcp.connect(peer, local, remote, now)
        except FlowError as error:
            ours.close()
            near.close()
            raise DialUnreachable(f"no connection to {state.device.name} can be opened: {error}") from None
        timeout = config.wake_timeout if contact is None else config.inbound_timeout
        call = GatewayCall(table, state, connection, near, timeout, now)
        table.poller.wake()
        try:
            await call.answered
        except DialTimedOut:
            ours.close()
            raise DialTimedOut(f"{state.device.name} did not answer within {timeout:g} s") from None
        except BaseException:
            ours.close()  # the flow sees its end
            raise
        return ours
