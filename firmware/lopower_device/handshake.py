"""The handshakes of a `Peer`: what only they need. Loaded when one begins, dropped when none was under way for a while."""

from . import _once, ticks
from . import kernels as k
from .blake2s import blake2s
from .counters import (
    COOKIE_REPLIES_RECEIVED,
    HANDSHAKES_COMPLETED,
    INITIATIONS_SENT,
    NO_TIMESTAMP,
    NOT_AUTHENTIC,
    RATE_LIMITED,
    RESPONSE_NOT_AUTHENTIC,
    RESPONSES_RECEIVED,
    RESPONSES_SENT,
    WRONG_MAC1,
)
from .keypair import LOCAL, Keypair
from .noise import consume_response, create_initiation, prepare
from .peer import FORGET, FORGET_KEYS, REKEY_JITTER, REKEY_TIMEOUT, RETRANSMIT

COOKIE_LIFE = 120_000
RESPONSE_INTERVAL = 1_000
"""Whoever knows our public key can make us compute: one initiation is looked at per second, at most."""


def work(peer, message, arrived):
    """A generator: one step of a handshake, in slices. `message`: what came at `arrived`, or None to begin one."""
    static = peer.static
    if static.static_static is None and not (yield from prepare(static)):
        return
    if message is None:
        yield from _initiate(peer)
    elif message[0] == 3:
        yield from _take_cookie(peer, message)
    elif not is_for_us(static, message):
        peer.drop(WRONG_MAC1)
    elif message[0] == 1:
        yield from _respond(peer, message)
    else:
        yield from _complete(peer, message, arrived)


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


def _send(peer, message):
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


def _initiate(peer):
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
    _send(peer, message)


def _complete(peer, message, arrived):
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


def _respond(peer, message):
    if peer._response_allowed is not None and ticks.diff(peer.now, peer._response_allowed) < 0:
        peer.drop(RATE_LIMITED)
        return
    peer._response_allowed = ticks.add(peer.now, RESPONSE_INTERVAL)
    yield
    job = _once("respond").respond(peer, message)
    yield
    result = yield from job
    if result is None:
        return
    message, sending, receiving, index, remote_index = result
    peer.next = Keypair(sending, receiving, index, remote_index, False, peer.now)
    peer.counters[RESPONSES_SENT] += 1
    peer.set_timer(FORGET, peer.now, FORGET_KEYS)
    _send(peer, message)


def _take_cookie(peer, message):
    yield
    if peer._sent is None or peer._sent[0] != message[4:8]:
        return
    key = blake2s(b"cookie--" + peer.static.remote_key)
    cookie = _once("cookie").open_cookie(key, message, peer._sent[1])
    if cookie is None:
        peer.drop(NOT_AUTHENTIC)
        return
    peer._sent = None  # it counts once, for the message sent last
    peer.counters[COOKIE_REPLIES_RECEIVED] += 1
    peer._cookie = cookie, peer.now
