"""Which modules of a board stand in the place of the unix port's, or beside them."""

import builtins
import sys

import board_esp32
import board_machine
import board_network
import board_socket
import board_sys
import board_time
import native


def install():
    """`import machine` and the others find the board's."""
    modules = sys.modules
    for name, module in (
        ("machine", board_machine),
        ("network", board_network),
        ("esp32", board_esp32),
        ("socket", board_socket),
        ("time", board_time),
        ("sys", board_sys.module),
    ):
        modules[name] = module
        modules["u" + name] = module
    for name in ("board_machine", "board_network", "board_esp32", "board_socket", "board_sys", "board_time", "native"):
        modules.pop(name, None)
    builtins.__import__ = native.importer(builtins.__import__)
