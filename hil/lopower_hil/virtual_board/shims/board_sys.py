"""`sys` of a board: another platform's name, and a `stdout.buffer` that is sent as it is, while text has CR LF."""

import io
import sys

import _board

_PIECE = 1024


class _Binary(io.IOBase):
    def write(self, data, *place):
        view = memoryview(data)
        if place:  # (length) or (offset, length)
            start = place[0] if len(place) > 1 else 0
            view = view[start : start + place[-1]]
        for start in range(0, len(view), _PIECE):
            _board.message(b"B", view[start : start + _PIECE])
        return len(view)

    def ioctl(self, request, argument):
        return argument & 4 if request == 3 else 0  # poll: it can always be written to


class _Text(_Binary):
    def __init__(self):
        self.buffer = _Binary()

    def write(self, data, *place):
        return sys.stdout.write(data, *place)


class Overlay:
    """A module of the interpreter, with some names of its own."""

    def __init__(self, module, **own):
        for name in dir(module):
            setattr(self, name, getattr(module, name))
        for name, value in own.items():
            setattr(self, name, value)


CHIP = {0: "ESP32", 2: "ESP32-S2", 5: "ESP32-C3", 9: "ESP32-S3", 13: "ESP32-C6"}[_board.wires.chip]
module = Overlay(sys, platform="esp32", stdout=_Text())
