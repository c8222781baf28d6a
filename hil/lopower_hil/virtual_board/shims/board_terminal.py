"""`os.dupterm`: a stream from which the REPL reads, and to which goes what is printed, besides the serial line.

Between the unix port's REPL and its terminal there is no place for one, but there is the board: it hands back what was
printed, and takes what the stream has as if it had come over the line.
"""

import os
import sys

import _board
from board_machine import Timer

_PERIOD = 10
"""Milliseconds between two looks at the stream. A real REPL looks whenever it waits for a character."""


class _Terminal:
    def __init__(self):
        self._stream = None
        self._is_inside = False
        self._timer = Timer(-1)
        self._typed = bytearray(64)
        self._printed = open(int(os.getenv("BOARD_PRINTED")), "rb")

    def dupterm(self, stream, index=0):
        """Use `stream`, or None; the one before."""
        if index != 0:
            raise ValueError("invalid dupterm index")
        before, self._stream = self._stream, stream
        _board.message(b"D", b"\x00" if stream is None else b"\x01")
        if stream is None:
            self._timer.deinit()
        else:
            self._timer.init(period=_PERIOD, callback=self.notify)
        return before

    def notify(self, _):
        """There may be something to read."""
        if self._is_inside or self._stream is None:
            return
        self._is_inside = True
        try:
            while printed := self._printed.read(512):  # it does not block
                self._stream.write(printed)
            while self._stream is not None:
                n = self._stream.readinto(self._typed)
                if not n:
                    break
                _board.message(b"K", memoryview(self._typed)[:n])
            if n == 0:
                self._end("EOF received")
        except Exception as error:
            self._end("Exception in stream")
            sys.print_exception(error)
        finally:
            self._is_inside = False

    def _end(self, reason):
        self.dupterm(None)
        print("dupterm:", reason + ", deactivating")


_terminal = _Terminal()
dupterm = _terminal.dupterm
notify = _terminal.notify
