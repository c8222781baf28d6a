"""A hand-made TCP peer: segments as a test wants them, against one `Host`, with every answer visible."""

from __future__ import annotations

from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, FIN, SYN, TcpOptions
from tests.support.tcp_pair import CLIENT4, CLIENT6, PEER, SERVER4, SERVER6, Host, Segment, parse_ip, parse_segment

MASK = 0xFFFFFFFF
MODERN = TcpOptions(maximum_segment_size=1380, window_scale=0, sack_permitted=True, timestamp=5000)
PLAIN = TcpOptions(maximum_segment_size=1380)


def state_of(connection: Connection) -> TcpState:
    """The state as it is now; type checkers believe that an attribute once compared stays as it was."""
    return connection.state


class RawClient:
    """The device's side, without any TCP of its own. `sequence` is its SND.NXT, `acknowledgment` its RCV.NXT."""

    def __init__(self, host: Host, *, version: int = 4, port: int = 40000, now: float = 1000.0, window: int = 60000):
        self.host = host
        self.now = now
        self.source, self.destination = (CLIENT4, SERVER4) if version == 4 else (CLIENT6, SERVER6)
        self.port = port
        self.builder = SegmentBuilder(self.source, self.destination, port, 80)
        self.sequence = 0xFFFFFF00  # wraps soon
        self.acknowledgment = 0
        self.window = window
        self.timestamps = False
        self.timestamp = 5000
        self.echo = 0

    @property
    def connection(self) -> Connection:
        """The host's end."""
        (connection,) = (c for c in self.host.layer.connections() if c.remote == (self.source, self.port))
        return connection

    def answers(self) -> list[Segment]:
        """What the host has sent since the last call."""
        self.host.turn(self.now)
        packets, self.host.outbox = self.host.outbox, []
        return [parse_segment(packet, self.now) for packet in packets]

    def packet(
        self,
        flags: int,
        payload: bytes = b"",
        *,
        sequence: int | None = None,
        acknowledgment: int | None = None,
        window: int | None = None,
        options: TcpOptions | None = None,
    ) -> bytes:
        """One packet of this flow."""
        if options is None:
            options = (
                TcpOptions(timestamp=self.timestamp, timestamp_echo=self.echo) if self.timestamps else TcpOptions()
            )
        return self.builder.build(
            self.sequence if sequence is None else sequence & MASK,
            self.acknowledgment if acknowledgment is None else acknowledgment & MASK,
            flags,
            self.window if window is None else window,
            options.to_bytes(),
            payload,
        )

    def send(
        self,
        flags: int,
        payload: bytes = b"",
        *,
        sequence: int | None = None,
        acknowledgment: int | None = None,
        window: int | None = None,
        options: TcpOptions | None = None,
    ) -> list[Segment]:
        """Deliver one segment and return the answers. `sequence` advances if none was given."""
        packet = self.packet(
            flags, payload, sequence=sequence, acknowledgment=acknowledgment, window=window, options=options
        )
        if sequence is None:
            self.sequence = self.sequence + len(payload) + bool(flags & (SYN | FIN)) & MASK
        return self.deliver(packet)

    def deliver(self, packet: bytes) -> list[Segment]:
        """One packet arrives at the host."""
        self.host.layer.receive_packet(PEER, packet, parse_ip(packet), self.now)
        return self.answers()

    def sleep(self, seconds: float) -> list[Segment]:
        """Time passes, deadline by deadline; returns what the host sends meanwhile."""
        end = self.now + seconds
        segments: list[Segment] = []
        while (at := self.host.layer.next_timer()) is not None and at <= end:
            self.now = max(self.now, at)
            self.host.layer.handle_timer(self.now)
            segments += self.answers()
        self.now = end
        return segments

    def open(self, options: TcpOptions = MODERN) -> Connection:
        """The three-way handshake."""
        (syn_ack,) = self.send(SYN, options=options)
        assert syn_ack.flags == SYN | ACK
        self.acknowledgment = syn_ack.header.sequence + 1 & MASK
        self.timestamps = options.timestamp is not None
        self.echo = syn_ack.header.options.timestamp or 0
        assert self.send(ACK) == []
        connection = self.connection
        assert connection.state is TcpState.ESTABLISHED
        return connection

    def in_state(self, state: TcpState, options: TcpOptions = MODERN) -> Connection:
        """A flow of the host's in the given state; TIME_WAIT and CLOSED are records or nothing."""
        if state is TcpState.SYN_SENT:
            connection = self.host.layer.connect(PEER, (self.destination, 80), (self.source, self.port), self.now)
            (syn,) = self.answers()
            self.acknowledgment = syn.header.sequence + 1 & MASK
            return connection
        if state is TcpState.SYN_RECEIVED:
            (syn_ack,) = self.send(SYN, options=options)
            self.acknowledgment = syn_ack.header.sequence + 1 & MASK
            self.timestamps = options.timestamp is not None
            return self.connection
        connection = self.open(options)
        if state in (TcpState.CLOSE_WAIT, TcpState.LAST_ACK):
            self.send(FIN | ACK)
        if state in (
            TcpState.FIN_WAIT_1,
            TcpState.FIN_WAIT_2,
            TcpState.CLOSING,
            TcpState.LAST_ACK,
            TcpState.TIME_WAIT,
        ):
            connection.shutdown(self.now)
            (fin,) = self.answers()
            assert fin.flags == FIN | ACK
            if state is TcpState.CLOSING:
                self.send(FIN | ACK)
            self.acknowledgment = self.acknowledgment + 1 & MASK
            if state in (TcpState.FIN_WAIT_2, TcpState.TIME_WAIT):
                self.send(ACK)
            if state is TcpState.TIME_WAIT:
                self.send(FIN | ACK)
        if state is TcpState.CLOSED:
            connection.abort(self.now)
            self.answers()
        assert connection.state is state
        return connection
