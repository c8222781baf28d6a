"""A peer: who it is, where it is, its sessions, timers and counters. What happens to it is the interface's business."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from lopower.wire.datagrams import Endpoint
from lopower.wire.wireguard import KEY_SIZE, TIMESTAMP_SIZE
from lopower.wireguard.constants import MAX_STAGED_PACKETS
from lopower.wireguard.cookie import CookieGenerator
from lopower.wireguard.events import EndpointChanged, Event
from lopower.wireguard.handshake import NO_PRESHARED_KEY, ConsumedInitiation, CreatedInitiation
from lopower.wireguard.keypair import Keypairs
from lopower.wireguard.timers import Timers

NO_TIMESTAMP: Final = bytes(TIMESTAMP_SIZE)


class Peer:
    """Made by `Interface.add_peer`. Hashable by identity.

    Attributes:
        public_key: 32 bytes.
        context: whatever the owner hung on it.
        endpoint: its outer address, None until known.
        mtu: inner MTU in bytes.
        latest_handshake: when a handshake was last completed, in monotonic seconds, or None.
        last_packet: when an authenticated message last came, in monotonic seconds, or None.
        rx_bytes, tx_bytes: of all messages of sessions and handshakes, with their overhead.
        rx_packets, tx_packets: of sessions' messages that carry a packet.
        counters: handshakes and drops by reason: initiations_received, initiations_sent, responses_sent,
            responses_received, handshakes_completed, timestamp_not_newer, initiation_too_soon, not_authentic, replayed,
            source_not_allowed, session_expired, malformed_packet, queue_dropped.
    """

    __slots__ = (
        "_preshared_key",
        "_static_static",
        "context",
        "cookies",
        "counters",
        "endpoint",
        "handshake",
        "initiation_accepted_at",
        "initiation_sent_at",
        "keypairs",
        "known_generation",
        "known_source_v4",
        "known_source_v6",
        "last_packet",
        "last_timestamp",
        "latest_handshake",
        "mtu",
        "public_key",
        "rekey_on_receive_done",
        "rx_bytes",
        "rx_packets",
        "staged",
        "timers",
        "tx_bytes",
        "tx_packets",
        "unanswered",
    )

    def __init__(
        self,
        *,
        public_key: bytes,
        preshared_key: bytes | None,
        endpoint: Endpoint | None,
        persistent_keepalive: float,
        last_timestamp: bytes | None,
        mtu: int,
        context: Any,
        uniform: Callable[[float, float], float],
    ) -> None:
        if last_timestamp is not None and len(last_timestamp) != TIMESTAMP_SIZE:
            raise ValueError(f"a TAI64N time stamp has {TIMESTAMP_SIZE} bytes, not {len(last_timestamp)}")
        self.public_key = public_key
        self.context = context
        self.endpoint = endpoint
        self.mtu = mtu
        self.latest_handshake: float | None = None
        self.last_packet: float | None = None
        self.rx_bytes = self.tx_bytes = self.rx_packets = self.tx_packets = 0
        self.counters: Counter[str] = Counter()

        self._preshared_key = NO_PRESHARED_KEY
        self.set_preshared_key(preshared_key)
        self._static_static = b""
        self.cookies = CookieGenerator(public_key)
        self.timers = Timers(uniform, persistent_keepalive)
        self.keypairs = Keypairs()
        self.staged: deque[bytes] = deque()
        self.handshake: CreatedInitiation | None = None  # ours, not answered yet
        self.unanswered: ConsumedInitiation | None = None  # the peer's, whose stamp is being stored
        self.last_timestamp = last_timestamp or NO_TIMESTAMP
        self.initiation_accepted_at = float("-inf")
        self.initiation_sent_at = float("-inf")  # or a response, which does as well
        self.rekey_on_receive_done = False

        # A source address that the AllowedIPs table gave to this peer, as the columns of packet rows show it.
        self.known_generation = -1
        self.known_source_v4 = -1
        self.known_source_v6: tuple[int, int, int, int] | None = None

    def __repr__(self) -> str:
        return f"<Peer {b64encode(self.public_key).decode()} at {self.endpoint}>"

    def has_session(self, now: float) -> bool:
        """Whether a packet could be sent at once."""
        return self.keypairs.current is not None and self.keypairs.current.can_send(now)

    @property
    def preshared_key(self) -> bytes:
        """32 bytes, zero if there is none."""
        return self._preshared_key

    def set_preshared_key(self, preshared_key: bytes | None) -> None:
        """From the next handshake on. Raises ValueError unless it has 32 bytes."""
        if preshared_key is not None and len(preshared_key) != KEY_SIZE:
            raise ValueError(f"a preshared key has {KEY_SIZE} bytes, not {len(preshared_key)}")
        self._preshared_key = preshared_key or NO_PRESHARED_KEY

    def reset_timestamp(self) -> None:
        """Accept the next initiation whatever its time stamp: for a device whose clock went back, at its owner's word.

        Until then a recorded initiation could be replayed, once. The stored stamp is the caller's to reset.
        """
        self.last_timestamp = NO_TIMESTAMP

    def static_static(self, compute: Callable[[], bytes]) -> bytes:
        """DH of our static key and the peer's, computed by the first handshake that needs it."""
        if not self._static_static:
            self._static_static = compute()
        return self._static_static

    def set_endpoint(self, endpoint: Endpoint, events: list[Event]) -> None:
        """An authenticated, fresh message came from there."""
        if endpoint is not self.endpoint and endpoint != self.endpoint:
            self.endpoint = endpoint
            events.append(EndpointChanged(self))

    def stage(self, packet: bytes) -> None:
        """Keep a packet until there is a session; the oldest gives way."""
        if len(self.staged) >= MAX_STAGED_PACKETS:
            self.staged.popleft()
            self.counters["queue_dropped"] += 1
        self.staged.append(packet)
