"""A blank board becomes a device, and one that is a device becomes one again."""

from __future__ import annotations

import subprocess
import sys
import time

from lopower_hil.bench import Board, Proxy
from tests.support.figures import Figure


def test_blank_and_again(board: Board, proxy: Proxy, figure: Figure) -> None:
    with board.console.released():
        subprocess.run(
            [sys.executable, "-m", "esptool", "--port", board.port, "erase-flash"],
            check=True, stdout=subprocess.DEVNULL, timeout=110,
        )  # fmt: skip
    began = time.monotonic()
    board.flash(proxy)
    figure("flash a blank board until its handshake", time.monotonic() - began, "s")
    first = proxy.device(board.device)
    began = time.monotonic()
    board.flash(proxy)
    figure("flash it again", time.monotonic() - began, "s")
    again = proxy.device(board.device)
    assert (again["ipv4"], again["ipv6"]) == (first["ipv4"], first["ipv6"])
    assert again["public_key"] != first["public_key"]
    assert again["state"] == "connected"
    assert board.run("import lopower; print(lopower.status()['state'])") == "up\n"
