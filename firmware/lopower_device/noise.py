"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with WireGuard's messages (whitepaper section 5.4). Loaded for a handshake.

The initiator's two messages are in `initiate` and `complete`, the responder's half is in `respond`. Each step is a generator that yields within its X25519 multiplications, so that a
handshake never holds the program for long. Nothing is changed before a message has proved authentic: what a step led to
is its return value.

    <- s
    ...
    -> e, es, s, ss        initiation
    <- e, ee, se, psk      response
"""

from .blake2s import blake2s
from .crypto import HEADER, TAG, Cipher
from .x25519 import BASE_POINT, run, x25519

CHAINING_KEY = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
HASH = blake2s(CHAINING_KEY + b"WireGuard v1 zx2c4 Jason@zx2c4.com")


def encrypt(key, data, associated):
    """The AEAD of a handshake: ciphertext and tag. `associated` has a multiple of 16 bytes."""
    length = len(data)
    packet, at = _message(data, associated, bytes(8))
    Cipher(key).seal(packet, length, len(associated))
    return bytes(packet[at : at + length + TAG])


def decrypt(key, data, associated, nonce=bytes(8)):  # noqa: B008 - bytes do not change
    """The plaintext of a handshake's AEAD, or None. `nonce` has 8 bytes."""
    length = len(data) - TAG
    packet, at = _message(data, associated, nonce)
    return bytes(packet[at : at + length]) if Cipher(key).open(packet, length, len(associated)) else None


def _message(data, associated, nonce):
    """(buffer as of a data message, where `data` begins in it)."""
    at = HEADER + len(associated)
    packet = bytearray(at + (len(data) + 63 & ~63) + TAG)
    packet[8:16] = nonce
    packet[HEADER:at] = associated
    packet[at : at + len(data)] = data
    return packet, at


def public_key(private_key):
    """The public half, in one go."""
    return run(x25519(private_key, BASE_POINT))
