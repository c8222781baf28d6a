"""`lopower repl`: the console of a board through its tunnel, on this terminal or for a program at a local port."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import socket
import sys
import threading
from collections.abc import Iterator

from lopower.cli import options, output
from lopower.cli.errors import FAILED, OK, USAGE, CommandError
from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower.control.stream import DeviceStream
from lopower.control.visit import Visit

_CHUNK = 256  # what a board takes without waiting
_EXIT = 0x1D  # Ctrl-]


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "The console of a board that was flashed with --remote-repl. On a terminal Ctrl-] ends it. With --listen a "
        "program uses it: mpremote connect socket://127.0.0.1:PORT"
    )
    parser.add_argument("name", metavar="NAME", help="the device")
    parser.add_argument(
        "--listen", type=int, metavar="PORT", help="at this port of loopback, one program at a time; 0: any"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Bridge it."""
    client = options.client(arguments)
    if arguments.listen is not None:
        if not 0 <= arguments.listen < 65536:
            raise CommandError("--listen is a port, 0 to 65535", "", USAGE)
        return _serve(client, arguments.name, arguments.listen)
    with Visit(client, arguments.name) as visit:
        stream, seen = visit.open_console()
        if sys.stdin.isatty():
            output.note(f"the console of {arguments.name}; Ctrl-] ends it\r")
        with _raw_terminal():
            return _terminal(stream, seen)


def _terminal(stream: DeviceStream, seen: bytes) -> int:
    """Until Ctrl-], the end of standard input, or the board's end."""
    ended = threading.Event()
    out = sys.stdout.fileno()

    def show() -> None:
        data = seen
        try:
            while True:
                os.write(out, data)
                data = stream.receive()
                if not data:
                    break
        except (ControlError, OSError):
            pass
        ended.set()

    shown = threading.Thread(target=show, daemon=True)
    shown.start()
    stream.send(b"\r")
    while not ended.is_set():
        if not select.select([sys.stdin], [], [], 0.1)[0]:
            continue
        data = os.read(sys.stdin.fileno(), _CHUNK)
        at = data.find(_EXIT)
        if at >= 0:
            return OK
        if not data:
            stream.end()
            shown.join()
            return OK
        stream.send(data)
    output.note("\r\nlopower: the board has ended the connection\r")
    return FAILED


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Each key goes to the board as it is, Ctrl-C too."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _serve(client: ControlClient, name: str, port: int) -> int:
    """One program after the other, until Ctrl-C."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            raise CommandError(f"port {port} cannot be taken: {error.strerror}", "--listen 0 takes any") from None
        listening.listen(1)
        with Visit(client, name) as visit:
            visit.open_console()  # whether it is allowed is said now, and not to the first program
        output.say(f"socket://127.0.0.1:{listening.getsockname()[1]}")
        sys.stdout.flush()
        while True:
            program, _ = listening.accept()
            with program:
                try:
                    with Visit(client, name) as visit:
                        _join(program, *visit.open_console())
                except ControlError as error:
                    output.note(f"lopower: {error.message}")


def _join(program: socket.socket, stream: DeviceStream, seen: bytes) -> None:
    def down() -> None:
        data = seen
        with contextlib.suppress(ControlError, OSError):
            while True:
                program.sendall(data)
                data = stream.receive()
                if not data:
                    break
        with contextlib.suppress(OSError):
            program.shutdown(socket.SHUT_RDWR)

    shown = threading.Thread(target=down, daemon=True)
    shown.start()
    with contextlib.suppress(ControlError, OSError):
        while data := program.recv(_CHUNK):
            stream.send(data)
    stream.close()
    shown.join(5.0)
