"""TAI64N stamps for a device without a clock: a counter of seconds in flash, reserved in ranges.

A proxy takes an initiation only if its stamp is newer than all before, over restarts too. Before a stamp is given out,
a greater one lies in flash; so a start, which goes on from there, never goes back, wherever the power was cut. Two
files are written in turn, each with its hash: one of them is always whole.
"""

import hashlib

RESERVE = 4096
"""Seconds taken at once: one write per start and per this many handshakes, or this much time once the clock is set."""
_TAI64 = 1 << 62
_TAI_OFFSET = 10  # TAI - UTC at the epoch; WireGuard's implementations agree on this constant


class FileStore:
    """Two small files; `save` raises OSError if neither flash nor file system takes them."""

    def __init__(self, path):
        self._paths = (path + ".0", path + ".1")
        self._turn = 0

    def load(self):
        """The greatest value that was saved whole; 0 without one."""
        greatest = 0
        for turn in (0, 1):
            try:
                with open(self._paths[turn], "rb") as file:
                    content = file.read(64)
            except OSError:
                continue
            text, digest = content[:16], content[16:32]
            if len(content) == 32 and hashlib.sha256(text).digest()[:16] == digest:
                value = int(text)
                if value >= greatest:
                    greatest, self._turn = value, 1 - turn
        return greatest

    def save(self, value):
        """Write over the older file."""
        text = b"%016d" % value
        with open(self._paths[self._turn], "wb") as file:
            if file.write(text + hashlib.sha256(text).digest()[:16]) != 32:
                raise OSError(28)  # ENOSPC
        self._turn = 1 - self._turn


class Stamps:
    """`floor`: seconds since 1970 when the settings were written; `clock` returns the same of now, or None if unset."""

    def __init__(self, store, floor, clock):
        self._store, self._clock = store, clock
        self.last = max(store.load(), floor)
        self.reserved = 0
        self.error = None

    def restore(self, last, reserved):
        """Go on within a range that was reserved before a deep sleep, unless one has been reserved since."""
        if self.last == reserved and not self.reserved:
            self.last, self.reserved = last, reserved

    def __call__(self):
        """12 bytes, greater than all before; None if that cannot be made sure."""
        seconds = self.last + 1
        now = self._clock()
        if now is not None and now > seconds:
            seconds = now
        if seconds >= self.reserved:
            try:
                self._store.save(seconds + RESERVE)
            except OSError as error:
                self.error = error
                return None
            self.reserved = seconds + RESERVE
            self.error = None
        self.last = seconds
        return (_TAI64 + _TAI_OFFSET + seconds).to_bytes(8, "big") + bytes(4)
