"""TAI64N stamps for a device without a clock: a counter of seconds in flash, reserved in ranges.

A proxy takes an initiation only if its stamp is newer than all before, over restarts too. Before a stamp is given out,
a greater one lies in flash; so a start, which goes on from there, never goes back, wherever the power was cut. Two
files are written in turn, each with its hash: one of them is always whole. Loaded for one stamp: what lasts is in `state`.
"""

import hashlib

from .addresses import Record

RESERVE = 4096
"""Seconds taken at once: one write per start and per this many handshakes, or this much time once the clock is set."""
_TAI64 = 1 << 62
_TAI_OFFSET = 10  # TAI - UTC at the epoch; WireGuard's implementations agree on this constant


def begin(path, floor):
    """The state at a start. `floor`: seconds since 1970 when the settings were written.

    `last`: the latest stamp; `reserved`: the first one that may not be given out; `error`: why none can be, or None.
    """
    state = Record()
    state.path, state.turn = path, 0
    state.reserved, state.error = 0, None
    state.last = max(FileStore(state).load(), floor)
    return state


class FileStore:
    """Two small files; `save` raises OSError if neither flash nor file system takes them."""

    def __init__(self, state):
        self._state = state

    def _path(self, turn):
        return "%s.%d" % (self._state.path, turn)

    def load(self):
        """The greatest value that was saved whole; 0 without one."""
        greatest = 0
        for turn in (0, 1):
            try:
                with open(self._path(turn), "rb") as file:
                    content = file.read(64)
            except OSError:
                continue
            text, digest = content[:16], content[16:32]
            if len(content) == 32 and hashlib.sha256(text).digest()[:16] == digest:
                value = int(text)
                if value >= greatest:
                    greatest, self._state.turn = value, 1 - turn
        return greatest

    def save(self, value):
        """Write over the older file."""
        text = b"%016d" % value
        with open(self._path(self._state.turn), "wb") as file:
            if file.write(text + hashlib.sha256(text).digest()[:16]) != 32:
                raise OSError(28)  # ENOSPC
        self._state.turn = 1 - self._state.turn


def stamp(state, clock, store=FileStore):
    """12 bytes, greater than all before; None if that cannot be made sure.

    `clock` returns seconds since 1970, or None if it is not set.
    """
    seconds = state.last + 1
    now = clock()
    if now is not None and now > seconds:
        seconds = now
    if seconds >= state.reserved:
        try:
            store(state).save(seconds + RESERVE)
        except OSError as error:
            state.error = error
            return None
        state.reserved = seconds + RESERVE
        state.error = None
    state.last = seconds
    return (_TAI64 + _TAI_OFFSET + seconds).to_bytes(8, "big") + bytes(4)
