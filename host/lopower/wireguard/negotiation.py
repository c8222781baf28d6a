"""Handshakes of an interface's peers, in both roles: from admitted messages to keypairs (whitepaper 5.4 and 6).

A message that fails changes nothing: Noise states are values, and what a message leads to is committed after its last
check. Our own initiation and the peer's are kept apart, so that crossing ones both complete; then the session of the
initiator with the greater public key takes over on both sides, and the other one stays good for what is under way.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from lopower.wire.datagrams import Endpoint, Transmit
from lopower.wire.wireguard import INITIATION_SIZE, RESPONSE_SIZE, CookieReply
from lopower.wireguard import handshake
from lopower.wireguard.constants import INITIATION_INTERVAL, MAX_RECENT, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT
from lopower.wireguard.events import Event, TimestampsAccepted
from lopower.wireguard.handshake import ConsumedInitiation, LocalIdentity
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.noise import NoiseError, TransportKeys, diffie_hellman
from lopower.wireguard.peer import Peer

MAX_UNANSWERED: Final = 8192
"""Accepted initiations whose stamps are being stored; a disk that stands still must not fill memory with them."""


class _UnknownPublicKeyError(NoiseError):
    """The initiation is of somebody who is no peer."""


class Negotiator:
    """See the module. `established(peer, now)` is called when a handshake is complete.

    Attributes:
        public_key: ours.
        recent_unknown: `(public key, endpoint, now)` of strangers' initiations.
    """

    def __init__(
        self,
        *,
        private_key: bytes,
        peers: Mapping[bytes, Peer],
        keypairs: dict[int, Keypair],
        entropy: Callable[[int], bytes],
        timestamp: Callable[[], bytes],
        transmit: Transmit,
        drops: Counter[str],
        events: list[Event],
        established: Callable[[Peer, float], None],
    ) -> None:
        self._identity = LocalIdentity(private_key)
        self.public_key = self._identity.key.public
        self._peers = peers
        self._keypairs = keypairs
        self._handshakes: dict[int, Peer] = {}  # by the index of our own initiation
        self._entropy = entropy
        self._timestamp = timestamp
        self._transmit = transmit
        self._drops = drops
        self._events = events
        self._established = established
        self._accepted: dict[Peer, tuple[ConsumedInitiation, Endpoint]] = {}  # of this turn
        self._storing: dict[int, tuple[float, dict[Peer, tuple[ConsumedInitiation, Endpoint]]]] = {}  # by token
        self._unanswered = 0  # entries in the two together
        self._token = 0
        self.recent_unknown: deque[tuple[bytes, Endpoint, float]] = deque(maxlen=MAX_RECENT)

    # ------------------------------------------------------------------ initiator

    def initiate(self, peer: Peer, now: float, *, forget_local: bool = False) -> None:
        """Somebody wants a handshake: send an initiation, unless less than five seconds ago one was sent.

        Args:
            peer: with whom; without an endpoint nothing happens.
            now: monotonic seconds.
            forget_local: the peer does not answer, perhaps because our address has changed: let the kernel choose it.
        """
        if peer.endpoint is None or self._peers.get(peer.public_key) is not peer:
            return
        if forget_local:
            peer.endpoint = peer.endpoint._replace(local=b"")
        peer.timers.handshake_wanted(now, peer.initiation_sent_at)
        if now >= peer.initiation_sent_at + REKEY_TIMEOUT:
            self._send_initiation(peer, peer.endpoint, now)

    def retransmit(self, peer: Peer, now: float) -> bool:
        """Nobody answered: send another initiation. False: for ninety seconds, and it is given up."""
        if now >= peer.timers.attempt_started + REKEY_ATTEMPT_TIME or peer.endpoint is None:
            peer.timers.handshake_given_up(now)
            self._forget_handshake(peer)
            return False
        peer.endpoint = peer.endpoint._replace(local=b"")
        if now >= peer.initiation_sent_at + REKEY_TIMEOUT:
            self._send_initiation(peer, peer.endpoint, now)
        else:
            peer.timers.handshake_initiated(peer.initiation_sent_at)
        return True

    def _send_initiation(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        peer.initiation_sent_at = now
        peer.timers.handshake_initiated(now)
        index = self._new_index()
        try:
            message, created = self._identity.create_initiation(
                remote_static=peer.public_key,
                static_static=self._static_static(peer),
                ephemeral_private=self._entropy(32),
                local_index=index,
                timestamp=self._timestamp(),
                now=now,
            )
        except NoiseError:  # a public key of low order: nobody can answer
            return
        self._forget_handshake(peer)
        peer.handshake = created
        self._handshakes[index] = peer
        peer.counters["initiations_sent"] += 1
        self._send(peer, message, endpoint, now)

    def receive_response(self, message: bytes, endpoint: Endpoint, now: float) -> Peer | None:
        """Process an admitted response; returns the peer, if it completed our handshake."""
        peer = self._handshakes.get(int.from_bytes(message[8:12], "little"))
        if peer is None or peer.handshake is None:
            self._drops["unknown_index"] += 1
            return None
        created = peer.handshake
        try:
            remote_index, keys = handshake.consume_response(message, created, peer.preshared_key)
        except NoiseError:
            self._drops["handshake_not_authentic"] += 1
            return None
        del self._handshakes[created.local_index]
        peer.handshake = None
        peer.counters["responses_received"] += 1
        self._heard(peer, RESPONSE_SIZE, endpoint, now)
        keypair = self._new_keypair(peer, keys, created.local_index, remote_index, is_initiator=True, now=now)
        waiting = peer.keypairs.next
        crossed = waiting is not None and waiting.created_at >= created.created_at
        self._forget(peer.keypairs.add_initiated(keypair, keep_next=crossed and peer.public_key > self.public_key))
        self._complete(peer, now)
        return peer

    # ------------------------------------------------------------------ responder

    def receive_initiation(self, message: bytes, endpoint: Endpoint, now: float) -> None:
        """Process an admitted initiation. If it is accepted, its answer waits for `commit_timestamps` and `respond`."""
        stranger = b""

        def static_static(public_key: bytes) -> bytes:
            nonlocal stranger
            known = self._peers.get(public_key)
            if known is None:
                stranger = public_key
                raise _UnknownPublicKeyError
            return self._static_static(known)

        try:
            consumed = self._identity.consume_initiation(message, static_static)
        except _UnknownPublicKeyError:
            self._drops["unknown_public_key"] += 1
            self.recent_unknown.append((stranger, endpoint, now))
            return
        except NoiseError:
            self._drops["handshake_not_authentic"] += 1
            return
        peer = self._peers[consumed.remote_static]
        if consumed.timestamp <= peer.last_timestamp:
            peer.counters["timestamp_not_newer"] += 1
            return
        if now < peer.initiation_accepted_at + INITIATION_INTERVAL:
            peer.counters["initiation_too_soon"] += 1
            return
        if self._unanswered >= MAX_UNANSWERED:
            self._drops["under_load_dropped"] += 1
            return
        peer.counters["initiations_received"] += 1
        peer.rx_bytes += INITIATION_SIZE
        peer.last_timestamp = consumed.timestamp
        peer.initiation_accepted_at = now
        peer.unanswered = consumed
        if peer not in self._accepted:
            self._unanswered += 1
        self._accepted[peer] = (consumed, endpoint)

    def commit_timestamps(self, now: float) -> None:
        """Announce the stamps that were accepted since the last call, all together."""
        self._forget_unstored(now)
        if not self._accepted:
            return
        self._token += 1
        self._storing[self._token] = (now, self._accepted)
        stamps = tuple((peer, consumed.timestamp) for peer, (consumed, _) in self._accepted.items())
        self._accepted = {}
        self._events.append(TimestampsAccepted(self._token, stamps))

    def respond(self, token: int, now: float) -> list[Peer]:
        """The stamps under this token are durable: answer, unless a later initiation took the place of one.

        Returns the peers that were answered.
        """
        _, initiations = self._storing.pop(token, (now, {}))
        self._unanswered -= len(initiations)
        answered = []
        for peer, (consumed, endpoint) in initiations.items():
            if peer.unanswered is consumed and self._peers.get(peer.public_key) is peer:
                peer.unanswered = None
                self._send_response(peer, consumed, endpoint, now)
                answered.append(peer)
        return answered

    def _send_response(self, peer: Peer, consumed: ConsumedInitiation, endpoint: Endpoint, now: float) -> None:
        index = self._new_index()
        try:
            message, keys = handshake.create_response(
                consumed, ephemeral_private=self._entropy(32), preshared_key=peer.preshared_key, local_index=index
            )
        except NoiseError:
            self._drops["handshake_not_authentic"] += 1
            return
        self._heard(peer, 0, endpoint, now)
        keypair = self._new_keypair(peer, keys, index, consumed.remote_index, is_initiator=False, now=now)
        self._forget(peer.keypairs.add_responded(keypair))
        peer.initiation_sent_at = now
        peer.counters["responses_sent"] += 1
        self._send(peer, message, endpoint, now)

    def _forget_unstored(self, now: float) -> None:
        """Stamps that could not be stored in time: by now their peers have sent another initiation."""
        while self._storing:
            token, (since, initiations) = next(iter(self._storing.items()))
            if now < since + REKEY_TIMEOUT:
                return
            del self._storing[token]
            self._unanswered -= len(initiations)

    # ------------------------------------------------------------------ both

    def confirm(self, peer: Peer, now: float) -> None:
        """An authenticated message came on the session that we made as responder."""
        self._forget(peer.keypairs.confirm_next())
        self._complete(peer, now)

    def receive_cookie_reply(self, message: bytes, now: float) -> None:
        """Keep the cookie for the next handshake message; nothing else comes of it."""
        reply = CookieReply.parse(message)
        peer = self._handshakes.get(reply.receiver_index)
        if peer is None:
            keypair = self._keypairs.get(reply.receiver_index)
            if keypair is None:
                self._drops["unknown_index"] += 1
                return
            peer = keypair.peer
        if not peer.cookies.consume_reply(reply, now):
            self._drops["handshake_not_authentic"] += 1

    def forget_keys(self, peer: Peer) -> None:
        """Drop all of a peer's key material."""
        self._forget_handshake(peer)
        peer.unanswered = None
        self._forget(peer.keypairs.clear())

    def _complete(self, peer: Peer, now: float) -> None:
        peer.timers.handshake_complete()
        peer.rekey_on_receive_done = False
        peer.latest_handshake = now
        peer.counters["handshakes_completed"] += 1
        self._established(peer, now)

    def _heard(self, peer: Peer, size: int, endpoint: Endpoint, now: float) -> None:
        """An authentic handshake message of the peer, fresh by its stamp or as the answer to ours."""
        peer.rx_bytes += size
        peer.last_packet = now
        peer.set_endpoint(endpoint, self._events)
        peer.timers.any_authenticated_packet_received(now)

    def _send(self, peer: Peer, message: bytes, endpoint: Endpoint, now: float) -> None:
        message = peer.cookies.add_macs(message, now)
        peer.tx_bytes += len(message)
        peer.timers.any_authenticated_packet_sent(now)
        self._transmit(memoryview(message), len(message), endpoint)

    def _static_static(self, peer: Peer) -> bytes:
        return peer.static_static(lambda: diffie_hellman(self._identity.key.private, peer.public_key))

    def _new_keypair(
        self, peer: Peer, keys: TransportKeys, local_index: int, remote_index: int, *, is_initiator: bool, now: float
    ) -> Keypair:
        keypair = Keypair(
            peer, keys, local_index=local_index, remote_index=remote_index, is_initiator=is_initiator, now=now
        )
        self._keypairs[local_index] = keypair
        peer.timers.session_derived(now)
        return keypair

    def _new_index(self) -> int:
        """32 random bits that no handshake and no session of ours has."""
        while True:
            index = int.from_bytes(self._entropy(4), "little")
            if index not in self._handshakes and index not in self._keypairs:
                return index

    def _forget_handshake(self, peer: Peer) -> None:
        if peer.handshake is not None:
            del self._handshakes[peer.handshake.local_index]
            peer.handshake = None

    def _forget(self, keypairs: tuple[Keypair, ...]) -> None:
        for keypair in keypairs:
            del self._keypairs[keypair.local_index]
