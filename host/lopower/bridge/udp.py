"""UDP flows to the network: a connected socket for each, so that only what was asked can answer.

The kernel keeps the order, checks the source, and passes on ICMP errors as errors of the next call; they become ICMP
errors for the device. A datagram that does not fit a buffer is dropped and counted, as a router would.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from lopower.bridge.flow import Flow, FlowTable
from lopower.bridge.poller import READ, WRITE
from lopower.tailnet.tsnet_streams import FramedUdp
from lopower.wire import buffers
from lopower.wire.icmp import UnreachableKind

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.policy import Protocol, Via
    from lopower.netstack.udp import UdpFlow
    from lopower.tailnet.driver import UdpSocket

# Datagrams read per flow and round: a loud sender must not keep the others waiting.
MAX_DATAGRAMS: Final = 32
_SLOT: Final = 65_536
_DNS_PORT: Final = 53

# What the kernel says of an ICMP error (Linux: icmp_err_convert), and what the device is told in turn.
ICMP_ERRORS: Final[dict[int, UnreachableKind]] = {
    errno.ECONNREFUSED: "port",
    errno.EHOSTUNREACH: "host",
    errno.EHOSTDOWN: "host",
    errno.ENETUNREACH: "no-route",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
}


class ReceiveSlots:
    """Where upstream's datagrams are read to; shared by all flows, since each hands them on before the next reads."""

    __slots__ = ("slots",)

    def __init__(self) -> None:
        view = memoryview(buffers.zeroed(MAX_DATAGRAMS * _SLOT))
        self.slots = [view[start : start + _SLOT] for start in range(0, len(view), _SLOT)]


class OutboundUdp(Flow):
    """The datagrams of one device's address and port to one destination, and back.

    Attributes:
        flow: the device's side.
    """

    kind: Protocol = "udp"

    def __init__(
        self,
        table: FlowTable,
        state: DeviceState,
        flow: UdpFlow,
        upstream: UdpSocket,
        via: Via,
        slots: ReceiveSlots,
        now: float,
    ) -> None:
        super().__init__(table, state, now)
        self.flow = flow
        self.via = via
        self.packets_up = 0
        self.packets_down = 0
        self._upstream = upstream
        self._framed = upstream if isinstance(upstream, FramedUdp) else None
        self._fd = upstream.fileno()
        self._slots = slots.slots
        self._latest = now
        self._readable = False
        self._writable = True
        self._ended = False
        config = table.config
        self._timeout = config.dns_timeout if flow.local[1] == _DNS_PORT else config.udp_timeout
        flow.owner = self
        state.udp_flows += 1
        table.add(self)
        table.poller.add(self._fd, self._upstream_ready)

    @property
    def deadline(self) -> float:
        """As `Flow.deadline`."""
        return self._latest + self._timeout

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """As `Flow.destination`."""
        return self.flow.local

    def serve(self, now: float) -> bool:
        """As `Flow.serve`."""
        flow = self.flow
        if flow.is_closed:
            self.expired(now)
            return False
        payloads = flow.received
        if payloads:
            self._latest = now
            for payload in payloads:
                self._send(payload, now)
            payloads.clear()
        more = self._readable and not self._ended and self._receive(now)
        if self._ended:
            self.table.count(self.state, "udp_upstream_ended")
            self.abort(now)
            return False
        return more

    def expired(self, now: float) -> None:
        """As `Flow.expired`."""
        self.table.count(self.state, "udp_idle")
        self.abort(now)

    def abort(self, now: float) -> None:
        """As `Flow.abort`."""
        self.table.poller.remove(self._fd)
        self._upstream.close()
        self.flow.owner = None
        self.flow.close()
        self.state.udp_flows -= 1
        self.table.discard(self)

    def describe(self) -> dict[str, Any]:
        """As `Flow.describe`."""
        return {
            "protocol": "udp",
            "remote": self.flow.remote,
            "local": self.flow.local,
            "via": self.via.value,
            "packets_up": self.packets_up,
            "packets_down": self.packets_down,
        }

    def _upstream_ready(self, mask: int) -> None:
        if mask & WRITE:
            self._writable = True
            if self._framed is not None:
                try:
                    self._framed.flush()
                except EOFError:
                    self._ended = True
                    self.table.ready[self] = None
        if mask & READ:
            self._readable = True
            self.table.ready[self] = None

    def _send(self, payload: Any, now: float) -> None:
        if self._ended:
            return
        if not self._writable:
            self.table.count(self.state, "udp_upstream_full")
            return
        # The first failure may be an ICMP error that answers an earlier datagram; this one did not leave, and may yet.
        for _ in range(2):
            try:
                self._upstream.send(payload)
            except BlockingIOError:
                self._writable = False
                self.table.poller.rearm(self._fd, WRITE)
                self.table.count(self.state, "udp_upstream_full")
                return
            except EOFError:
                self._ended = True
                return
            except OSError as exc:
                if not self._failed(exc, now):
                    return
            else:
                self.packets_up += 1
                return

    def _receive(self, now: float) -> bool:
        payloads: list[memoryview[int]] = []
        receive = self._upstream.recv_into
        for slot in self._slots:
            try:
                payloads.append(slot[: receive(slot)])
            except BlockingIOError:
                self._readable = False
                self.table.poller.rearm(self._fd, READ)
                break
            except EOFError:
                self._ended = True
                break
            except OSError as exc:
                self._failed(exc, now)
        if payloads:
            self._latest = now
            self.packets_down += len(payloads)
            self.flow.send(payloads, now)
        return self._readable

    def _failed(self, error: OSError, now: float) -> bool:
        """Pass an error on to the device; True if trying again makes sense."""
        kind = ICMP_ERRORS.get(error.errno or 0)
        if kind is None:
            self.table.count(self.state, "udp_too_long" if error.errno == errno.EMSGSIZE else "udp_failed")
            return False
        self.table.count(self.state, "udp_unreachable")
        self.flow.unreachable(kind, now)
        return True
