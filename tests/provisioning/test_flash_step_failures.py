"""Each step of a flashing fails: what is said of the board is true, nothing is left behind, the same again goes on."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower_hil.virtual_board.board import Board
from lopower_provisioning import repl, targets
from lopower_provisioning.errors import BoardState
from lopower_provisioning.job import Outcome, Request, flash
from lopower_provisioning.settings_file import Tunnel, Wifi
from lopower_provisioning.steps import LineReporter, Step
from lopower_provisioning.targets import DaemonTarget
from tests.provisioning.conftest import PASSWORD, SSID, BoardMaker
from tests.support.loopback_daemon import LoopbackDaemon

WRITING = "writing"
MAKING = "making the key on the board"
STORING = "storing the settings"


class Interfering(LineReporter):
    """Does something when a step begins."""

    def __init__(self, step: str, action: Callable[[], object]) -> None:
        super().__init__(several=False)
        self._step = step
        self._action = action

    def began(self, board: str, step: Step) -> None:
        super().began(board, step)
        if step.name == self._step:
            self._action()


class Fleet:
    """Requests for one board and one daemon."""

    def __init__(self, daemon: LoopbackDaemon, board: Board, image: Path) -> None:
        self.daemon = daemon
        self.board = board
        self._image = image

    def request(self, password: str = PASSWORD, ssid: str = SSID, **more: object) -> Request:
        client = ControlClient([self.daemon.state_dir / "lopower.sock"])
        request = Request(
            port=self.board.port, label="board", target=DaemonTarget(client), cache=self.daemon.directory / "cache",
            confirm=lambda question, consequence: False, name="kitchen", wifi=(Wifi(ssid, password),),
            image=self._image,
        )  # fmt: skip
        return replace(request, **more)  # type: ignore[arg-type]

    def flash(self, step: str = "", action: Callable[[], object] = lambda: None, **more: object) -> Outcome:
        return flash(self.request(**more), Interfering(step, action))  # type: ignore[arg-type]


@pytest.fixture
def fleet(daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    monkeypatch.setattr(targets, "HANDSHAKE_SECONDS", 6.0)
    monkeypatch.setattr(repl, "INTERRUPT_SECONDS", 6.0)
    return Fleet(daemon, make_board(), image)


def test_power_and_cable_at_each_step(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    """The power goes while the flash is written, before the key is made, and before the settings are stored."""
    board = fleet.board
    cut = fleet.flash(WRITING, lambda: board.cut_power(after_flash_bytes=60_000))
    assert (cut.state, cut.board_state) == ("failed", BoardState.INCOMPLETE.value)
    board.power_on()
    cut = fleet.flash(MAKING, board.cut_power)
    assert (cut.state, cut.board_state) == ("failed", BoardState.WITHOUT_KEY.value)
    assert cut.hint
    assert fleet.daemon.devices() == {}
    board.power_on()
    cut = fleet.flash(STORING, board.cut_power)
    assert (cut.state, cut.board_state) == ("failed", BoardState.WITHOUT_KEY.value)
    assert fleet.daemon.devices() == {}
    assert "the enrolment of kitchen was taken back" in capsys.readouterr().err
    board.power_on()
    done = fleet.flash()
    assert done.state == "connected", done.error
    before = fleet.daemon.devices()["kitchen"]
    cut = fleet.flash(STORING, board.cut_power)
    assert cut.state == "failed"
    assert fleet.daemon.devices()["kitchen"]["public_key"] == before["public_key"]
    cut = fleet.flash("finding the board")
    assert (cut.state, cut.board_state) == ("failed", BoardState.UNTOUCHED.value)
    assert "hold BOOT" in cut.hint


def test_a_key_made_here_that_does_not_arrive(fleet: Fleet) -> None:
    cut = fleet.flash(WRITING, lambda: fleet.board.cut_power(after_flash_bytes=30_000), key_on_board=False)
    assert (cut.state, cut.board_state) == ("failed", BoardState.INCOMPLETE.value)
    assert fleet.daemon.devices() == {}


def test_the_daemon_goes_away(fleet: Fleet) -> None:
    """Before the board is enrolled; and, worse, after: then the user is told what is left to do."""
    failed = fleet.flash(MAKING, fleet.daemon.stop)
    assert (failed.state, failed.board_state) == ("failed", BoardState.WITHOUT_KEY.value)
    assert "lopower device remove kitchen" in failed.hint or "no lopower daemon is running" in failed.error
    fleet.daemon.start()
    assert fleet.daemon.devices() == {}


def test_ctrl_c(fleet: Fleet) -> None:
    """The board is as it says, and no device is left without a board."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    stopped = fleet.flash(STORING, interrupt)
    assert (stopped.state, stopped.board_state) == ("stopped", BoardState.WITHOUT_KEY.value)
    assert fleet.daemon.devices() == {}


def test_an_enrolment_that_cannot_be_taken_back(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: DaemonTarget) -> None:
        raise ControlError("no lopower daemon is running")

    monkeypatch.setattr(DaemonTarget, "take_back", gone)
    failed = fleet.flash(STORING, fleet.board.cut_power)
    assert failed.state == "failed"
    assert "taking it back failed" in failed.error
    assert failed.hint == "lopower device remove kitchen"


def test_wifi_and_endpoint(fleet: Fleet) -> None:
    """A wrong password, a network that is not there, an endpoint that is silent: each in the board's own words."""
    wrong = fleet.flash(password="quite another one")
    assert (wrong.state, wrong.board_state) == ("failed", BoardState.SILENT.value)
    assert f"the password of {SSID} is wrong" in wrong.error
    assert "quite another one" not in wrong.error
    absent = fleet.flash(ssid="Elsewhere")
    assert "no access point in reach has the name Elsewhere" in absent.error
    assert list(fleet.daemon.devices()) == ["kitchen"]
    assert fleet.flash().state == "connected"


def test_a_silent_endpoint(fleet: Fleet, make_board: BoardMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        enrol = DaemonTarget.enrol

        def elsewhere(self: DaemonTarget, name: str, mac: str, public_key: str) -> Tunnel:
            tunnel = enrol(self, name, mac, public_key)
            tunnel.proxy["endpoints"] = [f"127.0.0.1:{silent.getsockname()[1]}"]
            return tunnel

        monkeypatch.setattr(DaemonTarget, "enrol", elsewhere)
        monkeypatch.setattr(targets, "HANDSHAKE_SECONDS", 12.0)  # the board has to try twice
        failed = fleet.flash()
    assert (failed.state, failed.board_state) == ("failed", BoardState.SILENT.value)
    assert "the board says: no answer from 127.0.0.1" in failed.error
    assert "the proxy says" in failed.error
