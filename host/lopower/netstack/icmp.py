"""ICMP and ICMPv6 of a host that answers for many: echo, the errors it sends, and where those it receives belong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from lopower.netstack.config import IcmpConfig
from lopower.netstack.events import EchoReplyReceived, EchoRequested, StackEvent
from lopower.netstack.output import IpOutput
from lopower.wire.icmp import (
    DESTINATION_UNREACHABLE,
    ECHO_REPLY,
    ECHO_REQUEST,
    FRAGMENTATION_NEEDED,
    IPV4_ERRORS,
    IPV6_DESTINATION_UNREACHABLE,
    IPV6_ECHO_REPLY,
    IPV6_ECHO_REQUEST,
    IPV6_PACKET_TOO_BIG,
    IPV6_PARAMETER_PROBLEM,
    IPV6_REDIRECT,
    IPV6_TIME_EXCEEDED,
    PROTOCOL_UNREACHABLE,
    REASSEMBLY_TIME_EXCEEDED,
    TIME_EXCEEDED,
    UNREACHABLE_CODES,
    IcmpMessage,
    Quotation,
    UnreachableKind,
    icmp_protocol,
    parse_message,
    parse_quotation,
    quotation_limit,
)
from lopower.wire.ip import (
    IPV4_HEADER,
    IPV4_MINIMUM_MTU,
    IPV6_HEADER,
    IPV6_MINIMUM_MTU,
    MAX_PACKET,
    IpHeader,
    PacketError,
    ip_header,
    is_multicast,
    is_one_host,
    parse_header,
)

if TYPE_CHECKING:
    Packet = bytes | memoryview[int]

# Events of one turn; a turn's batch cannot hold more packets than this unless its owner stopped taking events.
MAX_EVENTS: Final = 8192

# Which code of "destination unreachable" is what, of the errors that say so for good or for now.
_IPV4_KINDS: Final[dict[int, UnreachableKind]] = {
    0: "no-route",
    1: "host",
    2: "port",  # protocol unreachable: no more is there than with a closed port
    3: "port",
    9: "prohibited",
    10: "prohibited",
    13: "prohibited",
}
_IPV6_KINDS: Final[dict[int, UnreachableKind]] = {0: "no-route", 1: "prohibited", 3: "address", 4: "port"}

# RFC 1191 section 7.1: what a router means that leaves the MTU at zero, by the length of the packet quoted.
_PLATEAUS: Final = (32000, 17914, 8166, 4352, 2002, 1492, 1006, 576)


class TokenBucket:
    """`rate` tokens per second, at most `burst` saved up."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Take one token if there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class IcmpLayer:
    """Receives and sends ICMP of both versions for all peers.

    Args:
        on_unreachable: `(peer, quotation, kind, now)`: a device says that what we sent cannot be delivered.
        on_too_big: `(peer, quotation, mtu, now)`: it does not fit; `mtu` is at least the smallest the version permits.
    """

    def __init__(
        self,
        *,
        config: IcmpConfig,
        local_addresses: frozenset[bytes],
        output: IpOutput,
        counters: Counter[str],
        events: list[StackEvent],
        on_unreachable: Callable[[Any, Quotation, UnreachableKind, float], None],
        on_too_big: Callable[[Any, Quotation, int, float], None],
    ) -> None:
        self._config = config
        self._local_addresses = local_addresses
        # Errors that a router would send come from an address of the gateway's, if there is one of the version.
        self._error_sources = {len(address): address for address in sorted(local_addresses, reverse=True)}
        self._output = output
        self._counters = counters
        self._events = events
        self._on_unreachable = on_unreachable
        self._on_too_big = on_too_big
        self._buckets: dict[Any, TokenBucket] = {}

    def receive(self, peer: Any, packet: Packet, ip: IpHeader, now: float) -> None:
        """One ICMP packet."""
        message = parse_message(packet, ip.header_length, ip.total_length)
        if message is None:
            self._counters["icmp_too_short"] += 1
            return
        if ip.version == 4:
            if message.type == ECHO_REQUEST:
                self._echo_requested(peer, ip, message)
            elif message.type == ECHO_REPLY:
                self._echo_replied(peer, ip, message)
            elif message.type == DESTINATION_UNREACHABLE:
                if message.code == FRAGMENTATION_NEEDED:
                    self._too_big(peer, ip, message, message.rest & 0xFFFF, now)
                else:
                    self._unreachable(peer, ip, message, _IPV4_KINDS.get(message.code), now)
            else:
                self._counters["icmp_ignored"] += 1
        elif message.type == IPV6_ECHO_REQUEST:
            self._echo_requested(peer, ip, message)
        elif message.type == IPV6_ECHO_REPLY:
            self._echo_replied(peer, ip, message)
        elif message.type == IPV6_DESTINATION_UNREACHABLE:
            self._unreachable(peer, ip, message, _IPV6_KINDS.get(message.code), now)
        elif message.type == IPV6_PACKET_TOO_BIG:
            self._too_big(peer, ip, message, message.rest, now)
        else:
            self._counters["icmp_ignored"] += 1

    def send_echo_request(
        self, peer: Any, source: bytes, destination: bytes, identifier: int, sequence: int, payload: bytes
    ) -> None:
        """Ask a device; `EchoReplyReceived` says what came. Raises ValueError if the payload fits no packet."""
        kind = ECHO_REQUEST if len(source) == 4 else IPV6_ECHO_REQUEST
        message = IcmpMessage(kind, 0, (identifier & 0xFFFF) << 16 | sequence & 0xFFFF, payload)
        self._send(peer, source, destination, message)

    def send_echo_reply(self, request: EchoRequested, payload: bytes) -> None:
        """Answer a request in the name of the address that it asked. ValueError: the payload fits no packet."""
        kind = ECHO_REPLY if len(request.source) == 4 else IPV6_ECHO_REPLY
        message = IcmpMessage(kind, 0, request.identifier << 16 | request.sequence, payload)
        self._send(request.peer, request.destination, request.source, message)

    def send_unreachable(self, peer: Any, packet: Packet, kind: UnreachableKind, now: float) -> None:
        """Answer `packet`, as it arrived, with "destination unreachable", as far as rules and rate permit.

        A closed port is said by the address it belongs to; the rest is what a router on the way would say.
        """
        header = self._answerable(packet)
        if header is not None:
            source = header.destination if kind == "port" else self._error_sources.get(len(header.destination))
            unreachable = DESTINATION_UNREACHABLE if header.version == 4 else IPV6_DESTINATION_UNREACHABLE
            code = UNREACHABLE_CODES[kind][header.version == 6]
            self._send_error(peer, packet, header, unreachable, code, 0, now, source)

    def send_unreachable_echo(self, request: EchoRequested, kind: UnreachableKind, now: float) -> None:
        """The same for an echo request, whose packet is gone already: it is rebuilt."""
        echo = ECHO_REQUEST if len(request.source) == 4 else IPV6_ECHO_REQUEST
        message = IcmpMessage(echo, 0, request.identifier << 16 | request.sequence, request.payload)
        data = message.to_bytes(request.source, request.destination)
        header = ip_header(request.source, request.destination, icmp_protocol(_version(request.source)), len(data))
        self.send_unreachable(request.peer, header + data, kind, now)

    def send_protocol_unreachable(self, peer: Any, packet: Packet, ip: IpHeader, now: float) -> None:
        """Nobody here speaks what follows the IP header."""
        if ip.destination not in self._local_addresses:
            self.send_unreachable(peer, packet, "prohibited", now)
        elif self._answerable(packet) is None:
            return
        elif ip.version == 4:
            self._send_error(peer, packet, ip, DESTINATION_UNREACHABLE, PROTOCOL_UNREACHABLE, 0, now, ip.destination)
        else:
            code, pointer = 1, ip.protocol_offset  # RFC 8200 section 4: unrecognized next header
            self._send_error(peer, packet, ip, IPV6_PARAMETER_PROBLEM, code, pointer, now, ip.destination)

    def send_parameter_problem(self, peer: Any, packet: Packet, problem: PacketError, now: float) -> None:
        """What `parse_header` refused, where RFC 8200 wants that said. `packet` is IPv6, its fixed header complete."""
        if problem.code is None or len(packet) < IPV6_HEADER or packet[0] >> 4 != 6:
            return
        total = IPV6_HEADER + (packet[4] << 8 | packet[5])
        source, destination = bytes(packet[8:24]), bytes(packet[24:40])
        if not is_one_host(source) or (is_multicast(destination) and problem.code != 2):
            return
        ip = IpHeader(6, source, destination, 0, IPV6_HEADER, total)
        code, pointer = problem.code, problem.pointer
        self._send_error(peer, packet, ip, IPV6_PARAMETER_PROBLEM, code, pointer, now, None)

    def send_reassembly_timeout(self, peer: Any, first_fragment: Packet, now: float) -> None:
        """The rest of a packet never came."""
        header = self._answerable(first_fragment)
        if header is not None:
            exceeded = TIME_EXCEEDED if header.version == 4 else IPV6_TIME_EXCEEDED
            self._send_error(peer, first_fragment, header, exceeded, REASSEMBLY_TIME_EXCEEDED, 0, now, None)

    def forget_peer(self, peer: Any) -> None:
        """Drop what is known of a peer."""
        self._buckets.pop(peer, None)

    def _echo_requested(self, peer: Any, ip: IpHeader, message: IcmpMessage) -> None:
        identifier, sequence = message.rest >> 16, message.rest & 0xFFFF
        event = EchoRequested(peer, ip.source, ip.destination, identifier, sequence, message.body, ip.hop_limit)
        if ip.destination in self._local_addresses:
            self._counters["echo_answered"] += 1
            self.send_echo_reply(event, message.body)
        else:
            self._emit(event)

    def _echo_replied(self, peer: Any, ip: IpHeader, message: IcmpMessage) -> None:
        identifier, sequence = message.rest >> 16, message.rest & 0xFFFF
        self._emit(EchoReplyReceived(peer, ip.source, ip.destination, identifier, sequence, message.body, ip.hop_limit))

    def _emit(self, event: StackEvent) -> None:
        if len(self._events) >= MAX_EVENTS:
            self._counters["events_dropped"] += 1
        else:
            self._events.append(event)

    def _quotation(self, ip: IpHeader, message: IcmpMessage) -> Quotation | None:
        """What the error quotes, if it is something that we could have sent to the error's sender's side."""
        quotation = parse_quotation(message.body)
        if quotation is None or quotation.version != ip.version or quotation.source != ip.destination:
            self._counters["icmp_bad_quotation"] += 1
            return None
        return quotation

    def _unreachable(
        self, peer: Any, ip: IpHeader, message: IcmpMessage, kind: UnreachableKind | None, now: float
    ) -> None:
        if kind is None:
            self._counters["icmp_ignored"] += 1
            return
        quotation = self._quotation(ip, message)
        if quotation is not None:
            self._on_unreachable(peer, quotation, kind, now)

    def _too_big(self, peer: Any, ip: IpHeader, message: IcmpMessage, mtu: int, now: float) -> None:
        quotation = self._quotation(ip, message)
        if quotation is None:
            return
        if ip.version == 4:
            if not mtu:
                quoted_length = message.body[2] << 8 | message.body[3]
                mtu = next((plateau for plateau in _PLATEAUS if plateau < quoted_length), IPV4_MINIMUM_MTU)
            mtu = max(mtu, IPV4_MINIMUM_MTU)
        else:
            mtu = max(mtu, IPV6_MINIMUM_MTU)
        self._on_too_big(peer, quotation, mtu, now)

    def _answerable(self, packet: Packet) -> IpHeader | None:
        """The packet's header, unless no error may answer it (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e))."""
        try:
            ip = parse_header(packet, truncated=True)
        except PacketError:
            return None
        if not is_one_host(ip.source) or is_multicast(ip.destination) or (ip.fragment and ip.fragment.offset):
            self._counters["icmp_error_not_permitted"] += 1
            return None
        if ip.protocol == icmp_protocol(ip.version):
            kind = packet[ip.header_length] if ip.total_length > ip.header_length else -1
            is_error = kind in IPV4_ERRORS if ip.version == 4 else kind < 128 or kind == IPV6_REDIRECT
            if is_error:
                self._counters["icmp_error_not_permitted"] += 1
                return None
        return ip

    def _send_error(
        self,
        peer: Any,
        packet: Packet,
        ip: IpHeader,
        message_type: int,
        code: int,
        rest: int,
        now: float,
        source: bytes | None,
    ) -> None:
        bucket = self._buckets.get(peer)
        if bucket is None:
            bucket = self._buckets[peer] = TokenBucket(self._config.errors_per_second, self._config.error_burst, now)
        if not bucket.take(now):
            self._counters["icmp_errors_limited"] += 1
            return
        if source is None:
            source = self._error_sources.get(len(ip.destination), ip.destination)
            if is_multicast(source):
                return
        self._counters["icmp_errors_sent"] += 1
        quoted = bytes(packet[: min(ip.total_length, quotation_limit(ip.version))])
        self._send(peer, source, ip.source, IcmpMessage(message_type, code, rest, quoted))

    def _send(self, peer: Any, source: bytes, destination: bytes, message: IcmpMessage) -> None:
        data = message.to_bytes(source, destination)
        if len(data) > (MAX_PACKET - IPV4_HEADER if len(source) == 4 else MAX_PACKET):
            raise ValueError(f"{len(data)} bytes of ICMP fit no packet")
        self._output.send(peer, source, destination, icmp_protocol(_version(source)), data)


def _version(address: bytes) -> int:
    return 4 if len(address) == 4 else 6
