"""The answer to a proxy that initiates (whitepaper sections 5.4.2 and 5.4.3). Loaded for one answer: few proxies do."""

from .blake2s import blake2s, hkdf
from .counters import NOT_AUTHENTIC, RESPONSES_SENT, TIMESTAMP_NOT_NEWER
from .handshake import new_index, send
from .keypair import Keypair
from .noise import CHAINING_KEY, HASH, decrypt, encrypt
from .peer import FORGET, FORGET_KEYS
from .x25519 import BASE_POINT, x25519


def work(peer, message, _):
    """Generator: answers an initiation, and keeps the session that the answer makes."""
    result = yield from consume_initiation(peer.static, message)
    if result is None:
        peer.drop(NOT_AUTHENTIC)
        return
    timestamp, state = result
    if timestamp <= peer._greatest_timestamp:
        peer.drop(TIMESTAMP_NOT_NEWER)
        return
    peer._greatest_timestamp = timestamp
    index, remote_index = new_index(peer), message[4:8]
    made = yield from create_response(peer.static, state, index, remote_index, peer._entropy(32))
    if made is None:
        return
    answer, sending, receiving = made
    peer.next = Keypair(sending, receiving, index, remote_index, False, peer.now)
    peer.counters[RESPONSES_SENT] += 1
    peer.set_timer(FORGET, peer.now, FORGET_KEYS)
    send(peer, answer)


def consume_initiation(static, message):
    """Generator. Returns (timestamp, state for `create_response`), or None unless it is the proxy's."""
    public = message[8:40]
    h = blake2s(blake2s(HASH + static.public_key) + public)
    ck = hkdf(CHAINING_KEY, public, 1)[0]
    shared = yield from x25519(static.private_key, public)
    if shared is None:
        return None
    ck, key = hkdf(ck, shared, 2)
    if decrypt(key, message[40:88], h) != static.remote_key:
        return None
    h = blake2s(h + message[40:88])
    yield
    ck, key = hkdf(ck, static.static_static, 2)
    timestamp = decrypt(key, message[88:116], h)
    if timestamp is None:
        return None
    return timestamp, (ck, blake2s(h + message[88:116]), public)


def create_response(static, state, sender, receiver, ephemeral):
    """Generator. Returns (the message up to mac1, sending key, receiving key), or None."""
    ck, h, remote = state
    public = yield from x25519(ephemeral, BASE_POINT)
    h = blake2s(h + public)
    ck = hkdf(ck, public, 1)[0]
    for point in (remote, static.remote_key):
        shared = yield from x25519(ephemeral, point)
        if shared is None:
            return None
        ck = hkdf(ck, shared, 1)[0]
    ck, t, key = hkdf(ck, static.preshared_key, 3)
    h = blake2s(h + t)
    message = b"\x02\x00\x00\x00" + sender + receiver + public + encrypt(key, b"", h)
    yield
    receiving, sending = hkdf(ck, b"", 2)
    return message, sending, receiving
