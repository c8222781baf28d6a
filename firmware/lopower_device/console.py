"""The board's console through the tunnel, as `os.dupterm` takes a stream. It ends with its connection."""

import io
import os

from . import ticks
from .tcp import CLOSED
from .tunnel import clock

WRITE_TIMEOUT = 2_000
"""Milliseconds that what prints waits for the other end to read; then the console is closed."""
_POLL, _IN, _OUT, _HUP = 3, 1, 4, 16
_INTERRUPT = 3


class Console(io.IOBase):
    """The stream. MicroPython reads from it whenever it waits for a key, and writes to it what it prints."""

    def __init__(self, tunnel, connection):
        self._tunnel, self._connection = tunnel, connection
        self._inside = False
        self._is_open = False

    def open(self):
        """From here on it is a console. Raises OSError, AttributeError where the port has none."""
        os.dupterm(self)
        self._is_open = True

    def watch(self):
        """Called each turn, with the tunnel's lock held: whether it goes on."""
        connection = self._connection
        if connection.received.length and connection.received.find(_INTERRUPT) >= 0:
            # A program runs, perhaps, and nobody reads: the port takes Ctrl-C out of it
            notify = getattr(os, "dupterm_notify", None)
            if notify is not None:
                self._inside = True
                try:
                    notify(None)
                finally:
                    self._inside = False
        return self._is_open and not (connection.peer_closed and not connection.received.length)

    def close(self):
        """No console any more."""
        if self._is_open:
            self._is_open = False
            os.dupterm(None)

    def readinto(self, buffer):
        """What was typed; None: nothing."""
        if not self._inside:
            self._tunnel.pump()
            if not self._tunnel.lock.acquire(0):
                return None
        try:
            n = min(len(buffer), self._connection.received.length)
            if not n:
                return None
            return self._connection.read(memoryview(buffer)[:n], n, clock())
        finally:
            if not self._inside:
                self._tunnel.lock.release()

    def write(self, data):
        """What is printed; it is lost where the tunnel itself prints, and once the other end does not read."""
        sent, length, end = 0, len(data), ticks.add(clock(), WRITE_TIMEOUT)
        while sent < length and self._is_open:
            if self._inside or not self._tunnel.lock.acquire(0):
                break
            try:
                sent += self._connection.write(data, sent, length - sent, clock())
            finally:
                self._tunnel.lock.release()
            if sent < length:
                if self._connection.state == CLOSED or ticks.diff(clock(), end) >= 0:
                    self._is_open = False
                self._tunnel.pump()
        return length

    def ioctl(self, request, argument):
        """Whether there is something to read."""
        if request != _POLL:
            return 0
        flags = _OUT | (_IN if self._connection.received.length else 0)
        return flags & (argument | _HUP)
