"""All TCP of one stack: finds the connection that a segment belongs to, makes new ones, keeps the limits, wakes
timers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from lopower.netstack.errors import FlowAborted, FlowProhibited, FlowUnreachable, LimitReached
from lopower.netstack.events import TcpSynReceived
from lopower.netstack.tcp import fast_path, state_machine
from lopower.netstack.tcp.chunks import ChunkPool, MemoryBudget
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.isn import InitialSequenceNumbers
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.sequence import expand
from lopower.netstack.tcp.states import TcpState
from lopower.netstack.tcp.time_wait import Records, Refused, TimeWait
from lopower.netstack.tcp.timers import TimerQueue
from lopower.wire.tcp import ACK, FIN, RST, SYN, MalformedSegmentError, TcpHeader, parse_header

if TYPE_CHECKING:
    from lopower.netstack.rows import SegmentRun
    from lopower.wire.rows import PacketRows

_MINIMUM_MTU: Final = {4: 576, 6: 1280}  # RFC 1191 section 3 with RFC 9293's default MSS; RFC 8200 section 5
_DEFAULT_MSS: Final = {4: 536, 6: 1220}  # RFC 9293 section 3.7.1
_REFUSED_LIFETIME: Final = 30.0

# Packets that wait for the turn's end, per peer. An attacker's segments are answered one for one at most, so this is
# what one turn's batch can cause, and more only if someone forgets to flush.
MAX_QUEUED_PACKETS: Final = 4096


class PacketOutput(Protocol):
    """Where packets leave; `wireguard.Interface` is one."""

    def send_packets(self, peer: Any, packets: Sequence[bytes | memoryview[int]], now: float) -> None:
        """Send IP packets."""

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        """Send rows `[first, first + count)`, `packet_length` bytes each, the last one `last_length`."""


class IpFields(Protocol):
    """What TCP needs of the IP header; `wire.ip.IpHeader` has it."""

    @property
    def version(self) -> int:
        """4 or 6."""

    @property
    def source(self) -> bytes:
        """Packed address."""

    @property
    def destination(self) -> bytes:
        """Packed address."""

    @property
    def header_length(self) -> int:
        """Bytes before TCP, extension headers included."""

    @property
    def total_length(self) -> int:
        """Bytes of the packet."""


class PeerFlows:
    """The flows of one peer by key, and what leaves for it at the turn's end."""

    __slots__ = ("connection_count", "flows", "half_open_count", "packets")

    def __init__(self) -> None:
        self.flows: dict[bytes, Connection | TimeWait | Refused] = {}
        self.packets: list[bytes] = []
        self.connection_count = 0
        self.half_open_count = 0


class TcpLayer:
    """TCP for all peers. `SendUnreachable(peer, packet, code, now)` is how it has the stack answer with an ICMP
    error."""

    def __init__(
        self,
        *,
        config: TcpConfig,
        entropy: Callable[[int], bytes],
        uniform: Callable[[float, float], float],
        output: PacketOutput,
        mtu_for: Callable[[Any], int],
        counters: Counter[str],
        send_unreachable: Callable[[Any, bytes, Any, float], None] | None = None,
    ) -> None:
        self.config = config
        self.output = output
        self.counters = counters
        self.isn = InitialSequenceNumbers(entropy)
        self.budget = MemoryBudget(config.memory_budget)
        self.pool = ChunkPool(self.budget)
        self.timers = TimerQueue()
        self.dirty: dict[Connection, None] = {}  # flows with news for their owner
        self.active: dict[Connection, None] = {}  # flows with something to do at the turn's end
        self.connection_count = 0
        self.half_open_count = 0
        self.uniform = uniform
        self._mtu_for = mtu_for
        self._send_unreachable = send_unreachable
        self._peers: dict[Hashable, PeerFlows] = {}
        self._outgoing: dict[Hashable, PeerFlows] = {}  # peers with packets queued
        self._events: list[TcpSynReceived] = []
        self._time_wait = Records()
        self._refused = Records()

    # Receiving

    def receive_run(self, run: SegmentRun, now: float) -> bool:
        """Take a run of segments of one flow; False: offer its rows to `receive_packet` one by one."""
        flows = self._peers.get(run.peer)
        if flows is None:
            return False
        connection = flows.flows.get(run.key)
        return type(connection) is Connection and fast_path.receive_run(connection, run, now)

    def receive_packet(self, peer: Hashable, packet: bytes | memoryview[int], ip: IpFields, now: float) -> None:
        """Process one packet whose protocol is TCP; a bad one is counted and dropped."""
        view = memoryview(packet)[: ip.total_length]
        segment = view[ip.header_length :]
        try:
            header = parse_header(segment)
        except MalformedSegmentError as malformed:
            self.counters[str(malformed)] += 1
            return
        key = ip.source + ip.destination + bytes(segment[:4])
        flows = self._peers.get(peer)
        found = flows.flows.get(key) if flows is not None else None
        payload = segment[header.header_length :]
        if type(found) is Connection:
            if header.flags & SYN and not header.flags & ACK and found.is_pending:
                found.syn_packet = found.syn_packet or bytes(view[:1280])
            state_machine.segment_arrives(found, header, payload, now)
            return
        if isinstance(found, TimeWait) and self._in_time_wait(found, header, payload, now):
            return
        if isinstance(found, Refused):
            self._forget_record(found)
            if header.flags & (SYN | ACK | RST) == SYN and header.sequence == found.irs:
                builder = SegmentBuilder(ip.destination, ip.source, header.destination_port, header.source_port)
                self.send_reset(peer, builder, 0, header.sequence + 1, now)
                return
        self._without_connection(peer, key, view, ip.source, ip.destination, header, len(payload), now)

    def _without_connection(
        self,
        peer: Hashable,
        key: bytes,
        packet: memoryview[int],
        source: bytes,
        destination: bytes,
        header: TcpHeader,
        payload_length: int,
        now: float,
    ) -> None:
        """RFC 9293 sections 3.10.7.1 and 3.10.7.2."""
        flags = header.flags
        if flags & RST:
            return
        if flags & (SYN | ACK) == SYN:
            if not flags & FIN and header.source_port and header.destination_port:
                self._receive_syn(peer, key, bytes(packet[:1280]), source, destination, header, now)
            return
        builder = SegmentBuilder(destination, source, header.destination_port, header.source_port)
        self.counters["tcp_no_connection"] += 1
        if flags & ACK:
            self.send_reset(peer, builder, header.acknowledgment, None, now)
        else:
            end = header.sequence + payload_length + (flags & FIN) + (flags >> 1 & 1)
            self.send_reset(peer, builder, 0, end, now)

    def _receive_syn(
        self,
        peer: Hashable,
        key: bytes,
        packet: bytes,
        source: bytes,
        destination: bytes,
        header: TcpHeader,
        now: float,
    ) -> None:
        flows = self._peers.get(peer)
        if flows is None:
            flows = self._peers[peer] = PeerFlows()
        if self._is_full(flows):
            self.counters["tcp_syn_dropped_limit"] += 1
            self._drop_if_empty(peer, flows)
            return
        local, remote = (destination, header.destination_port), (source, header.source_port)
        connection = Connection(self, peer, key, local, remote, passive=True, now=now)
        connection.syn_packet = packet
        self._add(flows, connection)
        state_machine.take_syn(connection, header, self.receive_mss(connection), now)
        connection.lifetime_at = now + self.config.accept_timeout
        connection.wake(connection.lifetime_at)
        self._events.append(TcpSynReceived(connection))

    def receive_syn_again(self, connection: Connection, header: TcpHeader, now: float) -> None:
        """A SYN with another ISN replaces a flow that was not accepted yet."""
        (destination, _), (source, _) = connection.local, connection.remote
        packet = connection.builder.ip_header(header.header_length) + header.to_bytes()
        self._receive_syn(connection.peer, connection.key, packet, source, destination, header, now)

    def _in_time_wait(self, record: TimeWait, header: TcpHeader, payload: memoryview[int], now: float) -> bool:
        """Section 3.10.7.4 for TIME-WAIT; False: the segment is a SYN that opens the flow anew (RFC 6191)."""
        flags = header.flags
        if flags & RST:
            return True  # a RST does not end TIME-WAIT (RFC 1337)
        if record.reopens(header):
            self._forget_record(record)
            return False
        if flags & FIN:
            self._time_wait.remove(record)
            record.deadline = now + self.config.time_wait
            self._time_wait.add(record)
        if flags & (SYN | FIN) or payload:
            self.queue_packet(record.peer, record.last_ack(now))
        return True

    # Opening

    def connect(
        self, peer: Hashable, local: tuple[bytes, int] | None, remote: tuple[bytes, int], now: float
    ) -> Connection:
        """Open a flow to `remote`; a local port of 0 is chosen at random (RFC 6056).

        The flow becomes dirty when it is established or has failed. Raises `LimitReached` if a table is full or no port
        is free, and `FlowUnreachable` if `local` is None and the configuration has no address of the remote's family.
        """
        address, port = local or (b"", 0)
        if not address:
            candidates = [own for own in self.config.local_addresses if len(own) == len(remote[0])]
            if not candidates:
                raise FlowUnreachable("no local address of the remote address's family")
            address = candidates[0]
        flows = self._peers.get(peer)
        if flows is None:
            flows = self._peers[peer] = PeerFlows()
        prefix = remote[0] + address + remote[1].to_bytes(2, "big")
        known = flows.flows
        chosen = port or self.isn.ephemeral_port(lambda free: prefix + free.to_bytes(2, "big") not in known)
        key = prefix + (chosen or 0).to_bytes(2, "big")
        if chosen is None or key in known or self._is_full(flows):
            self._drop_if_empty(peer, flows)
            raise LimitReached("no free port, or too many flows")
        connection = Connection(self, peer, key, (address, chosen), remote, passive=False, now=now)
        self._add(flows, connection)
        connection.lifetime_at = now + self.config.connect_timeout
        connection.send_syn(now)
        return connection

    def _is_full(self, flows: PeerFlows) -> bool:
        config = self.config
        return (
            flows.half_open_count >= config.max_half_open_per_peer
            or self.half_open_count >= config.max_half_open
            or flows.connection_count >= config.max_connections_per_peer
            or self.connection_count >= config.max_connections
        )

    def _add(self, flows: PeerFlows, connection: Connection) -> None:
        flows.flows[connection.key] = connection
        flows.connection_count += 1
        flows.half_open_count += 1
        self.connection_count += 1
        self.half_open_count += 1

    def receive_mss(self, connection: Connection) -> int:
        """The MSS we announce: the path's MTU without the headers (RFC 6691: options not counted)."""
        return self._mtu_for(connection.peer) - connection.builder.ip_header_length - 20

    def default_mss(self, connection: Connection) -> int:
        """The MSS of a peer that announces none."""
        return _DEFAULT_MSS[4 if connection.builder.ip_header_length == 20 else 6]

    # What connections call

    def queue_packet(self, peer: Hashable, packet: bytes) -> None:
        """It leaves with the next `flush`."""
        flows = self._peers.get(peer)
        if flows is None:
            flows = self._peers[peer] = PeerFlows()
        if len(flows.packets) >= MAX_QUEUED_PACKETS:
            self.counters["tcp_queue_full"] += 1
            return
        flows.packets.append(packet)
        self._outgoing[peer] = flows

    def send_reset(
        self, peer: Hashable, builder: SegmentBuilder, sequence: int, acknowledgment: int | None, now: float
    ) -> None:
        """A RST for what belongs to no connection; with ACK if `acknowledgment` is given."""
        flags = RST if acknowledgment is None else RST | ACK
        self.counters["tcp_resets_sent"] += 1
        self.queue_packet(peer, builder.build(sequence, acknowledgment or 0, flags, 0))

    def established(self, connection: Connection) -> None:
        """Its handshake is complete."""
        self._no_longer_half_open(connection)

    def _no_longer_half_open(self, connection: Connection) -> None:
        if connection.half_open:
            connection.half_open = False
            self.half_open_count -= 1
            self._peers[connection.peer].half_open_count -= 1

    def forget(self, connection: Connection, now: float) -> None:
        """It is closed: take it out of all tables; leave a record if it is in TIME-WAIT."""
        self.timers.cancel(connection)
        self.active.pop(connection, None)
        self._no_longer_half_open(connection)
        flows = self._peers[connection.peer]
        flows.connection_count -= 1
        self.connection_count -= 1
        del flows.flows[connection.key]
        self.dirty[connection] = None
        if connection.state is TcpState.TIME_WAIT:
            receiver, sender = connection.receiver, connection.sender
            self._keep_record(
                self._time_wait,
                flows,
                TimeWait(
                    connection.peer,
                    connection.key,
                    now + self.config.time_wait,
                    builder=connection.builder,
                    snd_nxt=sender.snd_nxt,
                    rcv_nxt=receiver.rcv_nxt,
                    window=receiver.window_field(),
                    timestamps=sender.timestamps,
                    ts_recent=receiver.ts_recent,
                    echo_offset=connection.timestamp_offset,
                ),
            )
        self._drop_if_empty(connection.peer, flows)

    def refuse(self, connection: Connection, packet: bytes, irs: int, code: Any, now: float) -> None:
        """Answer a SYN with an ICMP error, and remember it for its retransmission."""
        peer = connection.peer
        flows = self._peers.get(peer)
        if flows is None:
            flows = self._peers[peer] = PeerFlows()
        self._keep_record(self._refused, flows, Refused(peer, connection.key, now + _REFUSED_LIFETIME, irs))
        if self._send_unreachable is not None:
            self._send_unreachable(peer, packet, code, now)

    def _keep_record(self, records: Records, flows: PeerFlows, record: TimeWait | Refused) -> None:
        flows.flows[record.key] = record
        if (oldest := records.add(record)) is not None:
            self._remove_record(oldest)

    def _forget_record(self, record: TimeWait | Refused) -> None:
        (self._time_wait if isinstance(record, TimeWait) else self._refused).remove(record)
        self._remove_record(record)

    def _remove_record(self, record: TimeWait | Refused) -> None:
        flows = self._peers[record.peer]
        if flows.flows.get(record.key) is record:
            del flows.flows[record.key]
        self._drop_if_empty(record.peer, flows)

    def _drop_if_empty(self, peer: Hashable, flows: PeerFlows) -> None:
        if not flows.flows and not flows.packets:
            self._peers.pop(peer, None)

    # ICMP

    def icmp_error(self, peer: Hashable, quoted: bytes | memoryview[int], kind: str, mtu: int, now: float) -> None:
        """An ICMP error that quotes a packet of ours: `kind` is "too_big", "prohibited", "hard" or "soft"; `mtu`
        counts for the first.

        Honoured only if it quotes what is in flight (RFC 5927 section 4); a hard error ends an open that is under way
        and never an established flow (RFC 5461, RFC 5927 section 5).
        """
        view = memoryview(quoted)
        version = view[0] >> 4 if len(view) else 0
        start = 40 if version == 6 else (view[0] & 15) * 4 if version == 4 else 0
        if not start or len(view) < start + 8:
            self.counters["icmp_quote_too_short"] += 1
            return
        addresses = bytes(view[8:40] if version == 6 else view[12:20])
        half = len(addresses) // 2
        source_port, destination_port = bytes(view[start : start + 2]), bytes(view[start + 2 : start + 4])
        key = addresses[half:] + addresses[:half] + destination_port + source_port
        flows = self._peers.get(peer)
        connection = flows.flows.get(key) if flows is not None else None
        if type(connection) is not Connection or connection.is_pending:
            self.counters["icmp_no_connection"] += 1
            return
        sender = connection.sender
        sequence = expand(int.from_bytes(view[start + 4 : start + 8], "big"), sender.snd_una)
        if not sender.snd_una <= sequence < sender.snd_nxt:
            self.counters["icmp_not_in_flight"] += 1
            return
        if kind == "too_big":
            header = connection.builder.ip_header_length + (32 if sender.timestamps else 20)
            mss = max(mtu, _MINIMUM_MTU[version]) - header & ~3
            if mss < sender.mss and connection.state is not TcpState.SYN_SENT:
                sender.set_mss(mss, now)
                self.active[connection] = None
                self.counters["tcp_path_mtu_reduced"] += 1
        elif kind != "soft" and connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            connection.terminate(FlowProhibited if kind == "prohibited" else FlowUnreachable, now)
        else:
            self.counters["icmp_ignored"] += 1

    # The turn

    def take_events(self) -> list[TcpSynReceived]:
        """New flows since the last call."""
        events, self._events = self._events, []
        return [event for event in events if not event.connection.is_closed]

    def take_dirty(self) -> list[Connection]:
        """Flows with news: data, a FIN, room again, established, closed."""
        if not self.dirty:
            return []
        dirty = list(self.dirty)
        self.dirty.clear()
        return dirty

    def flush(self, now: float) -> None:
        """The turn ends: due ACKs, waiting data and control segments leave; rows that were not consumed are copied."""
        if self.active:
            active, self.active = self.active, {}
            for connection in active:
                connection.flush(now)
        self.send_queued(now)

    def send_queued(self, now: float) -> None:
        """Queued packets leave before the turn's end: rows must not overtake them, and they do not wait behind bulk."""
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, {}
            for peer, flows in outgoing.items():
                packets, flows.packets = flows.packets, []
                self.output.send_packets(peer, packets, now)
                self._drop_if_empty(peer, flows)

    def next_timer(self) -> float | None:
        """When to call `handle_timer`; None: nothing waits."""
        times = (self.timers.next(), self._time_wait.next(), self._refused.next())
        return min((at for at in times if at is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due; `flush` sends what comes of it."""
        for connection in self.timers.due(now):
            connection.handle_timer(now)
        for records in (self._time_wait, self._refused):
            for record in records.expired(now):
                self._remove_record(record)

    def forget_peer(self, peer: Hashable, now: float) -> None:
        """All its flows end, without a word to it."""
        flows = self._peers.get(peer)
        if flows is None:
            return
        flows.packets.clear()
        for flow in list(flows.flows.values()):
            if isinstance(flow, Connection):
                flow.terminate(FlowAborted, now)
            else:
                self._forget_record(flow)
        self._outgoing.pop(peer, None)
        self._peers.pop(peer, None)

    def connections(self) -> list[Connection]:
        """All flows that are not closed."""
        return [flow for flows in self._peers.values() for flow in flows.flows.values() if isinstance(flow, Connection)]

    @property
    def record_count(self) -> int:
        """Flows in TIME-WAIT, and refusals remembered."""
        return len(self._time_wait) + len(self._refused)
