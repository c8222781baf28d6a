"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with WireGuard's messages (whitepaper section 5.4). Loaded for a handshake.

The responder's half is in `respond`. Each step is a generator that yields within its X25519 multiplications, so that a
handshake never holds the program for long. Nothing is changed before a message has proved authentic: what a step led to
is its return value.

    <- s
    ...
    -> e, es, s, ss        initiation
    <- e, ee, se, psk      response
"""

from .blake2s import blake2s, hkdf
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


def prepare(static):
    """A generator: computes what follows from the static keys alone. Returns False if the proxy's is of low order."""
    static.public_key = yield from x25519(static.private_key, BASE_POINT)
    static.static_static = yield from x25519(static.private_key, static.remote_key)
    return static.static_static is not None


def create_initiation(static, sender, ephemeral, timestamp):
    """Generator. Returns (the message up to mac1, state for `consume_response`). `sender`: our index, 4 bytes."""
    public = yield from x25519(ephemeral, BASE_POINT)
    h = blake2s(blake2s(HASH + static.remote_key) + public)
    ck = hkdf(CHAINING_KEY, public, 1)[0]
    shared = yield from x25519(ephemeral, static.remote_key)
    if shared is None:
        return None
    ck, key = hkdf(ck, shared, 2)
    encrypted_static = encrypt(key, static.public_key, h)
    h = blake2s(h + encrypted_static)
    yield
    ck, key = hkdf(ck, static.static_static, 2)
    encrypted_timestamp = encrypt(key, timestamp, h)
    h = blake2s(h + encrypted_timestamp)
    message = b"\x01\x00\x00\x00" + sender + public + encrypted_static + encrypted_timestamp
    return message, (ck, h, ephemeral)


def consume_response(static, state, message):
    """Generator. Returns (sending key, receiving key), or None if the message is not authentic."""
    ck, h, ephemeral = state
    public = message[12:44]
    h = blake2s(h + public)
    ck = hkdf(ck, public, 1)[0]
    for secret in (ephemeral, static.private_key):
        shared = yield from x25519(secret, public)
        if shared is None:
            return None
        ck = hkdf(ck, shared, 1)[0]
    ck, t, key = hkdf(ck, static.preshared_key, 3)
    yield
    if decrypt(key, message[44:60], blake2s(h + t)) is None:
        return None
    return tuple(hkdf(ck, b"", 2))


def public_key(private_key):
    """The public half, in one go."""
    return run(x25519(private_key, BASE_POINT))
