"""Echo to the network through the kernel's unprivileged ping sockets: an answer comes only if the destination gave it.

Where `net.ipv4.ping_group_range` does not include the daemon's group there are none; then devices get silence, and
`status` says why. Each device's identifier has a socket of its own, because the kernel puts the socket's number into
the identifier on the way out and back.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.poller import READ
from lopower.bridge.udp import ICMP_ERRORS

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.policy import Protocol, Via
    from lopower.netstack.events import EchoRequested
    from lopower.tailnet.driver import IPAddress

_ECHO: Final = struct.Struct(">BBHHH")  # type, code, checksum (the kernel's), identifier (the kernel's), sequence
_REQUEST: Final = {4: 8, 6: 128}  # RFC 792, RFC 4443
_REPLY: Final = {4: 0, 6: 129}
# Replies per ping and round; more than a device can usefully have in flight.
_MAX_REPLIES: Final = 16
_MAX_PACKET: Final = 65_535
# Requests whose reply may still come, per ping; a device that floods forgets its own oldest.
_MAX_OUTSTANDING: Final = 64

EchoKey = tuple[Any, bytes, bytes, int]


def open_ping_socket(destination: IPAddress) -> socket.socket:
    """A non-blocking ping socket, connected to `destination`.

    Raises:
        OSError: EACCES if the host does not permit them; as connect(2) otherwise.
    """
    if destination.version == 4:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    else:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
    try:
        made.setblocking(False)
        made.connect((str(destination), 0))
    except BaseException:
        made.close()
        raise
    return made


def ping_sockets_permitted() -> bool:
    """Whether this process may open ping sockets."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except OSError:
        return False
    return True


class Ping(Flow):
    """The echo requests of one device with one identifier to one destination."""

    kind: Protocol = "icmp"

    def __init__(
        self, table: FlowTable, state: DeviceState, key: EchoKey, via: Via, pings: dict[EchoKey, Ping], now: float
    ) -> None:
        super().__init__(table, state, now)
        self.via = via
        destination = ip_address(key[2])
        self.key = key
        self._socket = open_ping_socket(destination)
        self._fd = self._socket.fileno()
        self._pings = pings
        self._request_type, self._reply_type = _REQUEST[destination.version], _REPLY[destination.version]
        self._outstanding: dict[int, EchoRequested] = {}
        self._latest = now
        self._readable = False
        state.echoes += 1
        pings[key] = self
        table.add(self)
        table.poller.add(self._fd, self._ready)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self.table.config.echo_timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.key[2], None

    def request(self, event: EchoRequested, now: float) -> None:
        """Send one request on."""
        self._latest = now
        if len(self._outstanding) >= _MAX_OUTSTANDING:
            del self._outstanding[next(iter(self._outstanding))]
        self._outstanding[event.sequence] = event
        header = _ECHO.pack(self._request_type, 0, 0, 0, event.sequence)
        for _ in range(2):  # the first failure may be an ICMP error that answers an earlier request
            try:
                self._socket.sendmsg([header, event.payload])
            except BlockingIOError:
                self.table.count(self.state, "echo_dropped")
                return
            except OSError as exc:
                self._failed(exc, now)
            else:
                return

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        for _ in range(_MAX_REPLIES):
            if not self._readable:
                return False
            try:
                packet = self._socket.recv(_MAX_PACKET)
            except BlockingIOError:
                self._readable = False
                self.table.poller.rearm(self._fd, READ)
                return False
            except OSError as exc:
                self._failed(exc, now)
                continue
            self._reply(packet, now)
        return True

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        if self._outstanding:
            self.table.count(self.state, "echo_unanswered")
        self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        self.table.poller.remove(self._fd)
        self._socket.close()
        self._pings.pop(self.key, None)
        self.state.echoes -= 1
        self.table.discard(self)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {"protocol": "icmp", "remote": (self.key[1], None), "local": (self.key[2], None), "via": self.via.value}

    def _ready(self, mask: int) -> None:
        if mask & READ:
            self._readable = True
            self.table.ready[self] = None

    def _reply(self, packet: bytes, now: float) -> None:
        if len(packet) < _ECHO.size:
            return
        kind, _, _, _, sequence = _ECHO.unpack_from(packet)
        event = self._outstanding.pop(sequence, None)
        if kind != self._reply_type or event is None:
            return
        self._latest = now
        self.table.stack.send_echo_reply(event, packet[_ECHO.size :], now)

    def _failed(self, error: OSError, now: float) -> None:
        kind = ICMP_ERRORS.get(error.errno or 0)
        if kind is None or not self._outstanding:
            self.table.count(self.state, "echo_failed")
            return
        _, event = self._outstanding.popitem()
        self.table.count(self.state, "echo_unreachable")
        self.table.stack.send_unreachable(event.peer, event, kind, now)


class EchoRelay:
    """Echo requests to addresses off the gateway.

    Attributes:
        permitted: whether the host permits ping sockets; looked at again when one was refused or made.
    """

    def __init__(self, table: FlowTable) -> None:
        self._table = table
        self._pings: dict[EchoKey, Ping] = {}
        self.permitted = ping_sockets_permitted()

    def request(self, state: DeviceState, event: EchoRequested, via: Via, now: float) -> None:
        """Send one request on, if that is possible; else there is silence, and it is counted."""
        table = self._table
        key = (event.peer, event.source, event.destination, event.identifier)
        ping = self._pings.get(key)
        if ping is None:
            if state.echoes >= table.config.max_echoes_per_device or len(table) >= table.config.max_flows:
                table.count(state, "echo_limit")
                return
            try:
                ping = Ping(table, state, key, via, self._pings, now)
            except PermissionError:
                self.permitted = False
                table.count(state, "echo_not_permitted")
                return
            except OSError as exc:
                table.count(state, "echo_unreachable")
                kind = ICMP_ERRORS.get(exc.errno or 0, "host")
                table.stack.send_unreachable(event.peer, event, kind, now)
                return
            self.permitted = True
        ping.request(event, now)
