"""`os` of a board: `uname` and `dupterm`, which the unix port lacks."""

import os

import board_sys
import board_terminal
from board_sys import Overlay

_RELEASE = ".".join(str(number) for number in board_sys.module.implementation[1][:3])


class uname_result(tuple):
    """(sysname, nodename, release, version, machine), by name too."""

    sysname = property(lambda self: self[0])
    nodename = property(lambda self: self[1])
    release = property(lambda self: self[2])
    version = property(lambda self: self[3])
    machine = property(lambda self: self[4])


def _uname():
    text = "Virtual board with " + board_sys.CHIP
    return uname_result(("esp32", "esp32", _RELEASE, "v" + _RELEASE, text))


module = Overlay(os, uname=_uname, dupterm=board_terminal.dupterm, dupterm_notify=board_terminal.notify)
