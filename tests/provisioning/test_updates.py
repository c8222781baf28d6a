"""`lopower update` through real tunnels: virtual boards with the files that `lopower flash` writes, a real daemon."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lopower.control.client import ControlClient
from lopower_hil.virtual_board.board import State
from lopower_hil.virtual_board.radio import AccessPoint
from lopower_provisioning import filesystem, settings_file
from lopower_provisioning.settings_file import Wifi
from lopower_provisioning.steps import LineReporter
from lopower_provisioning.update import UpdateOutcome, UpdateRequest, update
from tests.provisioning.conftest import PASSWORD, SSID
from tests.provisioning.test_littlefs_on_micropython import run as on_micropython
from tests.support.loopback_daemon import LOPOWER, LoopbackDaemon
from tests.support.virtual_boards import tool, virtual_board

FILESYSTEM = 0x200000
SIZE = 0x200000
POINTS = (AccessPoint(SSID, PASSWORD), AccessPoint("New network", "another password"))


class Bench:
    """Boards that are devices of one daemon."""

    def __init__(self, directory: Path, daemon: LoopbackDaemon, stack: ExitStack) -> None:
        self.directory = directory
        self.daemon = daemon
        self._stack = stack
        self._boards: dict[str, Any] = {}

    def board(self, name: str, user: Mapping[str, bytes] | None = None, **more: Any) -> Any:
        """A board that was flashed, and is connected."""
        done = self.daemon.lopower("device", "add", name, "--format", "json")
        assert done.returncode == 0, done.stderr
        tunnel = settings_file.tunnel_from_json(done.stdout)
        settings = settings_file.settings(tunnel, wifi=[Wifi(SSID, PASSWORD)], written=int(time.time()), **more)
        files = {**filesystem.device_files("xtensawin"), "lopower.json": settings, **(user or {})}
        (self.directory / name).mkdir()
        board = self._stack.enter_context(virtual_board(self.directory / name, files, access_points=POINTS))
        self._boards[name] = board
        self.wait_for(name, lambda device: device["firmware"] is not None)
        return board

    def wait_for(self, name: str, condition: Any, seconds: float = 30.0) -> dict[str, Any]:
        """The device as `device list` shows it, once it is as it should be."""
        deadline = time.monotonic() + seconds
        while not condition(device := self.daemon.devices()[name]):
            assert time.monotonic() < deadline, f"{device}\n{self._boards[name].serial_text()}"
            time.sleep(0.1)
        return device

    def update(self, name: str, **request: Any) -> UpdateOutcome:
        """As `lopower update` does it, without a process of its own."""
        client = ControlClient([self.daemon.state_dir / "lopower.sock"])
        return update(client, name, UpdateRequest(**request), LineReporter(several=False))


@pytest.fixture
def bench(tmp_path: Path, daemon: LoopbackDaemon) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(tmp_path, daemon, stack)


def on_flash(board: Any, scratch: Path, program: str) -> str:
    """What a program prints on MicroPython with a copy of the board's file system."""
    copy = scratch / "copy-of-flash"
    copy.write_bytes(board.flash_file.read_bytes())
    return on_micropython(program, copy, FILESYSTEM, SIZE)


def test_an_update(bench: Bench, tmp_path: Path) -> None:
    """Package, settings and a program go beside the old ones, and the board starts with them; the next keeps them."""
    board = bench.board("kitchen", {"main.py": b"print('the first program')\n"})
    before = bench.daemon.devices()["kitchen"]["firmware"]
    assert (before["set"], before["repl"]) == (1, False)
    assert before["package"].startswith("0.1.0+")
    assert "MicroPython" in before["image"]
    refused = bench.daemon.lopower("repl", "kitchen")
    assert refused.returncode == 1
    assert "not flashed with --remote-repl" in refused.stderr
    main = tmp_path / "app"
    (main / "lib").mkdir(parents=True)
    (main / "main.py").write_text("from mine import VALUE\nprint('main says', VALUE)\n")
    (main / "lib" / "mine.py").write_text("VALUE = 6 * 7\n")
    mark = len(board.serial_text())
    words = ["--main", str(main), "--wifi", "New network", "--json"]
    done = bench.daemon.lopower("update", "kitchen", *words, LOPOWER_WIFI_PASSWORD="another password")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["event"], result["state"], result["name"]) == ("result", "updated", "kitchen")
    board.wait_for("main says 42", since=mark)
    mark = len(board.serial_text())
    assert bench.update("kitchen").state == "updated"
    board.wait_for("main says 42", since=mark)
    bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 3)
    settings = json.loads(on_flash(board, tmp_path, "print(open('lopower_a/lopower.json').read())"))
    assert settings["wifi"][0]["ssid"] == "New network"
    assert "private_key" not in settings
    said = done.stdout + done.stderr + board.serial_text() + bench.daemon.log.read_text()
    assert "another password" not in said
    listed = bench.daemon.lopower("device", "list").stdout
    assert "0.1.0+" in listed


def test_back_by_itself(bench: Bench) -> None:
    """Networks that are not there: after the trial the board runs what it ran before, and the proxy says so."""
    bench.board("kitchen")
    outcome = bench.update("kitchen", wifi=(Wifi("Nobody", "no such network"),), trial=6)
    assert outcome.state == "went back"
    assert "kitchen went back to what it ran before: no handshake within 6 s" in outcome.error
    details = json.loads(bench.daemon.lopower("device", "show", "kitchen", "--json").stdout)
    assert details["firmware"]["set"] == 1
    assert details["firmware"]["gave_up"] == 2
    assert "update_given_up" in [finding["code"] for finding in details["findings"]]
    assert "kitchen gave an update up" in bench.daemon.log.read_text()
    log = bench.daemon.lopower("device", "logs", "kitchen")
    assert log.returncode == 0, log.stderr
    assert "set 2 is given up: no handshake within 6 s" in log.stdout
    assert "started: pwron" in log.stdout
    # A later one, that is right, is taken.
    assert bench.update("kitchen").state == "updated"
    assert bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 3)["firmware"]["gave_up"] is None


def test_a_power_cut_in_an_update(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old set starts; the same command does it then."""
    monkeypatch.setattr("lopower.control.visit.ANSWER_SECONDS", 3.0)
    board = bench.board("kitchen")
    board.cut_power(after_flash_bytes=60_000)
    outcome = bench.update("kitchen", trial=6, patience=0.0)
    assert outcome.state != "updated"
    assert board.state is State.OFF
    board.power_on()
    deadline = time.monotonic() + 60
    while (outcome := bench.update("kitchen")).state == "failed":
        assert time.monotonic() < deadline, outcome
    assert outcome.state == "updated"


def test_a_rollout_stops(bench: Bench, tmp_path: Path) -> None:
    """The first board fails: the others are not touched, and the report says so."""
    boards = {name: bench.board(name) for name in ("aa", "bb")}
    boards["aa"].cut_power()
    report = tmp_path / "report.csv"
    done = bench.daemon.lopower("update", "--all", "--canary", "1", "--parallel", "50", "--csv", str(report))
    assert done.returncode == 1, done.stdout + done.stderr
    with report.open(newline="") as file:
        states = {row["name"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"aa": "failed", "bb": "skipped"}
    assert {bench.daemon.devices()[name]["firmware"]["set"] for name in boards} == {1}


def test_mpremote_through_the_tunnel(bench: Bench) -> None:
    """mpremote, unmodified, at the local port of `lopower repl`; one after the other."""
    bench.board("kitchen", {"main.py": b"while True: pass\n"}, remote_repl=True)
    assert bench.daemon.devices()["kitchen"]["firmware"]["repl"]
    command = [LOPOWER, "repl", "kitchen", "--listen", "0"]
    with subprocess.Popen(command, env=bench.daemon.environment, stdout=subprocess.PIPE, text=True) as bridge:
        assert bridge.stdout is not None
        try:
            url = bridge.stdout.readline().strip()
            assert url.startswith("socket://127.0.0.1:")
            for number in (6, 7):
                said = tool("mpremote", "connect", url, "resume", "exec", f"print({number} * 7)")
                assert said.strip() == str(number * 7)
        finally:
            bridge.terminate()
