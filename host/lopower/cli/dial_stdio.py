"""`lopower dial-stdio`: standard input and output are the daemon's socket. `--daemon ssh://…` runs it over there."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from typing import Final

from lopower.cli import options
from lopower.cli.errors import OK, USAGE, CommandError

_CHUNK: Final = 1 << 16


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = "Copy standard input to the daemon's control socket, and what it answers to standard output."
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Copy both ways until the daemon, or whoever reads the answer, is done."""
    if getattr(arguments, "daemon", None):
        raise CommandError("dial-stdio leads to a daemon on this host", "leave --daemon out", USAGE)
    with options.local_client(arguments).dial(None) as daemon:
        # A daemon, as it waits for input that may never end: the process ends with the answer.
        threading.Thread(target=_send, args=(daemon,), daemon=True).start()
        while data := daemon.recv(_CHUNK):
            view = memoryview(data)
            while view:
                view = view[os.write(sys.stdout.fileno(), view) :]
    return OK


def _send(daemon: socket.socket) -> None:
    try:
        while data := os.read(sys.stdin.fileno(), _CHUNK):
            daemon.sendall(data)
        daemon.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the daemon has hung up: the other direction sees it too
