"""The stack: takes batches of packets from the layer below, hands flows and events to the owner above.

It is the far end for every address a device cares to dial: TCP and UDP to any destination become flows, and nothing is
refused here unless the owner says so. Nothing is forwarded either; hop limits are therefore not looked at (RFC 1122
section 3.2.1.7).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lopower.netstack.config import StackConfig
from lopower.netstack.events import EchoRequested, StackEvent, TcpSynReceived, UdpFlowOpened
from lopower.netstack.fragments import Reassembly
from lopower.netstack.icmp import IcmpLayer
from lopower.netstack.output import IpOutput, PacketOutput
from lopower.netstack.rows import MINIMUM_ROWS, RunFinder, SegmentRun
from lopower.netstack.tcp.layer import TcpLayer
from lopower.netstack.udp import UdpFlow, UdpLayer
from lopower.wire.icmp import Quotation, UnreachableKind
from lopower.wire.ip import (
    NO_NEXT_HEADER,
    PROTOCOL_ICMP,
    PROTOCOL_ICMPV6,
    PROTOCOL_TCP,
    PROTOCOL_UDP,
    IpHeader,
    PacketError,
    is_multicast,
    is_one_host,
    parse_header,
)
from lopower.wire.rows import PacketBatch

if TYPE_CHECKING:
    from lopower.netstack.tcp.connection import Connection

    Packet = bytes | memoryview[int]


class Stack:
    """TCP/IP towards all peers. Peers are opaque, hashable, and compared by identity or equality as they please.

    Attributes:
        tcp: the connections. udp: the UDP flows. reassembly: packets of which fragments are missing.
        counters: by name: what was dropped and why, and what is worth knowing.
    """

    def __init__(
        self,
        *,
        config: StackConfig,
        entropy: Callable[[int], bytes],
        uniform: Callable[[float, float], float],
        output: PacketOutput,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._events: list[StackEvent] = []
        mtu = config.mtu
        mtu_for = config.mtu_for or (lambda _: mtu)
        self._output = IpOutput(output=output, entropy=entropy, mtu_for=mtu_for)
        self._icmp = IcmpLayer(
            config=config.icmp,
            local_addresses=config.local_addresses,
            output=self._output,
            counters=self.counters,
            events=self._events,
            on_unreachable=self._unreachable,
            on_too_big=self._too_big,
        )
        self.reassembly = Reassembly(config.fragments, self.counters)
        self._runs = RunFinder()
        self.udp = UdpLayer(
            config=config.udp,
            entropy=entropy,
            output=self._output,
            counters=self.counters,
            events=self._events,
            send_unreachable=self._icmp.send_unreachable,
        )
        tcp_config = config.tcp
        if not tcp_config.local_addresses:
            tcp_config = dataclasses.replace(tcp_config, local_addresses=tuple(sorted(config.local_addresses)))
        self.tcp = TcpLayer(
            config=tcp_config,
            entropy=entropy,
            uniform=uniform,
            output=output,
            mtu_for=mtu_for,
            counters=self.counters,
            send_unreachable=self._icmp.send_unreachable,
        )

    def receive(self, batch: PacketBatch, now: float) -> None:
        """Process a turn's packets. Views of them are handed out, and valid until `flush`."""
        if batch.count < MINIMUM_ROWS:
            for peer, first, last in batch.runs:
                self._receive_rows(peer, batch, first, last, now)
        else:
            receive_segments, receive_datagrams = self.tcp.receive_run, self.udp.receive_run
            for peer, first, last, run in self._runs.find(batch):
                if run is None:
                    self._receive_rows(peer, batch, first, last, now)
                elif isinstance(run, SegmentRun):
                    if not receive_segments(run, now):
                        self._receive_rows(peer, batch, first, last, now)
                elif not receive_datagrams(run, now):
                    self._receive_rows(peer, batch, first, last, now)
        for peer, packet in batch.large:
            self.receive_packet(peer, packet, now)

    def _receive_rows(self, peer: Any, batch: PacketBatch, first: int, last: int, now: float) -> None:
        rows, lengths = batch.rows, batch.lengths[first:last].tolist()
        for row, length in enumerate(lengths, first):
            if length:
                self.receive_packet(peer, rows.packet(row, length), now)

    def receive_packet(self, peer: Any, packet: Packet, now: float) -> None:
        """Process one packet, which may have padding behind it: the specification of `receive`."""
        try:
            ip = parse_header(packet)
        except PacketError as problem:
            self.counters[problem.reason] += 1
            self._icmp.send_parameter_problem(peer, packet, problem, now)
            return
        if ip.fragment is None:
            self._receive_whole(peer, packet, ip, now)
            return
        whole = self.reassembly.receive(peer, packet, ip, now)
        if whole is None:
            return
        try:
            ip = parse_header(whole)
        except PacketError as problem:
            self.counters[problem.reason] += 1
            return
        if ip.fragment is None:
            self._receive_whole(peer, whole, ip, now)
        else:
            self.counters["ipv6_nested_fragment"] += 1

    def _receive_whole(self, peer: Any, packet: Packet, ip: IpHeader, now: float) -> None:
        protocol = ip.protocol
        if not is_one_host(ip.source):
            self.counters["ip_bad_source"] += 1
        elif is_multicast(ip.destination):
            self.counters["ip_multicast"] += 1
        elif protocol == PROTOCOL_TCP:
            self.tcp.receive_packet(peer, packet, ip, now)
        elif protocol == PROTOCOL_UDP:
            self.udp.receive_packet(peer, packet, ip, now)
        elif protocol == (PROTOCOL_ICMP if ip.version == 4 else PROTOCOL_ICMPV6):
            self._icmp.receive(peer, packet, ip, now)
        elif protocol == NO_NEXT_HEADER and ip.version == 6:
            self.counters["ipv6_no_next_header"] += 1
        else:
            self.counters["ip_unknown_protocol"] += 1
            self._icmp.send_protocol_unreachable(peer, packet, ip, now)

    def take_events(self) -> list[StackEvent]:
        """What happened since the last call, for the owner."""
        events = [*self.tcp.take_events(), *self._events]
        self._events.clear()
        return events

    def take_dirty(self) -> list[Connection | UdpFlow]:
        """Flows with news since the last call: data, room, an error, their end."""
        return [*self.tcp.take_dirty(), *self.udp.take_dirty()]

    def send_echo_request(
        self, peer: Any, source: bytes, destination: bytes, identifier: int, sequence: int, payload: bytes, now: float
    ) -> None:
        """Ping a device from `source` (packed); leaves with `flush`, and `EchoReplyReceived` tells of the answer.

        Raises:
            ValueError: the payload fits no packet.
        """
        self._icmp.send_echo_request(peer, source, destination, identifier, sequence, payload)

    def send_echo_reply(self, request: EchoRequested, payload: bytes, now: float) -> None:
        """Answer an echo request in the name of the address that it asked, which has answered with `payload`.

        Raises:
            ValueError: the payload fits no packet.
        """
        self._icmp.send_echo_reply(request, payload)

    def send_unreachable(
        self, peer: Any, original: Packet | UdpFlow | EchoRequested, kind: UnreachableKind, now: float
    ) -> None:
        """Answer a packet (as it arrived), a flow's latest datagram or an echo request with "destination unreachable".

        Nothing is sent where RFC 1122 and 4443 forbid it, or beyond the rate permitted.
        """
        if isinstance(original, UdpFlow):
            original.unreachable(kind, now)
        elif isinstance(original, EchoRequested):
            self._icmp.send_unreachable_echo(original, kind, now)
        else:
            self._icmp.send_unreachable(peer, original, kind, now)

    def flush(self, now: float) -> None:
        """The turn ends: due ACKs, datagrams and messages leave; views of the turn's packets are nobody's any more."""
        self.tcp.flush(now)
        self.udp.flush()
        self._output.flush(now)

    def next_timer(self) -> float | None:
        """When `handle_timer` is next due, in monotonic seconds."""
        times = (self.tcp.next_timer(), self.udp.next_timer(), self.reassembly.next_timer())
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due; calling early is harmless. `flush` sends what comes of it."""
        self.tcp.handle_timer(now)
        self.udp.handle_timer(now)
        for peer, start in self.reassembly.expire(now):
            if start:
                self._icmp.send_reassembly_timeout(peer, start, now)

    def release_unused(self) -> None:
        """Give up buffers that have not been needed since the last call; for the owner to call every few seconds."""
        self.tcp.pool.release_unused()

    def forget_peer(self, peer: Any, now: float) -> None:
        """The peer is gone: all its flows end, and nothing is sent to it any more."""
        self.tcp.forget_peer(peer, now)
        self.udp.forget_peer(peer)
        self.reassembly.forget_peer(peer)
        self._icmp.forget_peer(peer)
        self._output.forget_peer(peer)
        self._events[:] = [event for event in self._events if _peer_of(event) != peer]

    def _unreachable(self, peer: Any, quotation: Quotation, kind: UnreachableKind, now: float) -> None:
        if quotation.protocol == PROTOCOL_UDP:
            self.udp.unreachable(peer, quotation, kind, now)
        elif quotation.protocol == PROTOCOL_TCP:
            # RFC 5461 section 2: what may pass by itself is soft.
            severity = "hard" if kind == "port" else kind if kind == "prohibited" else "soft"
            self.tcp.icmp_error(peer, quotation.packet, severity, 0, now)
        else:
            self.counters["icmp_for_no_flow"] += 1

    def _too_big(self, peer: Any, quotation: Quotation, mtu: int, now: float) -> None:
        if quotation.protocol == PROTOCOL_UDP:
            self.udp.too_big(peer, quotation, mtu, now)
        elif quotation.protocol == PROTOCOL_TCP:
            self.tcp.icmp_error(peer, quotation.packet, "too_big", mtu, now)
        else:
            self.counters["icmp_for_no_flow"] += 1


def _peer_of(event: StackEvent) -> Any:
    if isinstance(event, UdpFlowOpened):
        return event.flow.peer
    return event.connection.peer if isinstance(event, TcpSynReceived) else event.peer
