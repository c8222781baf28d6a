"""Deep sleep: what the tunnel needs to go on after a wake, in the RTC's memory; loaded for the one call alone.

A record is the tail of the memory; what a program has put there stays in front. A counter of a session is never used
twice, whenever a reset comes: `take` removes the session from the tunnel before the record is written, and `wake` erases
the record before the session is used. So a session is in the tunnel or in the memory, never in both.
"""

import struct
import time

from . import _once, addresses, ticks
from .keypair import REJECT_AFTER_TIME, Keypair
from .sockets import _unpack
from .tunnel import clock

_FORMAT = "<BBBB16sHQIQQQ32s32s32s32s16s12s"
# flags, proxy, endpoint, length of the address, address, port, time, age, last stamp, reserved, time of SNTP, our public
# key, DH of the static keys, sending key, receiving key, `words`, greatest counter received
_MAGIC, _ERASED = b"lpw1", b"lpw0"
_SESSION, _INITIATOR = 1, 2
SIZE = struct.calcsize(_FORMAT) + 16 + len(_MAGIC)


def take(tunnel):
    """The record of a tunnel, or None before its keys are prepared. The tunnel has no session afterwards."""
    tunnel.lock.acquire()
    try:
        peer, now = tunnel.peer, clock()
        if tunnel.remembered is not None:  # there was no network since the last sleep
            tunnel.recall(now)
        session = peer.current
        peer.previous = peer.current = peer.next = None
    finally:
        tunnel.lock.release()
    static = peer.static
    if static.static_static is None:
        return None
    flags = age = 0
    sending = receiving = counters = greatest = b""
    if session is not None and session.is_alive(now):
        flags = _SESSION | (_INITIATOR if session.is_initiator else 0)
        age = session.age(now)
        sending, receiving = session.sending.key(), session.receiving.key()
        counters, greatest = bytes(session.words), bytes(memoryview(session.window)[:3])
    address, port = b"", 0
    if tunnel.remote is not None:
        address, port = _unpack(tunnel.remote)
        address = addresses.parse(address)
    content = struct.pack(
        _FORMAT, flags, tunnel._proxy_number, tunnel._endpoint_number, len(address), address, port, int(time.time()),
        age, tunnel.stamps.last, tunnel.stamps.reserved, tunnel.synchronized or 0, static.public_key,
        static.static_static, sending, receiving, counters, greatest,
    )  # fmt: skip
    tunnel.lock.acquire()  # a timer's turn would use the same scratch
    try:
        return content + _digest(content, static) + _MAGIC
    finally:
        tunnel.lock.release()


def wake(tunnel, rtc, is_wake):
    """Go on where `take` ended, as far as the record in the RTC's memory allows it; whether there is a session.

    `is_wake`: whether the clock has run on since, which it has not after a reset.
    """
    content = rtc.memory()
    if len(content) < SIZE:
        return False
    rest, content = content[:-SIZE], content[-SIZE:]
    # A shorter content alone would leave the keys where they are; and a reset here must not leave a record of zeros
    # that passes for the program's content
    rtc.memory(rest + bytes(SIZE - len(_ERASED)) + _ERASED)
    rtc.memory(rest)
    if rtc.memory() != rest or not is_wake or content[-len(_MAGIC) :] != _MAGIC:
        return False
    return _resume(tunnel, content)


def _resume(tunnel, content):
    length = SIZE - 16 - len(_MAGIC)
    content, digest = content[:length], content[length : -len(_MAGIC)]
    fields = struct.unpack(_FORMAT, content)
    if fields[1] >= len(tunnel.settings.proxies):
        return False
    tunnel.use(fields[1], fields[2])
    static = tunnel.peer.static
    if digest != _digest(content, static):  # damaged, or of other keys: the settings have changed
        tunnel.use(0, 0)
        return False
    stamps = tunnel.stamps
    if stamps.last == fields[9] and not stamps.reserved:  # no range has been reserved since
        stamps.last, stamps.reserved = fields[8], fields[9]
    address = addresses.format(fields[4][: fields[3]]) if fields[3] else None
    session = None
    elapsed = int(time.time()) - fields[6]
    if elapsed >= 0:
        tunnel.synchronized = fields[10] or None
        if fields[0] & _SESSION and elapsed < REJECT_AFTER_TIME // 1000:
            # Full seconds on both sides, and the RTC's oscillator, which is off by 5 percent at most
            age = fields[7] + (elapsed + 1) * 1000 + elapsed * 50
            if age < REJECT_AFTER_TIME:
                session = _session(fields, ticks.add(clock(), -age))
    tunnel.remembered = address, fields[11], fields[12], session
    return session is not None


def _session(fields, created):
    counters = fields[15]
    session = Keypair(fields[13], fields[14], counters[12:], counters[8:12], bool(fields[0] & _INITIATOR), created)
    session.words[0], session.words[1] = struct.unpack("<II", counters)
    window, greatest = session.window, struct.unpack("<III", fields[16])
    if greatest[2]:
        # Which counters below the greatest have come is not kept: none of them is accepted again
        for i in range(3, len(window)):
            window[i] = 0xFFFFFFFF
        window[0], window[1], window[2] = greatest
        window[4 + (greatest[0] >> 5 & 63)] = (2 << (greatest[0] & 31)) - 1
    return session


def _digest(content, static):
    return _once("blake2s").blake2s(content + static.remote_key + static.preshared_key, static.private_key, 16)
