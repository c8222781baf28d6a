"""A board's control socket: one JSON object per line, each answered by one.

{"do": "status"}                                     {"ok": true, "state": …, "port": …}
{"do": "power_on"}  {"do": "cut_power"}              at once
{"do": "cut_power", "after_flash_bytes": 5000}       while the flash is written
{"do": "press_reset"}  {"do": "hold_boot", "held": true}
{"do": "radio", "on": false}
{"do": "slow_radio", "delay": 0.1, "bytes_per_second": 20000, "loss": 0.05}
{"do": "access_points", "access_points": [{"ssid": "Home", "password": "…", "rssi": -60}]}
"""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
from pathlib import Path
from typing import Any, Final

from lopower_hil.virtual_board.board import Board, BoardError
from lopower_hil.virtual_board.radio import AccessPoint

MAX_LINE: Final = 1 << 16
MAX_CLIENTS: Final = 16
"""More at once are sent away: each has a thread."""

MAX_PATH: Final = 103
"""Bytes that the kernel takes for the path of a unix socket."""

_SILENT_AFTER: Final = 600.0


class ControlSocket:
    """The socket at `path`, from construction to `close`. Raises BoardError if it cannot be made."""

    def __init__(self, board: Board, path: Path) -> None:
        if len(os.fsencode(path)) > MAX_PATH:
            raise BoardError(f"{path} is too long for a socket's path; take a directory with a shorter name")
        path.unlink(missing_ok=True)
        clients = threading.BoundedSemaphore(MAX_CLIENTS)

        class Handler(socketserver.StreamRequestHandler):
            timeout = _SILENT_AFTER

            def handle(self) -> None:
                if not clients.acquire(blocking=False):
                    return
                try:
                    while line := self.rfile.readline(MAX_LINE):
                        self.wfile.write(json.dumps(answer(board, line)).encode() + b"\n")
                        if not line.endswith(b"\n"):
                            return
                except OSError:  # it is gone, or silent for long
                    pass
                finally:
                    clients.release()

        try:
            self._server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        except OSError as error:
            raise BoardError(f"there is no control socket at {path}: {error.strerror}") from None
        os.chmod(path, 0o600)
        self._server.daemon_threads = True
        self._path = path
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take the socket away."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._path.unlink(missing_ok=True)


def answer(board: Board, line: bytes) -> dict[str, Any]:
    """What one line is answered; nothing in it raises."""
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ValueError("a line is one JSON object")
        done = _do(board, str(request.pop("do", "")), request)
    except (BoardError, ValueError, TypeError, KeyError, RecursionError) as error:
        return {"ok": False, "error": str(error) or type(error).__name__}
    return {"ok": True, **done}


def _do(board: Board, what: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if what == "status":
        return {
            "state": board.state.name.lower(),
            "port": board.port,
            "chip": board.chip.name,
            "mac": board.mac.hex(":"),
            "flash": str(board.flash_file),
            "log": str(board.serial_log),
            "access_points": [point.ssid for point in board.access_points],
        }
    if what == "power_on":
        board.power_on(**arguments)
    elif what == "cut_power":
        board.cut_power(**arguments)
    elif what == "press_reset":
        board.press_reset(**arguments)
    elif what == "hold_boot":
        board.hold_boot(**arguments)
    elif what == "radio":
        board.radio(**arguments)
    elif what == "slow_radio":
        board.slow_radio(**arguments)
    elif what == "access_points":
        board.set_access_points([AccessPoint(**point) for point in arguments["access_points"]])
    else:
        raise ValueError(f"no such thing to do: {what!r}")
    return {}


def tell(path: Path, request: str) -> str:
    """Send one line to a board's control socket; its answer. Raises BoardError if nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        try:
            connection.connect(str(path))
            connection.sendall(request.replace("\n", " ").encode() + b"\n")
            with connection.makefile("rb") as file:
                return file.readline(MAX_LINE).decode().strip()
        except OSError as error:
            raise BoardError(f"no virtual board answers at {path}: {error.strerror or error}") from None
