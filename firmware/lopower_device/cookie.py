"""The cookie of a proxy under load (whitepaper section 5.4.7). Loaded for one reply."""

from array import array

from . import kernels as k
from .blake2s import blake2s
from .counters import COOKIE_REPLIES_RECEIVED, NOT_AUTHENTIC
from .crypto import work as scratch
from .noise import decrypt


def work(peer, message, _):
    """Generator, of one slice: takes a reply to the message that was sent last."""
    if peer._sent is None or peer._sent[0] != message[4:8]:
        return
    key = blake2s(b"cookie--" + peer.static.remote_key)
    cookie = open_cookie(key, message, peer._sent[1])
    if cookie is None:
        peer.drop(NOT_AUTHENTIC)
        return
    peer._sent = None  # it counts once, for the message sent last
    peer.counters[COOKIE_REPLIES_RECEIVED] += 1
    peer._cookie = cookie, peer.now
    yield


def open_cookie(key, message, mac1):
    """The cookie in a reply to the message that had `mac1`, or None."""
    return open_xchacha20(key, message[8:32], message[32:64], mac1)


def open_xchacha20(key, nonce, data, associated):
    """XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha section 2): the plaintext, or None. `nonce` has 24 bytes."""
    given = array("I", bytes(key) + bytes(nonce[:16]))
    for i in range(12):
        scratch[20 + i] = given[i]
    k.chacha20_xor(scratch, 0, given, bytearray(64), 0, 1, -1)
    mixed = bytes(memoryview(scratch)[:16])  # what the 20 rounds leave, before the input is added, is HChaCha20
    return decrypt(mixed[:16] + mixed[48:], data, associated, nonce[16:])
