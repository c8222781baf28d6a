"""`lopower update` through real tunnels: virtual boards with the files that `lopower flash` writes, a real daemon."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lopower_hil.virtual_board.radio import AccessPoint
from lopower_provisioning import filesystem, settings_file
from lopower_provisioning.settings_file import Wifi
from tests.provisioning.conftest import PASSWORD, SSID
from tests.provisioning.test_littlefs_on_micropython import run as on_micropython
from tests.support.loopback_daemon import LoopbackDaemon
from tests.support.virtual_boards import virtual_board

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

    def update(self, *words: str, **variables: str) -> tuple[int, str, str]:
        done = self.daemon.lopower("update", *words, **variables)
        print(words, done.stdout, done.stderr)
        return done.returncode, done.stdout, done.stderr


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
    """Package and settings go beside the old ones, the board starts with them; then with a program, which stays."""
    board = bench.board("kitchen", {"main.py": b"print('the first program')\n"})
    before = bench.daemon.devices()["kitchen"]["firmware"]
    assert (before["set"], before["repl"]) == (1, False)
    assert before["package"].startswith("0.1.0+")
    assert "MicroPython" in before["image"]
    code, out, err = bench.update("kitchen")
    assert code == 0, out + err
    assert out.startswith("kitchen runs 0.1.0+")
    assert bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 2)["state"] == "connected"
    main = tmp_path / "app"
    (main / "lib").mkdir(parents=True)
    (main / "main.py").write_text("from mine import VALUE\nprint('main says', VALUE)\n")
    (main / "lib" / "mine.py").write_text("VALUE = 6 * 7\n")
    mark = len(board.serial_text())
    words = ["--main", str(main), "--wifi", "New network", "--json"]
    code, out, err = bench.update("kitchen", *words, LOPOWER_WIFI_PASSWORD="another password")
    assert code == 0, out + err
    result = json.loads(out.splitlines()[-1])
    assert (result["event"], result["state"], result["name"]) == ("result", "updated", "kitchen")
    board.wait_for("main says 42", since=mark)
    # The next one changes neither the program nor the networks.
    mark = len(board.serial_text())
    code, out, err = bench.update("kitchen")
    assert code == 0, out + err
    board.wait_for("main says 42", since=mark)
    bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 4)
    settings = json.loads(on_flash(board, tmp_path, "print(open('lopower_b/lopower.json').read())"))
    assert settings["wifi"][0]["ssid"] == "New network"
    assert "private_key" not in settings
    assert "another password" not in out + err + board.serial_text() + bench.daemon.log.read_text()


def test_back_by_itself(bench: Bench) -> None:
    """An update whose network is not there: after the trial the board runs what it ran before, and the proxy says it."""
    bench.board("kitchen")
    words = ["--wifi", "Nobody", "--trial", "8"]
    code, out, err = bench.update("kitchen", *words, LOPOWER_WIFI_PASSWORD="no such network")
    assert code == 1, out + err
    assert "went back to what it ran before: no handshake within 8 s" in err
    details = json.loads(bench.daemon.lopower("device", "show", "kitchen", "--json").stdout)
    assert details["firmware"]["set"] == 1
    assert details["firmware"]["gave_up"] == 2
    assert "update_given_up" in [finding["code"] for finding in details["findings"]]
    assert "kitchen gave an update up" in bench.daemon.log.read_text()
    log = bench.daemon.lopower("device", "logs", "kitchen")
    assert log.returncode == 0, log.stderr
    assert "set 2 is given up: no handshake within 8 s" in log.stdout
    assert "started: pwron" in log.stdout
    # A later one, that is right, is taken.
    code, out, err = bench.update("kitchen")
    assert code == 0, out + err
    assert bench.wait_for("kitchen", lambda device: device["firmware"]["set"] == 3)["firmware"]["gave_up"] is None


def test_a_rollout_stops(bench: Bench, tmp_path: Path) -> None:
    """The first board fails: the others are not touched, and the report says so."""
    boards = {name: bench.board(name) for name in ("aa", "bb", "cc")}
    boards["aa"].cut_power()
    report = tmp_path / "report.csv"
    code, out, err = bench.update("--all", "--canary", "1", "--parallel", "50", "--csv", str(report))
    assert code == 1, out + err
    with report.open(newline="") as file:
        states = {row["name"]: row["state"] for row in csv.DictReader(file)}
    assert states == {"aa": "failed", "bb": "skipped", "cc": "skipped"}
    assert {bench.daemon.devices()[name]["firmware"]["set"] for name in boards} == {1}
    code, out, err = bench.update("bb", "cc", "--canary", "0")
    assert code == 0, out + err
    for name in ("bb", "cc"):
        bench.wait_for(name, lambda device: device["firmware"]["set"] == 2)
