"""UDP flows: what one address and port of a device exchanges with another, until it has been idle for long.

A flow begins with its first datagram, or with `open`. The owner of the events decides what becomes of it; nobody else's
datagrams reach the device through it.
"""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lopower.netstack.config import UdpConfig
from lopower.netstack.errors import FlowError, FlowProhibited, FlowRefused, FlowUnreachable, LimitReached
from lopower.netstack.events import StackEvent, UdpFlowOpened
from lopower.netstack.output import IpOutput
from lopower.netstack.rows import DatagramRun
from lopower.netstack.tcp.isn import InitialSequenceNumbers
from lopower.wire.checksum import pseudo_header_sum, swapped
from lopower.wire.icmp import Quotation, UnreachableKind
from lopower.wire.ip import IPV4_HEADER, IPV6_HEADER, PROTOCOL_UDP, IpHeader, ip_header
from lopower.wire.udp import (
    HEADER,
    MAX_IPV4_PAYLOAD,
    MAX_IPV6_PAYLOAD,
    UDP_HEADER,
    DatagramError,
    checksum_field,
    parse_header,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    Packet = bytes | memoryview[int]

_DNS_PORT: Final = 53
# What a flow keeps of its last datagram, so that an ICMP error can quote it turns later. RFC 1812 section 4.3.2.3 and
# RFC 4443 want more where there is more; receivers look at the ports, and this is held for every flow.
_KEPT_QUOTATION: Final = 256
# From so many bytes on numpy sums faster than one big integer does; and several payloads of one size together, from so
# many payloads on.
_LARGE: Final = 1024
_COLUMNS_FROM: Final = 4
_MODULUS: Final = np.uint64(0xFFFF)
_LOW: Final = np.uint64(0xFF)
_BYTE: Final = np.uint64(8)

_PORTS = struct.Struct("!HH")


_ERRORS: Final[dict[UnreachableKind, type[FlowError]]] = {"port": FlowRefused, "prohibited": FlowProhibited}


class UdpFlow:
    """Datagrams between `remote` (the device) and `local` (what it sent to, or what we send from).

    Attributes:
        peer: whose tunnel it runs through; opaque.
        local, remote: (packed address, port).
        owner: whoever carries the flow on; never looked into.
        received: payloads of the turn, in order; views that `flush` takes back.
        last_activity: monotonic seconds of the latest datagram in either direction.
        error: None, or the `FlowError` of an ICMP error that came in answer, until the device sends again.
        is_closed: the stack has forgotten it, by `close`, idleness or the end of its peer.
    """

    __slots__ = (
        "__weakref__",
        "_header_length",
        "_idle",
        "_ip_header",
        "_ip_header_for",
        "_layer",
        "_path_mtu",
        "_path_mtu_until",
        "_quotation",
        "_sum",
        "error",
        "is_closed",
        "is_dirty",
        "key",
        "last_activity",
        "local",
        "owner",
        "peer",
        "received",
        "remote",
    )

    def __init__(
        self,
        layer: UdpLayer,
        idle: OrderedDict[UdpFlow, None],
        peer: Any,
        key: bytes,
        local: tuple[bytes, int],
        remote: tuple[bytes, int],
        now: float,
    ) -> None:
        self._layer = layer
        self._idle = idle
        self.peer = peer
        self.key = key
        self.local = local
        self.remote = remote
        self.owner: Any = None
        self.received: list[Buffer] = []
        self.last_activity = now
        self.error: type[FlowError] | None = None
        self.is_closed = False
        self.is_dirty = False
        self._header_length = IPV4_HEADER if len(local[0]) == 4 else IPV6_HEADER
        self._sum = pseudo_header_sum(local[0], remote[0], PROTOCOL_UDP) + local[1] + remote[1]
        # The IP header in front of so many bytes: datagrams of one size tend to follow each other.
        self._ip_header = b""
        self._ip_header_for = 0
        self._path_mtu = 0
        self._path_mtu_until = 0.0
        self._quotation = b""

    def __repr__(self) -> str:
        return f"<UdpFlow port {self.remote[1]} to port {self.local[1]}>"

    def send(self, payloads: Sequence[Buffer], now: float) -> None:
        """Send datagrams to the device; they leave with the turn's `flush`. The payloads are copied.

        Beyond the path's MTU they leave in fragments. What exceeds 65,507 bytes (IPv4) or 65,527 (IPv6), or comes after
        the flow's end, is dropped and counted.
        """
        layer = self._layer
        if self.is_closed:
            layer.counters["udp_sent_after_end"] += len(payloads)
            return
        self.last_activity = now
        self._idle.move_to_end(self)
        (source, source_port), (destination, destination_port) = self.local, self.remote
        mtu = layer.output.mtu_for(self.peer)
        if self._path_mtu:
            if now < self._path_mtu_until:
                mtu = min(mtu, self._path_mtu)
            else:
                self._path_mtu = 0
        room = mtu - self._header_length
        largest = MAX_IPV4_PAYLOAD if len(source) == 4 else MAX_IPV6_PAYLOAD
        queue = layer.output.queue(self.peer)
        sizes = [memoryview(payload).nbytes for payload in payloads]
        for payload, size, total in zip(payloads, sizes, _sums(payloads, sizes), strict=True):
            if size > largest:
                layer.counters["udp_too_long"] += 1
                continue
            length = UDP_HEADER + size
            checksum = checksum_field(total + self._sum + 2 * length)
            header = HEADER.pack(source_port, destination_port, length, checksum)
            if length <= room:
                if length != self._ip_header_for:
                    self._ip_header = ip_header(source, destination, PROTOCOL_UDP, length)
                    self._ip_header_for = length
                queue.append(b"".join((self._ip_header, header, payload)))
            else:
                layer.output.send(self.peer, source, destination, PROTOCOL_UDP, b"".join((header, payload)), mtu)

    def unreachable(self, kind: UnreachableKind, now: float) -> None:
        """Answer the device's latest datagram with an ICMP error, rate limits permitting; the flow stays."""
        if self._quotation:
            self._layer.send_unreachable(self.peer, self._quotation, kind, now)

    def close(self) -> None:
        """Forget the flow; the device's next datagram begins another one. Harmless when it is closed already."""
        if not self.is_closed:
            self.is_closed = True
            del self._idle[self]
            self._layer.forget(self)

    def accept(self, payloads: Sequence[Buffer], packet: Packet, now: float) -> None:
        """Datagrams came, the last one in `packet`. For the layer's use."""
        self.received.extend(payloads)
        self.error = None
        self.last_activity = now
        self._idle.move_to_end(self)
        self._quotation = bytes(packet[:_KEPT_QUOTATION])

    def packet_too_big(self, mtu: int, until: float) -> None:
        """The device says that a datagram of ours does not fit its way. For the layer's use."""
        self._path_mtu = min(mtu, self._path_mtu or mtu)
        self._path_mtu_until = until


class UdpLayer:
    """All UDP flows of all peers.

    Attributes:
        output: where datagrams go.
        counters: the stack's.
        send_unreachable: `(peer, packet, kind, now)`.
    """

    def __init__(
        self,
        *,
        config: UdpConfig,
        entropy: Callable[[int], bytes],
        output: IpOutput,
        counters: Counter[str],
        events: list[StackEvent],
        send_unreachable: Callable[[Any, Packet, UnreachableKind, float], None],
    ) -> None:
        self.output = output
        self.counters = counters
        self.send_unreachable = send_unreachable
        self._config = config
        self._events = events
        self._ports = InitialSequenceNumbers(entropy)
        self._flows: dict[Any, dict[bytes, UdpFlow]] = {}
        # Flows by how long they may be idle, longest idle first: one look tells the next deadline.
        self._idle: dict[float, OrderedDict[UdpFlow, None]] = {
            config.idle_timeout: OrderedDict(),
            config.dns_timeout: OrderedDict(),
        }
        self._count = 0
        self._dirty: list[UdpFlow] = []
        self._holding: list[UdpFlow] = []

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[UdpFlow]:
        for flows in list(self._flows.values()):
            yield from list(flows.values())

    def open(self, peer: Any, local: tuple[bytes, int], remote: tuple[bytes, int], now: float) -> UdpFlow:
        """A flow towards a device. Port 0 of `local` means any free one.

        Raises:
            LimitReached: too many flows, this one exists already, or no port is free.
        """
        flows = self._flows.get(peer, {})
        source, port = local
        if not port:
            found = self._ports.ephemeral_port(lambda free: _key(remote, (source, free)) not in flows)
            if found is None:
                raise LimitReached("no port is free for another UDP flow")
            port = found
        key = _key(remote, (source, port))
        if key in flows:
            raise LimitReached("this UDP flow exists already")
        flow = self._begin(peer, key, (source, port), remote, now)
        if flow is None:
            raise LimitReached("too many UDP flows")
        return flow

    def receive_packet(self, peer: Any, packet: Packet, ip: IpHeader, now: float) -> None:
        """One whole datagram: the general path."""
        start = ip.header_length
        try:
            header = parse_header(packet, start, ip.total_length, ip.version)
        except DatagramError as exc:
            self.counters[str(exc)] += 1
            return
        key = ip.source + ip.destination + bytes(packet[start : start + 4])
        flows = self._flows.get(peer)
        flow = flows.get(key) if flows is not None else None
        if flow is None:
            if not header.source_port or not header.destination_port:
                self.counters["udp_port_zero"] += 1
                return
            local, remote = (ip.destination, header.destination_port), (ip.source, header.source_port)
            flow = self._begin(peer, key, local, remote, now)
            if flow is None:
                return
            self._events.append(UdpFlowOpened(flow))
        payload = memoryview(packet)[start + UDP_HEADER : start + header.length]
        self._accept(flow, (payload,), packet, now)

    def receive_run(self, run: DatagramRun, now: float) -> bool:
        """Datagrams of one flow at once; False, and nothing done, if there is no such flow yet."""
        flows = self._flows.get(run.peer)
        flow = flows.get(run.key) if flows is not None else None
        if flow is None:
            return False
        rows, lengths = run.rows, run.packet_lengths
        start = run.ip_header_length + UDP_HEADER
        view, stride = rows.view, rows.stride
        position = run.first * stride
        payloads = []
        for length in lengths:
            payloads.append(view[position + start : position + length])
            position += stride
        self._accept(flow, payloads, rows.packet(run.last - 1, lengths[-1]), now)
        return True

    def unreachable(self, peer: Any, quotation: Quotation, kind: UnreachableKind, now: float) -> None:
        """A device answered a datagram of ours with an ICMP error."""
        flow = self._quoted(peer, quotation)
        if flow is not None:
            flow.error = _ERRORS.get(kind, FlowUnreachable)
            self._mark(flow)

    def too_big(self, peer: Any, quotation: Quotation, mtu: int, now: float) -> None:
        """A datagram of ours did not fit; `mtu` is at least the smallest of its IP version."""
        flow = self._quoted(peer, quotation)
        if flow is not None and mtu < self.output.mtu_for(peer):
            flow.packet_too_big(mtu, now + self._config.path_mtu_lifetime)

    def take_dirty(self) -> list[UdpFlow]:
        """Flows with datagrams, an error or an end that their owner does not know of."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for flow in dirty:
                flow.is_dirty = False
        return dirty

    def flush(self) -> None:
        """The turn ends: what was received is nobody's any more."""
        holding = self._holding
        if holding:
            for flow in holding:
                flow.received.clear()
            holding.clear()

    def next_timer(self) -> float | None:
        """When the flow that has been idle longest ends."""
        deadlines = [next(iter(flows)).last_activity + timeout for timeout, flows in self._idle.items() if flows]
        return min(deadlines, default=None)

    def handle_timer(self, now: float) -> None:
        """End flows that have been idle for too long."""
        for timeout, flows in self._idle.items():
            while flows:
                flow = next(iter(flows))
                if flow.last_activity + timeout > now:
                    break
                self.counters["udp_idle"] += 1
                flow.close()
                self._mark(flow)

    def forget_peer(self, peer: Any) -> None:
        """End all flows of a peer."""
        for flow in list(self._flows.get(peer, {}).values()):
            flow.close()
            self._mark(flow)

    def forget(self, flow: UdpFlow) -> None:
        """Take a flow that is closed out of the table."""
        flows = self._flows[flow.peer]
        del flows[flow.key]
        if not flows:
            del self._flows[flow.peer]
        self._count -= 1

    def _begin(
        self, peer: Any, key: bytes, local: tuple[bytes, int], remote: tuple[bytes, int], now: float
    ) -> UdpFlow | None:
        config = self._config
        flows = self._flows.get(peer)
        if self._count >= config.max_flows or (flows is not None and len(flows) >= config.max_flows_per_peer):
            self.counters["udp_flow_limit"] += 1
            return None
        if flows is None:
            flows = self._flows[peer] = {}
        timeout = config.dns_timeout if _DNS_PORT in (local[1], remote[1]) else config.idle_timeout
        idle = self._idle[timeout]
        flow = flows[key] = UdpFlow(self, idle, peer, key, local, remote, now)
        idle[flow] = None
        self._count += 1
        return flow

    def _accept(self, flow: UdpFlow, payloads: Sequence[Buffer], packet: Packet, now: float) -> None:
        if not flow.received:
            self._holding.append(flow)
        flow.accept(payloads, packet, now)
        self._mark(flow)

    def _mark(self, flow: UdpFlow) -> None:
        if not flow.is_dirty:
            flow.is_dirty = True
            self._dirty.append(flow)

    def _quoted(self, peer: Any, quotation: Quotation) -> UdpFlow | None:
        """The flow that sent what is quoted; its key has the device's side first."""
        ports = quotation.transport[2:4] + quotation.transport[:2]
        flow = self._flows.get(peer, {}).get(quotation.destination + quotation.source + ports)
        if flow is None:
            self.counters["icmp_for_no_flow"] += 1
        return flow


def _key(remote: tuple[bytes, int], local: tuple[bytes, int]) -> bytes:
    """Addresses and ports as they lie in a packet from `remote` to `local`."""
    return remote[0] + local[0] + _PORTS.pack(remote[1], local[1])


def _sums(payloads: Sequence[Buffer], sizes: list[int]) -> list[int]:
    """The sums of the payloads' big-endian words, the last one padded; right modulo 65,535, which is what counts."""
    size = sizes[0] if sizes else 0
    if len(sizes) < _COLUMNS_FROM or size * len(sizes) < _LARGE or sizes.count(size) != len(sizes):
        return [_sum(payload, size) for payload, size in zip(payloads, sizes, strict=True)]
    padding = bytes(-size & 3)
    words = np.frombuffer(padding.join((*payloads, b"")) if padding else b"".join(payloads), "<u4")
    sums = words.reshape(len(sizes), -1).sum(axis=1, dtype=np.uint64)
    sums %= _MODULUS
    totals: list[int] = (((sums & _LOW) << _BYTE) | (sums >> _BYTE)).tolist()
    return totals


def _sum(payload: Buffer, size: int) -> int:
    if size < _LARGE:
        total = int.from_bytes(payload, "big")
        return total << 8 if size & 1 else total
    whole = size & ~3
    view = memoryview(payload)
    total = swapped(int(np.frombuffer(view, "<u4", whole >> 2).sum(dtype=np.uint64)) % 0xFFFF)
    if whole < size:
        total += int.from_bytes(view[whole:], "big") << 8 * (whole + 4 - size)
    return total
