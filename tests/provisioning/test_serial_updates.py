"""`lopower flash PORT --update`: virtual boards with what `lopower flash` writes, through the real command and REPL."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lopower.control.client import ControlClient
from lopower_hil.virtual_board.board import State
from lopower_provisioning import filesystem, on_board, repl, serial_update, settings_file
from lopower_provisioning.serial_update import ConfSource, DaemonSource, update_over_serial
from lopower_provisioning.settings_file import Wifi
from lopower_provisioning.steps import LineReporter, Step
from lopower_provisioning.update import UpdateOutcome, UpdateRequest
from tests.provisioning.conftest import PASSWORD, SSID
from tests.provisioning.test_updates import POINTS, Bench, on_flash
from tests.support.loopback_daemon import LoopbackDaemon
from tests.support.virtual_boards import mpremote, virtual_board

MAIN = "import os\nprint('main of', os.getcwd())\n"


@pytest.fixture
def bench(tmp_path: Path, daemon: LoopbackDaemon) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, daemon, stack)


class Cutting(LineReporter):
    """Does something at a place of the update: the beginning of a step, or so much of its progress."""

    def __init__(self, step: str, action: Any, done: float = 0.0) -> None:
        super().__init__(several=False)
        self._step, self._action, self._done = step, action, done

    def progressed(self, board: str, step: Step, done: float) -> None:
        super().progressed(board, step, done)
        if step.name == self._step and done >= self._done and self._action is not None:
            action, self._action = self._action, None
            action()


def update(bench: Bench, port: str, reporter: LineReporter | None = None, **request: Any) -> UpdateOutcome:
    source = DaemonSource(ControlClient([bench.daemon.state_dir / "lopower.sock"]))
    return update_over_serial(port, None, source, UpdateRequest(**request), reporter or LineReporter(several=False))


def public_key(bench: Bench) -> str:
    return str(bench.daemon.devices()["kitchen"]["public_key"])


def test_without_a_tunnel_and_with_the_same_key(bench: Bench, tmp_path: Path) -> None:
    """A board whose Wi-Fi is gone gets another one, a program, and a module that is new; the rest it has."""
    board = bench.board("kitchen", {"main.py": b"print('the first program')\n"}, hostname="kitchen")
    key, before = public_key(bench), board.flash_file.read_bytes()[: 2 << 20]
    board.set_access_points(POINTS[1:])
    main = tmp_path / "app"
    (main / "lib").mkdir(parents=True)
    (main / "main.py").write_text(MAIN)
    (main / "lib" / "mine.py").write_bytes(b"VALUE = 42  # " + b"x" * 3000)
    words = ["--update", "--main", str(main), "--wifi", "New network", "--json"]
    mark = len(board.serial_text())
    done = bench.daemon.lopower("flash", board.port, *words, LOPOWER_WIFI_PASSWORD="another password")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    steps = [event["step"] for event in events if event["event"] == "step" and event["state"] == "done"]
    assert steps == ["asking the board", "making the files", "sending", "waiting for the board"]
    assert any(event["event"] == "progress" and event["step"] == "sending" for event in events)
    result = events[-1]
    assert (result["event"], result["state"], result["name"]) == ("result", "updated", "kitchen")
    sent = next(event["detail"] for event in events if event.get("step") == "sending" and event.get("detail"))
    assert re.fullmatch("set 2; [3-5] KB were new", sent)  # of nearly 100: the package is the same
    board.wait_for("main of /lopower_b/files", since=mark)
    device = bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 2)
    assert device["public_key"] == key
    assert board.flash_file.read_bytes()[: 2 << 20] == before  # bootloader, partitions, image: not erased
    settings = json.loads(on_flash(board, tmp_path, "print(open('lopower_b/lopower.json').read())"))
    assert [network["ssid"] for network in settings["wifi"]] == ["New network"]
    assert "private_key" not in settings
    said = done.stdout + done.stderr + board.serial_text() + bench.daemon.log.read_text()
    assert "another password" not in said
    assert "set 2" in bench.daemon.lopower("device", "logs", "kitchen").stdout
    # Once more, into the other set: the program stays.
    mark = len(board.serial_text())
    done = bench.daemon.lopower("flash", board.port, "--update")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("kitchen runs 0.1.0+")
    board.wait_for("main of /lopower_a/files", since=mark)
    assert bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 3)["public_key"] == key


def test_with_a_configuration_alone(daemon: LoopbackDaemon, tmp_path: Path) -> None:
    """No daemon is asked: the board says by itself whether its tunnel is up, or that it went back."""
    conf, other = tmp_path / "kitchen.conf", tmp_path / "other.conf"
    for path in (conf, other):
        assert daemon.lopower("device", "add", path.stem, "-o", str(path)).returncode == 0
    tunnel = settings_file.tunnel_from_conf(conf.read_text())
    settings = settings_file.settings(tunnel, wifi=[Wifi(SSID, PASSWORD)], written=int(time.time()))
    files = {**filesystem.device_files("xtensawin"), "lopower.json": settings}
    with virtual_board(tmp_path, files, access_points=POINTS) as board:
        board.wait_for(">>> ")
        words = ["flash", board.port, "--update", "--conf"]
        nobody = str(tmp_path / "nobody")
        refused = daemon.lopower(*words, str(other), LOPOWER_STATE_DIR=nobody)
        assert refused.returncode == 1
        assert "the configuration is not the board's: its key is another" in refused.stderr
        assert "The board runs what it ran before" in refused.stderr
        done = daemon.lopower(*words, str(conf), LOPOWER_STATE_DIR=nobody)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "kitchen runs" in done.stdout
        request = UpdateRequest(wifi=(Wifi("Nobody", "no such network"),), trial=6)
        outcome = update_over_serial(board.port, "kitchen", ConfSource(tunnel), request, LineReporter(several=False))
        assert outcome.state == "went back", outcome
        assert "no handshake within 6 s" in outcome.error


def test_the_cable_at_each_step(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power and cable go at many places: each time the old set is whole and runs, and the next try works."""
    monkeypatch.setattr(repl, "INTERRUPT_SECONDS", 8.0)
    monkeypatch.setattr(serial_update, "_SECONDS", 3.0)
    board = bench.board("kitchen", hostname="kitchen")
    user = {"main.py": MAIN.encode(), "data.bin": bytes(20_000)}

    def cut_in(count: int) -> Any:
        return lambda: board.cut_power(after_flash_bytes=count)

    for action, done in ((board.cut_power, 0.9), (cut_in(1), 0.0), (cut_in(60_000), 0.0)):
        outcome = update(bench, board.port, Cutting("sending", action, done), user=user)
        assert outcome.state == "failed", outcome
        assert outcome.error
        assert outcome.hint
        assert board.state is State.OFF
        board.power_on()
        bench.wait_for("kitchen", lambda device: device["state"] == "connected")
        assert "main of" not in board.serial_text()
    assert on_flash(board, tmp_path, "print('manifest.json' in os.listdir('lopower_a'))").strip() == "True"
    # Nor is anything touched when there is no room.
    outcome = update(bench, board.port, user={"large": bytes(2_500_000)})
    assert outcome.state == "failed"
    assert "the flash of kitchen is too full" in outcome.error
    bench.wait_for("kitchen", lambda device: device["state"] == "connected")
    assert update(bench, board.port, user=user).state == "updated"
    board.wait_for("main of /lopower_b/files")


def test_a_line_that_is_gone_while_the_board_has_power(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host says no more: the board starts by itself, with what it ran."""
    monkeypatch.setattr(on_board, "source", _with_watchdog(on_board.source))
    board = bench.board("kitchen", hostname="kitchen")
    mark = len(board.serial_text())

    def gone(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repl.RunningBoard, "reset", lambda self: None)
    outcome = update(bench, board.port, Cutting("sending", gone))
    assert (outcome.state, outcome.error) == ("failed", "stopped by Ctrl-C")
    board.wait_for("rst:0x8", since=mark)
    bench.wait_for("kitchen", lambda device: (device["firmware"] or {}).get("reset") == "wdt")
    assert bench.daemon.devices()["kitchen"]["firmware"]["set"] == 1


def _with_watchdog(source: Any) -> Any:
    def shorter(name: str) -> str:
        text: str = source(name)
        assert "WATCHDOG = 60_000" in text
        return text.replace("WATCHDOG = 60_000", "WATCHDOG = 2_000")

    return shorter


def test_boards_that_are_not_ours(daemon: LoopbackDaemon, tmp_path: Path) -> None:
    """Somebody else's MicroPython, a device of another name, a key that is another's, a damaged set."""
    with ExitStack() as stack:
        bench = Bench(tmp_path, daemon, stack)
        board = bench.board("kitchen", hostname="pantry")
        said = daemon.lopower("flash", board.port, "--update")
        assert said.returncode == 1
        assert "the proxy has no device pantry, which the board says it is" in said.stderr
        assert "--name" in said.stderr
        assert daemon.lopower("device", "add", "other").returncode == 0
        said = daemon.lopower("flash", board.port, "--update", "--name", "other")
        assert "the board's key is not that of the device other" in said.stderr
        done = daemon.lopower("flash", board.port, "--update", "--name", "Kitchen")
        assert done.returncode == 0, done.stderr
        assert bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 2)
        for program, words in (
            ("import os; os.rename('/lopower.json', '/kept')", "no device of lopower's"),
            ("import os; os.rename('/kept', '/lopower.json'); open('/lopower_a/lopower/tcp.mpy', 'w').close(); "
             "open('/lopower_b/lopower/tcp.mpy', 'w').close()", "no complete set of files"),
        ):  # fmt: skip
            mpremote(board, "resume", "exec", program)
            said = daemon.lopower("flash", board.port, "--update", "--name", "kitchen")
            assert said.returncode == 1
            assert f"cannot be updated: {words}" in said.stderr
            assert "all that is on the board is lost then" in said.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "x"], "--image does not go together with --update"),
        (["--keys", "host"], "--keys does not go together with --update"),
        (["--mip", "x"], "--mip goes with --main"),
        (["--remote-repl"], "--remote-repl does not go together with --update"),
        (["--static-ip", "192.168.1.2/24,192.168.1.1"], "--static-ip goes with --wifi"),
    ],
)
def test_options_that_do_not_go_together(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from lopower.cli.main import main

    assert main(["flash", "/dev/null", "--update", *words, "--state-dir", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_the_package_holds_the_program() -> None:
    """It is sent as it lies there, and is short enough for a board to take at once."""
    text = on_board.source("update")
    assert "class Update" in text
    assert len(text) < 12_000
    assert filesystem.program({"main.py": b"x"})["main_program.py"] == b"x"
