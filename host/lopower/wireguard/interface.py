"""The WireGuard interface: peers, what they send, what is sent to them; initiator and responder, without any I/O.

Datagrams come in batches (`receive`), packets go out in rows or singly (`send_rows`, `send_packets`), both in the
order in which they came. The owner stores accepted time stamps (`TimestampsAccepted`, `timestamps_stored`), takes the
events and calls `handle_timer` at `next_timer`; calling it early is harmless. A clock that goes back stands still
here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from lopower.wire import buffers
from lopower.wire.datagrams import DatagramBatch, Endpoint, Transmit
from lopower.wire.rows import PacketBatch, PacketRows
from lopower.wire.wireguard import (
    HANDSHAKE_SIZES,
    KEY_SIZE,
    TRANSPORT_OVERHEAD,
    TYPE_COOKIE_REPLY,
    TYPE_INITIATION,
    TYPE_TRANSPORT,
)
from lopower.wireguard.admission import Admission
from lopower.wireguard.allowed_ips import AllowedIPs, NetworkLike
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.constants import (
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
)
from lopower.wireguard.events import Event, HandshakeFailed, SessionEstablished
from lopower.wireguard.inner import SourceFilter
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.negotiation import Negotiator
from lopower.wireguard.opening import COLUMN_MINIMUM, Opener
from lopower.wireguard.peer import Peer
from lopower.wireguard.sealing import MAX_BUFFER, Sealer
from lopower.wireguard.timers import NEVER, TimerQueue

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_PACKET: Final = MAX_BUFFER - TRANSPORT_OVERHEAD
"""Largest packet that a UDP datagram can carry."""


class Interface:
    """See the module. All `now` are monotonic seconds; inner addresses are packed (4 or 16 bytes).

    Attributes:
        public_key: ours.
        peers: by public key.
        counters: drops by reason: malformed, wrong_mac1, wrong_mac2, unknown_public_key, unknown_index,
            handshake_not_authentic, under_load_dropped, rate_limited; and cookie_replies_sent.
        recent_unknown: `(public key, endpoint, now)` of strangers' initiations, the latest 64.
        recent_wrong_mac1: `(endpoint, now)` of initiations for another public key than ours, the latest 64.
    """

    def __init__(
        self,
        *,
        private_key: bytes,
        config: InterfaceConfig,
        entropy: Callable[[int], bytes],
        uniform: Callable[[float, float], float],
        timestamp: Callable[[], bytes],
        transmit: Transmit,
    ) -> None:
        """An interface without peers.

        Args:
            private_key: 32 bytes.
            config: settings.
            entropy: `n` cryptographically secure random bytes.
            uniform: a random number between two bounds, for jitter.
            timestamp: our own TAI64N stamps of 12 bytes, strictly increasing over restarts.
            transmit: how datagrams leave.

        Raises:
            ValueError: the key has not 32 bytes.
        """
        self.counters: Counter[str] = Counter()
        self._config = config
        self._uniform = uniform
        self._transmit = transmit
        self._now = 0.0
        self._peers: dict[bytes, Peer] = {}
        self.peers: Mapping[bytes, Peer] = MappingProxyType(self._peers)
        self._keypairs: dict[int, Keypair] = {}
        self._events: list[Event] = []
        self._allowed_ips = AllowedIPs()
        self._timers = TimerQueue()
        self._sealer = Sealer(transmit)
        self._opener = Opener(
            packets=PacketBatch(PacketRows(config.rows, config.row_stride)),
            keypairs=self._keypairs,
            source_filter=SourceFilter(self._allowed_ips),
            received=self._received,
            divert=self._diverted,
            drops=self.counters,
        )
        self._negotiator = Negotiator(
            private_key=private_key,
            peers=self._peers,
            keypairs=self._keypairs,
            entropy=entropy,
            timestamp=timestamp,
            transmit=transmit,
            drops=self.counters,
            events=self._events,
            established=self._established,
        )
        self.public_key = self._negotiator.public_key
        self._admission = Admission(
            public_key=self.public_key, config=config, entropy=entropy, transmit=transmit, drops=self.counters
        )
        self.recent_unknown: deque[tuple[bytes, Endpoint, float]] = self._negotiator.recent_unknown
        self.recent_wrong_mac1: deque[tuple[Endpoint, float]] = self._admission.recent_wrong_mac1

    # ------------------------------------------------------------------ peers

    def add_peer(
        self,
        public_key: bytes,
        *,
        preshared_key: bytes | None = None,
        allowed_ips: Iterable[NetworkLike] = (),
        endpoint: Endpoint | None = None,
        persistent_keepalive: float | None = None,
        last_timestamp: bytes | None = None,
        mtu: int | None = None,
        context: Any = None,
    ) -> Peer:
        """A new peer.

        Args:
            public_key: 32 bytes.
            preshared_key: 32 bytes or None.
            allowed_ips: inner networks that become its own; one that another peer had moves.
            endpoint: where to reach it, if known.
            persistent_keepalive: seconds, None or 0: no keepalives.
            last_timestamp: the greatest TAI64N stamp accepted from it before, as it was stored.
            mtu: inner MTU in bytes; None: the interface's.
            context: for `Peer.context`.

        Raises:
            ValueError: a key of wrong length, our own public key, a key that another peer has, or not a network.
        """
        if len(public_key) != KEY_SIZE:
            raise ValueError(f"a public key has {KEY_SIZE} bytes, not {len(public_key)}")
        if public_key == self.public_key:
            raise ValueError("this public key is our own")
        if public_key in self._peers:
            raise ValueError("another peer has this public key")
        peer = Peer(
            public_key=bytes(public_key),
            preshared_key=preshared_key,
            endpoint=endpoint,
            persistent_keepalive=persistent_keepalive or 0,
            last_timestamp=last_timestamp,
            mtu=mtu or self._config.mtu,
            context=context,
            uniform=self._uniform,
        )
        self._allowed_ips.insert(allowed_ips, peer)
        self._peers[peer.public_key] = peer
        if peer.timers.persistent_keepalive_interval and endpoint is not None:
            peer.timers.persistent_keepalive = self._now
            self._timers.update(peer)
        return peer

    def remove_peer(self, public_key: bytes) -> None:
        """Forget a peer, its sessions and what is queued for it. Raises KeyError if there is none."""
        peer = self._peers.pop(public_key)
        self._allowed_ips.remove_peer(peer)
        self._negotiator.forget_keys(peer)
        peer.staged.clear()
        self._timers.forget(peer)

    def set_allowed_ips(self, peer: Peer, allowed_ips: Iterable[NetworkLike]) -> None:
        """Replace a peer's inner networks; its session goes on. Raises ValueError, having changed nothing."""
        networks = list(allowed_ips)
        before = self._allowed_ips.networks(peer)
        self._allowed_ips.remove_peer(peer)
        try:
            self._allowed_ips.insert(networks, peer)
        except ValueError:
            self._allowed_ips.insert(before, peer)
            raise

    def set_rate_limit_exempt(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        """As `InterfaceConfig.rate_limit_exempt`, from now on."""
        self._admission.set_rate_limit_exempt(networks)

    def peer_for(self, destination: bytes) -> Peer | None:
        """Whose inner address this is."""
        return self._allowed_ips.lookup(destination)

    # ------------------------------------------------------------------ in

    def release_unused(self) -> None:
        """Give up what the last packets occupied; not within a turn."""
        self._opener.packets.clear()
        buffers.discard(self._opener.packets.rows.buffer)

    def receive(self, batch: DatagramBatch, now: float) -> PacketBatch:
        """Process the datagrams of one turn, and return their packets; what is bad is counted and dropped."""
        now = self._begin_turn(now)
        opener = self._opener
        opener.begin(batch)
        data_opener = opener.open_one if self._is_small(batch) else opener.add_one
        buffer = batch.buffer
        for offset, length, segment, endpoint in zip(
            batch.offsets, batch.lengths, batch.segment_sizes, batch.endpoints, strict=True
        ):
            if not length:
                self.counters["malformed"] += 1
                continue
            end = offset + length
            whole = length // segment
            if whole >= COLUMN_MINIMUM and buffer[offset] == TYPE_TRANSPORT:
                opener.add(offset, segment, whole, endpoint, now)
                offset += whole * segment
            for at in range(offset, end, segment):
                size = min(segment, end - at)
                if buffer[at] == TYPE_TRANSPORT:
                    data_opener(at, size, endpoint, now)
                else:
                    self._receive_handshake(bytes(batch.view[at : at + size]), endpoint, now)
        opener.flush()
        return opener.packets

    @staticmethod
    def _is_small(batch: DatagramBatch) -> bool:
        """Whether the turn has too few messages for columns to be worth their set-up."""
        lengths = batch.lengths
        if len(lengths) >= COLUMN_MINIMUM:
            return False
        messages = 0
        for length, segment in zip(lengths, batch.segment_sizes, strict=True):
            messages += 1 if length <= segment else -(-length // segment)
        return messages < COLUMN_MINIMUM

    def _diverted(self, offset: int, size: int, endpoint: Endpoint) -> None:
        self._receive_handshake(self._opener.message(offset, size), endpoint, self._now)

    def _receive_handshake(self, message: bytes, endpoint: Endpoint, now: float) -> None:
        message_type = int.from_bytes(message[:4], "little")
        if len(message) != HANDSHAKE_SIZES.get(message_type, -1):
            self.counters["malformed"] += 1
            return
        if message_type == TYPE_COOKIE_REPLY:
            self._negotiator.receive_cookie_reply(message, now)
            return
        self._admission.add(message_type, message, endpoint, now)
        if self._admission:
            self._opener.flush()  # what came before may belong to a session that this message replaces
            self._work_on_handshakes(now)

    def _work_on_handshakes(self, now: float) -> None:
        while (admitted := self._admission.take(now)) is not None:
            message_type, message, endpoint, _ = admitted
            if message_type == TYPE_INITIATION:
                self._negotiator.receive_initiation(message, endpoint, now)
                continue
            peer = self._negotiator.receive_response(message, endpoint, now)
            if peer is not None:
                self._timers.update(peer)

    def _received(self, keypair: Keypair, endpoint: Endpoint, messages: int, size: int, packets: int) -> None:
        """Authentic, fresh messages of a session: so many, of so many bytes together, `packets` of them not empty."""
        now = self._now
        peer = keypair.peer
        peer.rx_bytes += size
        peer.rx_packets += packets
        peer.last_packet = now
        peer.set_endpoint(endpoint, self._events)
        if keypair is peer.keypairs.next:
            self._negotiator.confirm(peer, now)
        timers = peer.timers
        timers.any_authenticated_packet_received(now)
        if packets:
            timers.data_received(now)
            if packets > 1:
                timers.data_received(now)
        current = peer.keypairs.current
        if (
            current is not None
            and current.is_initiator
            and not peer.rekey_on_receive_done
            and current.created_at + REKEY_AFTER_TIME_RECEIVING <= now < current.created_at + REJECT_AFTER_TIME
        ):
            peer.rekey_on_receive_done = True
            self._negotiator.initiate(peer, now)
        self._timers.update(peer)

    # ------------------------------------------------------------------ out

    def send_packets(self, peer: Peer, packets: Sequence[Buffer], now: float) -> None:
        """Send packets to a peer, in order; without a session, copy and queue them and initiate.

        Raises ValueError for a packet that no datagram can carry (more than 65,475 bytes).
        """
        now = self._advance(now)
        if not packets:
            return
        for packet in packets:
            if memoryview(packet).nbytes > MAX_PACKET:
                raise ValueError(f"a packet of {memoryview(packet).nbytes} bytes: at most {MAX_PACKET}")
        keypair = peer.keypairs.current
        endpoint = peer.endpoint
        if keypair is None or endpoint is None or not keypair.can_send(now, len(packets)):
            self._stage(peer, map(bytes, packets), now)
            return
        size = self._sealer.seal_packets(keypair, endpoint, packets, peer.mtu)
        self._sent(peer, keypair, len(packets), size, now)

    def send_rows(
        self, peer: Peer, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        """Send rows `[first, first + count)`: all `packet_length` bytes long, the last one `last_length` or less.

        Without a session they are copied and queued. What lies behind a packet in its row, up to a multiple of 16, is
        zeroed. Raises ValueError if the last row is longer than the others, or the padded packet than a row.
        """
        now = self._advance(now)
        if count < 1:
            return
        if last_length > packet_length or packet_length > rows.stride:
            raise ValueError(f"rows of {packet_length}, the last of {last_length}, in a stride of {rows.stride} bytes")
        keypair = peer.keypairs.current
        endpoint = peer.endpoint
        if keypair is None or endpoint is None or not keypair.can_send(now, count):
            lengths = [packet_length] * (count - 1) + [last_length]
            self._stage(peer, (bytes(rows.packet(first + i, length)) for i, length in enumerate(lengths)), now)
            return
        size = self._sealer.seal_rows(keypair, endpoint, rows, first, count, packet_length, last_length, peer.mtu)
        self._sent(peer, keypair, count, size, now)

    def connect(self, peer: Peer, now: float) -> None:
        """Initiate, if there is an endpoint and no live session."""
        now = self._advance(now)
        if peer.endpoint is not None and not peer.has_session(now):
            self._negotiator.initiate(peer, now)
            self._timers.update(peer)

    def _sent(self, peer: Peer, keypair: Keypair, packets: int, size: int, now: float) -> None:
        """So many packets (0: a keepalive) have left on the session, in messages of `size` bytes together."""
        peer.tx_bytes += size
        peer.tx_packets += packets
        timers = peer.timers
        timers.any_authenticated_packet_sent(now)
        if packets:
            timers.data_sent(now)
        if keypair.send_counter >= REKEY_AFTER_MESSAGES or (
            keypair.is_initiator and now >= keypair.created_at + REKEY_AFTER_TIME
        ):
            self._negotiator.initiate(peer, now)
        self._timers.update(peer)

    def _stage(self, peer: Peer, packets: Iterable[bytes], now: float) -> None:
        """There is no session: keep what can be kept, and ask for one. Without an endpoint nothing can be done."""
        if peer.endpoint is None or self._peers.get(peer.public_key) is not peer:
            peer.counters["queue_dropped"] += sum(1 for _ in packets)
            return
        for packet in packets:
            peer.stage(packet)
        self._negotiator.initiate(peer, now)
        self._timers.update(peer)

    def _send_staged(self, peer: Peer, now: float) -> bool:
        """Send what waited for a session; False: there was nothing."""
        keypair, endpoint = peer.keypairs.current, peer.endpoint
        if not peer.staged or keypair is None or endpoint is None or not keypair.can_send(now, len(peer.staged)):
            return False
        packets = list(peer.staged)
        peer.staged.clear()
        size = self._sealer.seal_packets(keypair, endpoint, packets, peer.mtu)
        self._sent(peer, keypair, len(packets), size, now)
        return True

    def _send_keepalive(self, peer: Peer, now: float) -> None:
        """An empty message; without a session, a handshake."""
        keypair, endpoint = peer.keypairs.current, peer.endpoint
        if keypair is None or endpoint is None or not keypair.can_send(now):
            self._negotiator.initiate(peer, now)
        elif not self._send_staged(peer, now):
            size = self._sealer.seal_packets(keypair, endpoint, (b"",), peer.mtu)
            self._sent(peer, keypair, 0, size, now)

    def _established(self, peer: Peer, now: float) -> None:
        """A handshake is complete. As its initiator we confirm it at once, with data or with a keepalive."""
        self._events.append(SessionEstablished(peer))
        keypair = peer.keypairs.current
        if not self._send_staged(peer, now) and keypair is not None and keypair.is_initiator:
            self._send_keepalive(peer, now)

    # ------------------------------------------------------------------ time

    def timestamps_stored(self, token: int, now: float) -> None:
        """The stamps of this `TimestampsAccepted` are durable: answer the initiations. An unknown token is ignored."""
        now = self._advance(now)
        for peer in self._negotiator.respond(token, now):
            self._timers.update(peer)

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        self._negotiator.commit_timestamps(self._now)
        events = self._events.copy()
        self._events.clear()
        return events

    def next_timer(self) -> float | None:
        """When to call `handle_timer`, in monotonic seconds; None: no timer is pending."""
        return self._now if self._admission else self._timers.next_deadline()

    def handle_timer(self, now: float) -> None:
        """Do what is due, for 32 peers at most: what is left, `next_timer` tells at once."""
        now = self._begin_turn(now)
        for peer in self._timers.take_due(now, len(self._peers)):
            self._handle_peer_timers(peer, now)
            self._timers.update(peer)

    def _handle_peer_timers(self, peer: Peer, now: float) -> None:
        timers = peer.timers
        if now >= timers.zero_key_material:
            timers.zero_key_material = NEVER
            self._negotiator.forget_keys(peer)
        if now >= timers.retransmit_handshake and not self._negotiator.retransmit(peer, now):
            peer.counters["queue_dropped"] += len(peer.staged)
            peer.staged.clear()
            self._events.append(HandshakeFailed(peer))
        if now >= timers.send_keepalive:
            timers.keepalive_due(now)
            again = timers.send_keepalive
            self._send_keepalive(peer, now)
            timers.send_keepalive = again
        if now >= timers.new_handshake:
            timers.new_handshake = NEVER
            self._negotiator.initiate(peer, now, forget_local=True)
        if now >= timers.persistent_keepalive:
            timers.persistent_keepalive = now + timers.persistent_keepalive_interval
            self._send_keepalive(peer, now)

    def _begin_turn(self, now: float) -> float:
        """The clock, and the handshakes that did not fit into the turns before."""
        now = self._advance(now)
        self._admission.begin_turn(now)
        if self._admission:
            self._work_on_handshakes(now)
        return now

    def _advance(self, now: float) -> float:
        if now > self._now:
            self._now = now
        return self._now
