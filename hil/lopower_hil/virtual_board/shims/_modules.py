"""Which modules of a board stand in the place of the unix port's, or beside them."""

import builtins
import sys

import board_esp32
import board_machine
import board_network
import board_os
import board_select
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
        ("select", board_select),
        ("time", board_time),
        ("os", board_os.module),
        ("sys", board_sys.module),
    ):
        modules[name] = module
        modules["u" + name] = module
    for name in list(modules):
        if name.startswith("board_") or name == "native":
            del modules[name]
    builtins.__import__ = native.importer(builtins.__import__)
