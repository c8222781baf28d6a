"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (Noise Protocol Framework revision 34), with the prologue as a parameter.

    <- s
    ...
    -> e, es, s, ss        initiation
    <- e, ee, se, psk      response

Every state is a value: reading a message works on a copy and returns what it led to, or raises `NoiseError` and has
changed nothing. IKpsk2 encrypts exactly once under each handshake key, hence the nonce `n` of Noise's CipherState is
always 0 here. `static_static`, DH(s, rs), is the same in each handshake of two peers and is passed in, computed once.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

PROTOCOL_NAME: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
KEY_SIZE: Final = 32
_TAG_SIZE: Final = 16
_ENCRYPTED_STATIC_END: Final = KEY_SIZE + KEY_SIZE + _TAG_SIZE
_ZERO_NONCE: Final = bytes(12)


class NoiseError(Exception):
    """A handshake message that is not authentic, or a public key whose Diffie-Hellman result is all zero."""


@dataclass(frozen=True, slots=True)
class X25519Key:
    """A Curve25519 key pair (RFC 7748); the private half is never shown."""

    private: bytes = field(repr=False)
    public: bytes

    @classmethod
    def from_private(cls, private: bytes) -> X25519Key:
        """Raises ValueError unless `private` has 32 bytes."""
        if len(private) != KEY_SIZE:
            raise ValueError(f"a private key has {KEY_SIZE} bytes, not {len(private)}")
        return cls(private, crypto_scalarmult_base(private))


def diffie_hellman(private: bytes, public: bytes) -> bytes:
    """DH(private, public) of 32 bytes. Raises NoiseError for an all-zero result (a public key of low order)."""
    try:
        return crypto_scalarmult(private, public)
    except (CryptoError, RuntimeError):
        raise NoiseError("the Diffie-Hellman result is all zero") from None


def hmac_hash(key: bytes, data: bytes) -> bytes:
    """HMAC-BLAKE2s (Noise section 4.3)."""
    return hmac.digest(key, data, "blake2s")


def hkdf(chaining_key: bytes, input_key_material: bytes, outputs: int) -> list[bytes]:
    """HKDF of Noise section 4.3: one to three outputs of 32 bytes."""
    temp_key = hmac_hash(chaining_key, input_key_material)
    output = hmac_hash(temp_key, b"\x01")
    results = [output]
    for i in range(2, outputs + 1):
        output = hmac_hash(temp_key, output + bytes((i,)))
        results.append(output)
    return results


class SymmetricState:
    """Noise section 5.2: chaining key, handshake hash and the current handshake key."""

    __slots__ = ("_ck", "_h", "_k")

    def __init__(self, ck: bytes, h: bytes, k: bytes = b"") -> None:
        self._ck = ck
        self._h = h
        self._k = k

    @classmethod
    def initialize(cls, prologue: bytes, responder_static: bytes) -> SymmetricState:
        """State before the first message: protocol name, prologue and the pre-message `<- s`."""
        h = hashlib.blake2s(PROTOCOL_NAME).digest()  # as the name is longer than a hash
        state = cls(h, h)
        state.mix_hash(prologue)
        state.mix_hash(responder_static)
        return state

    def __repr__(self) -> str:
        return "SymmetricState(…)"

    @property
    def handshake_hash(self) -> bytes:
        return self._h

    def copy(self) -> SymmetricState:
        return SymmetricState(self._ck, self._h, self._k)

    def mix_key(self, input_key_material: bytes) -> None:
        self._ck, self._k = hkdf(self._ck, input_key_material, 2)

    def mix_hash(self, data: bytes) -> None:
        self._h = hashlib.blake2s(self._h + data).digest()

    def mix_key_and_hash(self, input_key_material: bytes) -> None:
        self._ck, temp_hash, self._k = hkdf(self._ck, input_key_material, 3)
        self.mix_hash(temp_hash)

    def mix_ephemeral(self, public: bytes) -> None:
        """The token `e` where a PSK is in use: the key is mixed into both (Noise section 9.2)."""
        self.mix_hash(public)
        self.mix_key(public)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        ciphertext = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, self._h, _ZERO_NONCE, self._k)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        try:
            plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, self._h, _ZERO_NONCE, self._k)
        except CryptoError:
            raise NoiseError("a handshake message does not authenticate") from None
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys: initiator to responder, responder to initiator."""
        first, second = hkdf(self._ck, b"", 2)
        return first, second


@dataclass(frozen=True, slots=True, repr=False)
class TransportKeys:
    """What a finished handshake yields: 32-byte ChaCha20-Poly1305 keys and the handshake's hash."""

    send: bytes
    receive: bytes
    handshake_hash: bytes


@dataclass(frozen=True, slots=True, repr=False)
class SentInitiation:
    """The initiator's state between its message and the response."""

    symmetric: SymmetricState
    static: X25519Key
    ephemeral: X25519Key

    def read_response(self, message: bytes, preshared_key: bytes) -> tuple[bytes, TransportKeys]:
        """The response's payload and the transport keys. Raises NoiseError; this state stays as it was."""
        remote_ephemeral = message[:KEY_SIZE]
        symmetric = self.symmetric.copy()
        symmetric.mix_ephemeral(remote_ephemeral)
        symmetric.mix_key(diffie_hellman(self.ephemeral.private, remote_ephemeral))
        symmetric.mix_key(diffie_hellman(self.static.private, remote_ephemeral))
        symmetric.mix_key_and_hash(preshared_key)
        payload = symmetric.decrypt_and_hash(message[KEY_SIZE:])
        send, receive = symmetric.split()
        return payload, TransportKeys(send, receive, symmetric.handshake_hash)


@dataclass(frozen=True, slots=True, repr=False)
class ReceivedInitiation:
    """The responder's state between the initiation and its own message; `payload` and `remote_static` are authentic."""

    symmetric: SymmetricState
    remote_ephemeral: bytes
    remote_static: bytes
    payload: bytes

    def write_response(self, ephemeral: X25519Key, preshared_key: bytes, payload: bytes) -> tuple[bytes, TransportKeys]:
        """The response and the transport keys. Raises NoiseError for a remote key of low order."""
        symmetric = self.symmetric.copy()
        symmetric.mix_ephemeral(ephemeral.public)
        symmetric.mix_key(diffie_hellman(ephemeral.private, self.remote_ephemeral))
        symmetric.mix_key(diffie_hellman(ephemeral.private, self.remote_static))
        symmetric.mix_key_and_hash(preshared_key)
        message = ephemeral.public + symmetric.encrypt_and_hash(payload)
        receive, send = symmetric.split()
        return message, TransportKeys(send, receive, symmetric.handshake_hash)


def write_initiation(
    *,
    prologue: bytes,
    static: X25519Key,
    ephemeral: X25519Key,
    remote_static: bytes,
    static_static: bytes,
    payload: bytes,
) -> tuple[bytes, SentInitiation]:
    """The message `e || encrypted s || encrypted payload` and the state that awaits the response.

    Raises NoiseError for a remote key of low order.
    """
    symmetric = SymmetricState.initialize(prologue, remote_static)
    symmetric.mix_ephemeral(ephemeral.public)
    symmetric.mix_key(diffie_hellman(ephemeral.private, remote_static))
    encrypted_static = symmetric.encrypt_and_hash(static.public)
    symmetric.mix_key(static_static)
    encrypted_payload = symmetric.encrypt_and_hash(payload)
    return ephemeral.public + encrypted_static + encrypted_payload, SentInitiation(symmetric, static, ephemeral)


def read_initiation(
    message: bytes, *, initial: SymmetricState, static: X25519Key, static_static: Callable[[bytes], bytes]
) -> ReceivedInitiation:
    """Open an initiation.

    Args:
        message: `e || encrypted s || encrypted payload`.
        initial: `SymmetricState.initialize(prologue, static.public)`; it is not changed.
        static: our key.
        static_static: DH(s, rs) by the initiator's public key; what it raises for a stranger passes through, before
            any more work is done.

    Raises:
        NoiseError: the message is not authentic.
    """
    remote_ephemeral = message[:KEY_SIZE]
    symmetric = initial.copy()
    symmetric.mix_ephemeral(remote_ephemeral)
    symmetric.mix_key(diffie_hellman(static.private, remote_ephemeral))
    remote_static = symmetric.decrypt_and_hash(message[KEY_SIZE:_ENCRYPTED_STATIC_END])
    symmetric.mix_key(static_static(remote_static))
    payload = symmetric.decrypt_and_hash(message[_ENCRYPTED_STATIC_END:])
    return ReceivedInitiation(symmetric, remote_ephemeral, remote_static, payload)
