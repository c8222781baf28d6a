"""Updates through the tunnel: taken, given up, and cut short."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lopower_hil.bench import BenchError, Board, Proxy
from tests.support.figures import Figure

CUT_AFTER = 40_000
"""Bytes to the board, of about 95,000 for a set."""

UP = "import lopower; print(lopower.wait(60))"


def firmware(proxy: Proxy, board: Board) -> dict[str, Any]:
    """What the board has said that it runs."""
    found = proxy.wait_device(board.device, lambda device: device["firmware"] is not None, "say what it runs")
    said: dict[str, Any] = found["firmware"]
    return said


@pytest.fixture
def flashed(board: Board, proxy: Proxy) -> Board:
    """A board with sets of files as `lopower flash` leaves them, whatever tests before have updated."""
    board.flash(proxy)
    return board


def test_an_update_with_a_program(flashed: Board, proxy: Proxy, tmp_path: Path, figure: Figure) -> None:
    before = firmware(proxy, flashed)["set"]
    main = tmp_path / "app"
    main.mkdir()
    (main / "main.py").write_text("print('the new program')\n")
    began = time.monotonic()
    flashed.update("--main", str(main))
    figure("an update through the tunnel", time.monotonic() - began, "s")
    flashed.wait_for("the new program")
    assert firmware(proxy, flashed)["set"] > before
    assert flashed.run(UP, 70) == "True\n"


@pytest.mark.long
def test_an_update_that_finds_no_network(flashed: Board, proxy: Proxy, tmp_path: Path, figure: Figure) -> None:
    """The board goes back by itself, and says so."""
    before = firmware(proxy, flashed)["set"]
    password = tmp_path / "password"
    password.write_text("no such network\n")
    began = time.monotonic()
    with pytest.raises(BenchError, match="went back to what it ran before"):
        flashed.update("--wifi", "nobody has this name", "--wifi-password-file", str(password), "--trial", "10")
    figure("an update that was given up", time.monotonic() - began, "s")
    after = firmware(proxy, flashed)
    assert (after["set"], after["gave_up"] is not None) == (before, True)
    assert flashed.run(UP, 70) == "True\n"


@pytest.mark.long
@pytest.mark.power
def test_the_power_goes_in_an_update(flashed: Board, proxy: Proxy, figure: Figure) -> None:
    """The old set starts; the same command does it then."""
    before = firmware(proxy, flashed)["set"]
    sent = proxy.device(flashed.device)["tx_bytes"]
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(flashed.update)
        proxy.wait_device(flashed.device, lambda device: device["tx_bytes"] > sent + CUT_AFTER, "take the update")
        flashed.power_off()
        with pytest.raises(BenchError):
            cut.result()
    began = time.monotonic()
    flashed.power_on()
    flashed.wait_connected()
    figure("power to handshake after a cut update", time.monotonic() - began, "s")
    assert flashed.run(UP, 70) == "True\n"
    assert firmware(proxy, flashed)["set"] == before
    flashed.update()
    assert firmware(proxy, flashed)["set"] > before
