"""Sessions: a keypair of transport keys, and which of a peer's keypairs is in use (whitepaper sections 5.4.5 and 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lopower.wire.wireguard import TYPE_TRANSPORT
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME
from lopower.wireguard.noise import TransportKeys
from lopower.wireguard.replay import ReplayWindow

if TYPE_CHECKING:
    from lopower.wireguard.peer import Peer


class Keypair:
    """One session.

    Attributes:
        peer: whose.
        local_index, remote_index: the receiver indices, ours and the peer's.
        tag: the first eight bytes of each message that we receive on it, as a little-endian u64.
        is_initiator: whether the handshake was ours.
        created_at: monotonic seconds.
        send_counter: of the next message that we send.
        encrypt_into, decrypt_into: ChaCha20-Poly1305 as `(nonce, data, None, output)`.
        replay: the counters received so far.
    """

    __slots__ = (
        "created_at",
        "decrypt_into",
        "encrypt_into",
        "is_initiator",
        "local_index",
        "peer",
        "remote_index",
        "replay",
        "send_counter",
        "tag",
    )

    def __init__(
        self, peer: Peer, keys: TransportKeys, *, local_index: int, remote_index: int, is_initiator: bool, now: float
    ) -> None:
        self.peer = peer
        self.local_index = local_index
        self.remote_index = remote_index
        self.tag = local_index << 32 | TYPE_TRANSPORT
        self.is_initiator = is_initiator
        self.created_at = now
        self.send_counter = 0
        self.encrypt_into = ChaCha20Poly1305(keys.send).encrypt_into
        self.decrypt_into = ChaCha20Poly1305(keys.receive).decrypt_into
        self.replay = ReplayWindow()

    def __repr__(self) -> str:
        role = "initiator" if self.is_initiator else "responder"
        return f"<Keypair {self.local_index:#010x} {role}>"

    def is_expired(self, now: float) -> bool:
        """Too old to send or receive on."""
        return now >= self.created_at + REJECT_AFTER_TIME

    def can_send(self, now: float, count: int = 1) -> bool:
        """Whether `count` more messages may be sent on it."""
        return now < self.created_at + REJECT_AFTER_TIME and self.send_counter + count <= REJECT_AFTER_MESSAGES


class Keypairs:
    """A peer's sessions.

    Attributes:
        current: what we send on.
        next: made as responder, unused until the peer's first authenticated message on it.
        previous: no longer sent on, newest first, still good for what is under way. Two, because when initiations cross
            both the session that lost and the one before carry the peer's messages for a moment.
    """

    __slots__ = ("current", "next", "previous")

    MAX_PREVIOUS: Final = 2

    def __init__(self) -> None:
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self.previous: tuple[Keypair, ...] = ()

    def add_initiated(self, keypair: Keypair, *, keep_next: bool) -> tuple[Keypair, ...]:
        """Our initiation was answered: send on `keypair` from now on. Returns the keypairs to forget.

        Args:
            keypair: the new session.
            keep_next: initiations crossed and the peer's has precedence: its session stays `next`, so that it takes
                over as soon as the peer confirms it. Else what was `next` is retired without having been current.
        """
        unused = None if keep_next else self.next
        if unused:
            self.next = None
        forgotten = self._retire(unused, self.current)
        self.current = keypair
        return forgotten

    def add_responded(self, keypair: Keypair) -> tuple[Keypair, ...]:
        """We answered an initiation: `keypair` waits for the peer's confirmation. Returns the keypairs to forget."""
        forgotten = (*self.previous, self.next) if self.next else self.previous
        self.previous = ()
        self.next = keypair
        return forgotten

    def confirm_next(self) -> tuple[Keypair, ...]:
        """An authenticated message came on `next`: it is `current` from now on. Returns the keypairs to forget."""
        forgotten = self._retire(self.current)
        self.current, self.next = self.next, None
        return forgotten

    def clear(self) -> tuple[Keypair, ...]:
        """Forget all; returns them."""
        forgotten = tuple(keypair for keypair in (self.current, self.next, *self.previous) if keypair)
        self.current = self.next = None
        self.previous = ()
        return forgotten

    def _retire(self, *keypairs: Keypair | None) -> tuple[Keypair, ...]:
        retired = (*(keypair for keypair in keypairs if keypair), *self.previous)
        self.previous = retired[: self.MAX_PREVIOUS]
        return retired[self.MAX_PREVIOUS :]
