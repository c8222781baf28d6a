"""The end of a handshake that we began: the proxy's response (whitepaper section 5.4.3). Loaded for one response."""

from . import ticks
from .blake2s import blake2s, hkdf
from .counters import HANDSHAKES_COMPLETED, RESPONSE_NOT_AUTHENTIC, RESPONSES_RECEIVED
from .keypair import Keypair
from .noise import decrypt
from .x25519 import x25519


def work(peer, message, arrived):
    """Generator: takes the response that came at `arrived`, and the session that it makes."""
    if peer._initiating is None:
        return  # meanwhile the proxy has confirmed a session that it had begun
    index, state = peer._initiating
    round_trip = ticks.diff(arrived, peer._initiation_sent) if peer._initiation_sent is not None else None
    keys = yield from consume_response(peer.static, state, message)
    if keys is None:
        peer.drop(RESPONSE_NOT_AUTHENTIC)
        return
    peer.counters[RESPONSES_RECEIVED] += 1
    peer.counters[HANDSHAKES_COMPLETED] += 1
    peer.round_trip = round_trip
    now = peer.last_received = peer.now
    peer._initiating = None
    if peer.next is not None:
        peer.previous, peer.next = peer.next, None
    else:
        peer.previous = peer.current
    peer.current = Keypair(keys[0], keys[1], index, message[4:8], True, now)
    peer.established(now)
    if not peer.flush(now):
        peer.send(0, now)


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
