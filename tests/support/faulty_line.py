"""A serial line between a flasher and a board on a pty that fails at a command of the bootloader's protocol.

Espressif's serial protocol: SLIP frames (C0 … C0), of which a request has 00 and its command first, and a response 01,
the command, two bytes of length, four of a value, and the data, whose last bytes are a status: 0, or 1 and a reason.
"""

from __future__ import annotations

import os
import select
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

END = 0xC0


class Fault(Enum):
    """What happens at the command."""

    NONE = "none"
    CUT = "cut"  # the port is gone
    SILENCE = "silence"  # nothing arrives any more, in either direction
    REFUSAL = "refusal"  # the board says that it failed
    WRONG = "wrong"  # the answer is not what the board said


class FaultyLine:
    """`port` is the flasher's end.

    Args:
        board: path of the board's pty.
        command: at whose `occurrence` (from 0) the fault happens.
    """

    def __init__(self, board: str, fault: Fault, command: int, occurrence: int = 0) -> None:
        self._fault = fault
        self._command = command
        self._left = occurrence
        self.commands: list[int] = []
        self._board = os.open(board, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._board)
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stop, self._wake = os.pipe()
        self._striking = self._dead = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        os.write(self._wake, b"x")
        self._thread.join(10)
        for descriptor in (self._board, self._stop, self._wake):
            os.close(descriptor)
        self._close_port()

    def _close_port(self) -> None:
        for descriptor in (self._master, self._slave):
            if descriptor >= 0:
                os.close(descriptor)
        self._master = self._slave = -1

    def _run(self) -> None:
        up, down = bytearray(), bytearray()
        while True:
            watched = [self._board, self._stop] + ([self._master] if self._master >= 0 else [])
            ready, _, _ = select.select(watched, [], [])
            if self._stop in ready:
                return
            try:
                if self._master in ready:
                    up += os.read(self._master, 4096)
                    for frame in _frames(up):
                        self._request(frame)
                if self._board in ready:
                    down += os.read(self._board, 4096)
                    for frame in _frames(down):
                        self._response(frame)
            except OSError:
                return  # one of both is gone

    def _request(self, frame: bytes) -> None:
        if self._dead:
            return
        if len(frame) > 9 and frame[1] == 0:
            command = frame[2]
            self.commands.append(command)
            if command == self._command and self._fault is not Fault.NONE:
                if self._left == 0:
                    self._strike(command)
                self._left -= 1
        if not self._dead and not (self._striking and self._fault is Fault.REFUSAL):
            _write(self._board, frame)

    def _strike(self, command: int) -> None:
        self._striking = True
        if self._fault in (Fault.CUT, Fault.SILENCE):
            self._dead = True
        if self._fault is Fault.CUT:
            self._close_port()
        elif self._fault is Fault.REFUSAL:
            # Status and reason twice: the ROM of an ESP32 has four bytes of status, the stub two.
            content = bytes([1, command, 4, 0, 0, 0, 0, 0, 1, 5, 1, 5])
            _write(self._master, bytes([END]) + content + bytes([END]))
            self._striking = False

    def _response(self, frame: bytes) -> None:
        if self._dead or self._master < 0:
            return
        if self._striking and self._fault is Fault.WRONG and len(frame) > 9 and frame[1] == 1:
            changed = bytearray(frame)
            for place in (5, len(frame) // 2):
                if changed[place] ^ 1 not in (END, 0xDB) and changed[place] not in (END, 0xDB, 0xDC, 0xDD):
                    changed[place] ^= 1
            frame, self._striking = bytes(changed), False
        _write(self._master, frame)


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Whole frames, which are taken out; what is none, such as a console's text, as it comes."""
    while buffer:
        if buffer[0] != END:
            end = buffer.find(END)
            piece = bytes(buffer if end < 0 else buffer[:end])
        else:
            end = buffer.find(END, 1)
            if end < 0:
                return
            if end == 1:  # the end of a frame whose beginning was lost, and a beginning
                piece = b"\xc0"
            else:
                piece = bytes(buffer[: end + 1])
        del buffer[: len(piece)]
        yield piece


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextmanager
def faulty_line(board: str, fault: Fault, command: int = -1, occurrence: int = 0) -> Iterator[FaultyLine]:
    """A line, closed in the end."""
    line = FaultyLine(board, fault, command, occurrence)
    try:
        yield line
    finally:
        line.close()
