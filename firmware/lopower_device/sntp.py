"""The clock from the proxy's gateway, by SNTP (RFC 5905 section 14); loaded for one question alone."""

import time

from . import ticks
from .tunnel import UNIX, wall_clock

PORT = 123
TIMEOUT = 2_000
ATTEMPTS = 3
AGAIN = 6 * 3_600_000
"""Milliseconds after which a clock is set anew: at the 20 ppm of a crystal it is off by half a second then."""
LATER = 600_000
"""After no answer, or that of a gateway that does not know the time itself."""
_EPOCH = 2_208_988_800  # 1970, in seconds since 1900
_ERA = 1 << 32


def answer(message, origin):
    """Milliseconds since 1970 that a message tells; None if it is no answer to `origin` (8 bytes), or not to be believed.

    Not to be believed: leap indicator 3, stratum 0 ("kiss of death") and 16, which mean an unsynchronised clock.
    """
    if len(message) < 48 or message[0] & 7 != 4 or message[24:32] != origin:
        return None
    if message[0] >> 6 == 3 or not 0 < message[1] < 16 or message[40:48] == bytes(8):
        return None
    seconds = int.from_bytes(message[40:44], "big")
    if seconds < _ERA // 2:
        seconds += _ERA  # since 2036
    return (seconds - _EPOCH) * 1000 + (int.from_bytes(message[44:48], "big") * 1000 >> 32)


def _rtc():
    try:
        from machine import RTC
    except ImportError:
        return None  # a port without
    return RTC()


class Query:
    """One question, tried a few times."""

    def __init__(self, tunnel):
        self._tunnel = tunnel
        self._stack = self._port = None
        self._attempts = 0

    def watch(self, now):
        """Called each turn. None while an answer may come; then the delay of the next question, 0 for never."""
        tunnel = self._tunnel
        if _rtc() is None or not tunnel.proxy.dns:
            return 0
        wall = wall_clock()
        if wall is not None and tunnel.synchronized is not None and 0 <= wall - tunnel.synchronized < AGAIN // 1000:
            return AGAIN - (wall - tunnel.synchronized) * 1000  # it was set before a deep sleep
        if self._stack is not tunnel.stack:  # the first turn, or another proxy
            self._stack = tunnel.stack
            self._port = self._stack.open_udp(len(tunnel.proxy.dns[0]))
            self._port.remote = (tunnel.proxy.dns[0], PORT)
            self._attempts = 0
            self._send(now)
        port = self._port
        for message, _, _ in port.queue:
            told = answer(message, self._origin)
            if told is not None and told // 1000 >= tunnel.settings.written:
                self._set(told + ticks.diff(now, self._sent) // 2)
                port.close(now)
                return AGAIN
        port.queue = []
        if ticks.diff(now, self._sent) < TIMEOUT and not port.error:
            return None
        if self._attempts >= ATTEMPTS or port.error:
            port.close(now)
            return LATER
        self._send(now)
        return None

    def _send(self, now):
        self._attempts += 1
        self._sent = now
        self._origin = self._stack.entropy(8)
        self._port.send(b"\x23" + bytes(39) + self._origin, self._port.remote, now)

    def _set(self, milliseconds):
        seconds = milliseconds // 1000
        t = time.gmtime(seconds - UNIX)
        _rtc().datetime((t[0], t[1], t[2], t[6], t[3], t[4], t[5], milliseconds % 1000 * 1000))
        self._tunnel.synchronized = seconds
