"""The handshakes of a `Peer`: what only they need. Loaded when one begins, dropped when none was under way for a while."""

from . import _once, ticks
from . import kernels as k
from .blake2s import blake2s
from .counters import RATE_LIMITED, WRONG_MAC1
from .keypair import LOCAL

COOKIE_LIFE = 120_000
RESPONSE_INTERVAL = 1_000
"""Whoever knows our public key can make us compute: one initiation is looked at per second, at most."""


def work(peer, message, arrived):
    """A generator: one step of a handshake, in slices. `message`: what came at `arrived`, or None to begin one.

    What the step needs is a module of its own, with a generator `work`, which goes when it is done.
    """
    static = peer.static
    if message is None or static.static_static is None:
        part = _once("initiate")
        yield
        if static.static_static is None and not (yield from part.prepare(static)):
            return
    if message is not None:
        part = None  # what prepared the keys goes before the next is loaded
        kind = message[0]
        if kind != 3 and not is_for_us(static, message):
            peer.drop(WRONG_MAC1)
            return
        if kind == 1:
            if peer._response_allowed is not None and ticks.diff(peer.now, peer._response_allowed) < 0:
                peer.drop(RATE_LIMITED)
                return
            peer._response_allowed = ticks.add(peer.now, RESPONSE_INTERVAL)
        yield
        part = _once(("respond", "complete", "cookie")[kind - 1])
        yield
    yield from part.work(peer, message, arrived)


def is_for_us(static, message):
    """Whether mac1 says that who has sent a message knows our public key."""
    end = len(message) - 32
    key = blake2s(b"mac1----" + static.public_key)
    return not k.differ(blake2s(message[:end], key, 16), 0, message, end, 16)


def new_index(peer):
    """4 random bytes that no session of ours has."""
    while True:
        index = peer._entropy(4)
        number = int.from_bytes(index, "little")
        used = [pair.words[LOCAL] for pair in (peer.previous, peer.current, peer.next) if pair is not None]
        if number not in used and (peer._initiating is None or index != peer._initiating[0]):
            return index


def send(peer, message):
    """A message with its macs."""
    mac1 = blake2s(message, blake2s(b"mac1----" + peer.static.remote_key), 16)
    peer._sent = message[4:8], mac1
    message += mac1
    cookie = peer._cookie
    if cookie is not None and ticks.diff(peer.now, cookie[1]) < COOKIE_LIFE:
        message += blake2s(message, cookie[0], 16)
    else:
        peer._cookie = None
        message += bytes(16)
    peer._transmit(message, len(message))
