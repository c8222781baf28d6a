"""Which handshake messages may cost a Diffie-Hellman (whitepaper section 5.3): MACs, load, rate limit and a queue.

A turn works on a limited number of them; the rest wait in a bounded queue. An eighth of that queue, or 128 messages,
means "under load", and for one second after: then a message must prove its source address by a mac2, and each address
has its rate.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final, NamedTuple

from lopower.wire.datagrams import Endpoint, Transmit
from lopower.wire.wireguard import MAC_SIZE, TYPE_INITIATION
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.constants import MAX_RECENT, REKEY_TIMEOUT, UNDER_LOAD_AFTER_TIME
from lopower.wireguard.cookie import CookieChecker
from lopower.wireguard.ratelimit import RateLimiter

UNDER_LOAD_SHARE: Final = 8
UNDER_LOAD_QUEUED: Final = 128
"""The queue is a sign of load from one part in so many on, and from so many messages on: then addresses are proven."""

MAX_WAIT: Final = REKEY_TIMEOUT - 1.0
"""Seconds in the queue after which nobody waits for the answer any more: the sender, and the answer's way, need theirs.
A slow host with a full queue would otherwise work on nothing but what has been sent anew already."""

MAX_ADDRESSES: Final = 4096
"""Sources whose address is kept in its packed form; more than that many who prove theirs at once start it anew."""

_NO_MAC2: Final = bytes(MAC_SIZE)


class HandshakeMessage(NamedTuple):
    """An initiation or a response of the right size, whose MACs have been found good enough."""

    message_type: int
    message: bytes
    endpoint: Endpoint
    arrived: float


class Admission:
    """Admits handshake messages to the queue, and hands them out within the budget of a turn.

    Attributes:
        recent_wrong_mac1: `(endpoint, now)` of those who sent an initiation for another public key than ours.
    """

    __slots__ = (
        "_addresses",
        "_budget",
        "_checker",
        "_config",
        "_drops",
        "_limiter",
        "_queue",
        "_transmit",
        "_under_load_until",
        "recent_wrong_mac1",
    )

    def __init__(
        self,
        *,
        public_key: bytes,
        config: InterfaceConfig,
        entropy: Callable[[int], bytes],
        transmit: Transmit,
        drops: Counter[str],
    ) -> None:
        self._config = config
        self._checker = CookieChecker(public_key, entropy)
        self._limiter = RateLimiter(config.rate_limit_exempt)
        self._addresses: dict[str, bytes] = {}
        self._transmit = transmit
        self._drops = drops
        self._queue: deque[HandshakeMessage] = deque()
        self._budget = config.handshakes_per_turn
        self._under_load_until = float("-inf")
        self.recent_wrong_mac1: deque[tuple[Endpoint, float]] = deque(maxlen=MAX_RECENT)

    def __bool__(self) -> bool:
        """Whether messages wait for their turn."""
        return bool(self._queue)

    def is_under_load(self, now: float) -> bool:
        return now < self._under_load_until

    def set_rate_limit_exempt(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        """Sources in these networks have no rate from now on."""
        self._limiter.set_exempt(networks)

    def begin_turn(self, now: float) -> None:
        """The budget is whole again."""
        self._budget = self._config.handshakes_per_turn
        if self._queue:
            self._note_load(now)

    def add(self, message_type: int, message: bytes, endpoint: Endpoint, now: float) -> None:
        """Check a message's MACs; queue it, answer with a cookie, or drop it."""
        if not self._checker.has_valid_mac1(message):
            self._drops["wrong_mac1"] += 1
            if message_type == TYPE_INITIATION:
                self.recent_wrong_mac1.append((endpoint, now))
            return
        if self.is_under_load(now) and not self._may_pass_load(message, endpoint, now):
            return
        if len(self._queue) >= self._config.max_queued_handshakes:
            self._drops["under_load_dropped"] += 1
            return
        self._queue.append(HandshakeMessage(message_type, message, endpoint, now))
        self._note_load(now)

    def take(self, now: float) -> HandshakeMessage | None:
        """The next message that this turn may work on; those that waited too long are dropped on the way."""
        queue = self._queue
        while queue and now - queue[0].arrived > MAX_WAIT:
            queue.popleft()
            self._drops["under_load_dropped"] += 1
        if not queue or not self._budget:
            return None
        self._budget -= 1
        return queue.popleft()

    def _note_load(self, now: float) -> None:
        queued = len(self._queue)
        if queued >= UNDER_LOAD_QUEUED or queued * UNDER_LOAD_SHARE >= self._config.max_queued_handshakes:
            self._under_load_until = now + UNDER_LOAD_AFTER_TIME

    def _may_pass_load(self, message: bytes, endpoint: Endpoint, now: float) -> bool:
        # The cookie binds address and port, and only we ever read them out of it: text does, and needs no parsing for
        # each message of a flood. The rate is by address or /64, but only what has been proven gets that far.
        source = f"{endpoint.host} {endpoint.port}".encode()
        has_none = message.endswith(_NO_MAC2)
        if has_none or not self._checker.has_valid_mac2(message, source, now):
            self._drops["under_load_dropped" if has_none else "wrong_mac2"] += 1
            self._drops["cookie_replies_sent"] += 1
            reply = self._checker.reply_to(message, source, now)
            self._transmit(memoryview(reply), len(reply), endpoint)
            return False
        if not self._limiter.allow(self._packed(endpoint.host), now):
            self._drops["rate_limited"] += 1
            return False
        return True

    def _packed(self, host: str) -> bytes:
        packed = self._addresses.get(host)
        if packed is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._addresses.clear()
            packed = self._addresses[host] = ip_address(host.partition("%")[0]).packed
        return packed
