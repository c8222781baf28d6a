"""WireGuard's handshake: Noise IKpsk2 between message headers and MACs (whitepaper sections 5.4.2 and 5.4.3).

MACs are `cookie`'s job: what is created here carries none yet, and what is consumed here has had its own checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lopower.wire.wireguard import (
    INITIATION_SIZE,
    MAC_SIZE,
    RESPONSE_SIZE,
    TYPE_INITIATION,
    TYPE_RESPONSE,
)
from lopower.wireguard import noise
from lopower.wireguard.noise import ReceivedInitiation, SentInitiation, X25519Key

PROLOGUE: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
NO_PRESHARED_KEY: Final = bytes(32)

_INITIATION_HEADER_SIZE: Final = 8
_RESPONSE_HEADER_SIZE: Final = 12


@dataclass(frozen=True, slots=True, repr=False)
class CreatedInitiation:
    """Our own initiation, waiting for its response under `local_index` since `created_at` (monotonic seconds)."""

    local_index: int
    created_at: float
    state: SentInitiation


@dataclass(frozen=True, slots=True, repr=False)
class ConsumedInitiation:
    """A peer's authentic initiation; `timestamp` is its TAI64N stamp, not yet compared with the peer's last."""

    remote_index: int
    remote_static: bytes
    timestamp: bytes
    state: ReceivedInitiation


class LocalIdentity:
    """Our static key and what each handshake derives from it alike."""

    __slots__ = ("_initial", "key")

    def __init__(self, private_key: bytes) -> None:
        """Raises ValueError unless the key has 32 bytes."""
        self.key = X25519Key.from_private(private_key)
        self._initial = noise.SymmetricState.initialize(PROLOGUE, self.key.public)

    def create_initiation(
        self,
        *,
        remote_static: bytes,
        static_static: bytes,
        ephemeral_private: bytes,
        local_index: int,
        timestamp: bytes,
        now: float,
    ) -> tuple[bytes, CreatedInitiation]:
        """The message without its MACs, and the state that awaits the response. Raises NoiseError (low-order key)."""
        message, state = noise.write_initiation(
            prologue=PROLOGUE,
            static=self.key,
            ephemeral=X25519Key.from_private(ephemeral_private),
            remote_static=remote_static,
            static_static=static_static,
            payload=timestamp,
        )
        header = TYPE_INITIATION.to_bytes(4, "little") + local_index.to_bytes(4, "little")
        return header + message, CreatedInitiation(local_index, now, state)

    def consume_initiation(self, message: bytes, static_static: Callable[[bytes], bytes]) -> ConsumedInitiation:
        """Open a 148-byte initiation. Raises NoiseError, or what `static_static` raises for a stranger's public key."""
        body = message[_INITIATION_HEADER_SIZE : INITIATION_SIZE - 2 * MAC_SIZE]
        state = noise.read_initiation(body, initial=self._initial, static=self.key, static_static=static_static)
        return ConsumedInitiation(
            remote_index=int.from_bytes(message[4:8], "little"),
            remote_static=state.remote_static,
            timestamp=state.payload,
            state=state,
        )


def create_response(
    consumed: ConsumedInitiation, *, ephemeral_private: bytes, preshared_key: bytes, local_index: int
) -> tuple[bytes, noise.TransportKeys]:
    """The 60 bytes of a response before its MACs, and the transport keys. Raises NoiseError (low-order key)."""
    ephemeral = X25519Key.from_private(ephemeral_private)
    message, keys = consumed.state.write_response(ephemeral, preshared_key, b"")
    header = b"".join(field.to_bytes(4, "little") for field in (TYPE_RESPONSE, local_index, consumed.remote_index))
    return header + message, keys


def consume_response(
    message: bytes, created: CreatedInitiation, preshared_key: bytes
) -> tuple[int, noise.TransportKeys]:
    """The sender's index and the transport keys of a 92-byte response. Raises NoiseError; `created` stays usable."""
    _, keys = created.state.read_response(message[_RESPONSE_HEADER_SIZE : RESPONSE_SIZE - 2 * MAC_SIZE], preshared_key)
    return int.from_bytes(message[4:8], "little"), keys
