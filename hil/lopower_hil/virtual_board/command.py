"""`lopower virtual-board`: one board, in the foreground."""

from __future__ import annotations

import argparse
import json
import signal
import threading
from pathlib import Path
from typing import Any, Final

from lopower.cli.errors import OK, USAGE, CommandError
from lopower_hil.virtual_board import control
from lopower_hil.virtual_board.board import DEFAULT_HEAP, AccessPoint, Board, BoardConfig, BoardError
from lopower_hil.virtual_board.boot_check import ROM_NAMES

_MEGABYTE: Final = 1 << 20


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "A board without hardware: a serial port with the ROM's bootloader that esptool flashes, flash memory in a "
        "file, and the real MicroPython on what was flashed. Until Ctrl-C."
    )
    parser.add_argument(
        "--directory", type=Path, default=Path("virtual-board"), metavar="DIR",
        help="where flash.bin, serial.log and control.sock are kept (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--chip", choices=tuple(ROM_NAMES), default="ESP32", help="default: %(default)s")
    parser.add_argument("--flash-size", type=int, default=4, metavar="MB", help="1, 2, 4, 8, 16 or 32; default: 4")
    parser.add_argument("--mac", type=_mac, help="default: one that belongs to the directory")
    parser.add_argument(
        "--rfc2217", nargs="?", type=int, const=0, metavar="PORT",
        help="a TCP port of 127.0.0.1 with DTR and RTS, in place of a pty",
    )  # fmt: skip
    parser.add_argument("--usb", action="store_true", help="with --rfc2217: reset as the chip's own USB port does")
    parser.add_argument("--heap", type=int, default=DEFAULT_HEAP >> 10, metavar="KB", help="default: %(default)s")
    parser.add_argument(
        "--wifi", action="append", metavar="NAME[:PASSWORD]",
        help="a network in reach, behind which is this host's; several are possible; default: virtual, open",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the port and the rest as one line of JSON")
    parser.add_argument(
        "--tell", metavar="JSON", help="send this to the board that runs in --directory, and print its answer"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the board, or tell a running one something."""
    path = arguments.directory / "control.sock"
    try:
        if arguments.tell is not None:
            answer = control.tell(path, arguments.tell)
            print(answer)
            if not json.loads(answer or "{}").get("ok"):
                raise CommandError("the board refused it")
            return OK
        return _serve(arguments, path)
    except (BoardError, ValueError) as error:
        raise CommandError(str(error)) from None


def _serve(arguments: argparse.Namespace, path: Path) -> int:
    if arguments.usb and arguments.rfc2217 is None:
        raise CommandError("a pty has no control lines that --usb could be about", "add --rfc2217", USAGE)
    points = [
        AccessPoint(name, password) for name, _, password in (word.partition(":") for word in arguments.wifi or ())
    ]
    config = BoardConfig(
        directory=arguments.directory,
        chip=arguments.chip,
        flash_size=arguments.flash_size * _MEGABYTE,
        mac=arguments.mac,
        rfc2217=arguments.rfc2217 is not None,
        tcp_port=arguments.rfc2217 or 0,
        usb=arguments.usb,
        heap=arguments.heap << 10,
        access_points=tuple(points) or (AccessPoint("virtual"),),
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Board(config) as board:
        server = control.ControlSocket(board, path)
        try:
            _introduce(board, path, as_json=arguments.json)
            stop.wait()
        finally:
            server.close()
    return OK


def _introduce(board: Board, path: Path, *, as_json: bool) -> None:
    if as_json:
        described: dict[str, Any] = control.answer(board, b'{"do": "status"}')
        described.pop("ok")
        print(json.dumps({**described, "control": str(path)}), flush=True)
        return
    config = board.config
    print(
        f"{board.port}\n"
        f"{config.chip}, {config.flash_size // _MEGABYTE} MB, {board.mac.hex(':')}, {board.state.value}\n\n"
        f"  lopower flash {board.port}\n"
        f"  esptool --port {board.port} flash-id\n"
        f"  mpremote connect {board.port}\n\n"
        f"{board.serial_log} has what it prints. Ctrl-C ends it; the flash stays in {board.flash_file}.",
        flush=True,
    )


def _mac(text: str) -> bytes:
    try:
        mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        mac = b""
    if len(mac) != 6 or mac[0] & 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no MAC address of one device, such as 24:0a:c4:00:00:01")
    return mac
