"""The beginning of a handshake (whitepaper section 5.4.2). Loaded for one initiation."""

from .blake2s import blake2s, hkdf
from .counters import INITIATIONS_SENT, NO_TIMESTAMP
from .handshake import new_index, send
from .noise import CHAINING_KEY, HASH, encrypt
from .peer import REKEY_JITTER, REKEY_TIMEOUT, RETRANSMIT
from .x25519 import BASE_POINT, x25519


def work(peer, _message, _arrived):
    """Generator: makes the message and sends it."""
    yield
    timestamp = peer._timestamp()  # may load a file, and write one
    if timestamp is None:
        peer.drop(NO_TIMESTAMP)
        peer.set_timer(RETRANSMIT, peer.now, REKEY_TIMEOUT)
        return
    yield
    index = new_index(peer)
    made = yield from create_initiation(peer.static, index, peer._entropy(32), timestamp)
    if made is None:
        return
    message, state = made
    peer._initiating = (index, state)
    peer._initiation_sent = peer.now
    peer.attempts += 1
    peer.counters[INITIATIONS_SENT] += 1
    peer.set_timer(RETRANSMIT, peer.now, REKEY_TIMEOUT + peer._jitter(REKEY_JITTER))
    send(peer, message)


def prepare(static):
    """A generator: computes what follows from the static keys alone. Returns False if the proxy's is of low order."""
    static.public_key = yield from x25519(static.private_key, BASE_POINT)
    static.static_static = yield from x25519(static.private_key, static.remote_key)
    return static.static_static is not None


def create_initiation(static, sender, ephemeral, timestamp):
    """Generator. Returns (the message up to mac1, state for `complete`). `sender`: our index, 4 bytes."""
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
