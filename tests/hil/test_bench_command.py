"""`lopower bench init` and `check`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lopower.cli.main import main
from lopower_hil.bench import environment_file
from lopower_hil.bench.errors import BenchError
from lopower_hil.virtual_board import Board, BoardConfig
from tests.support.labgrid_lab import PROGRAMS
from tests.support.requirements import missing, require_module


def test_a_name_that_stays(tmp_path: Path) -> None:
    """By serial number if there is one, else by socket; the name of today is in the comment."""
    port = tmp_path / "ttyUSB0"
    port.touch()
    links = tmp_path / "serial"
    for kind in ("by-path", "by-id"):
        (links / kind).mkdir(parents=True)
        (links / kind / f"usb-{kind}").symlink_to(port)
        text = environment_file.environment([str(port)], links=links)
        assert f'port: "{links}/{kind}/usb-{kind}"' in text
        assert f"# {port} when this was written" in text
    assert "by-path" not in text


def test_addresses() -> None:
    text = environment_file.environment(["rfc2217://pi:4000?ign_set_control", "socket://[::1]:4001"])
    assert 'host: "pi"\n        port: 4000\n        speed: 115200\n        protocol: rfc2217' in text
    assert 'host: "::1"\n        port: 4001\n        speed: 115200\n        protocol: raw' in text
    for wrong in ("loop://", "rfc2217://pi", "rfc2217://pi:seven"):
        with pytest.raises(BenchError, match="no port that labgrid knows"):
            environment_file.environment([wrong])


def test_a_file_that_is_there_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "init", "/dev/ttyUSB7"]) == 0
    assert "bench.yaml is written" in capsys.readouterr().err
    before = Path("bench.yaml").read_text()
    assert main(["bench", "init", "/dev/ttyUSB8"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert Path("bench.yaml").read_text() == before
    assert main(["bench", "check"]) == 1
    assert "--lg-env needs labgrid" in capsys.readouterr().err


def test_a_port_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    require_module("micropython_run")
    with Board(BoardConfig(directory=tmp_path / "board")) as board:
        assert main(["bench", "check", "--board", board.port, "--board", str(tmp_path / "nothing"), "--json"]) == 1
    one, other = json.loads(capsys.readouterr().out)["boards"]
    assert one["resources"][0]["works"]
    assert board.mac.hex(":") in one["resources"][0]["text"]
    assert not other["resources"][0]["works"]


def test_what_init_writes_is_what_check_takes(tmp_path: Path) -> None:
    """labgrid reads it, and each resource says what came of it."""
    require_module("micropython_run")
    if not (PROGRAMS.parent / ".installed").is_file():
        missing("labgrid is not installed: make lab")
    with Board(BoardConfig(directory=tmp_path / "board")) as board:
        text = environment_file.environment([board.port])
        assert "AccessPointCommandDriver" in text
        switches = "ExternalPowerDriver: {cmd_on: 'true', cmd_off: 'false'}"
        (tmp_path / "bench.yaml").write_text(
            text.replace("MicroPythonDriver: {}", f"{switches}\n      MicroPythonDriver: {{}}")
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LG_", "LOPOWER_"))}
        done = subprocess.run(
            [PROGRAMS / "lopower", "bench", "check", "--json"],
            cwd=tmp_path, env={**kept, "LOPOWER_WIFI_PASSWORD": "whatever it is"},
            capture_output=True, text=True, check=False, timeout=100,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (checked,) = json.loads(done.stdout)["boards"]
    by_name = {entry["resource"]: entry for entry in checked["resources"]}
    assert by_name["serial port"]["works"], by_name
    assert by_name["access point"] == {
        "resource": "access point",
        "works": True,
        "text": "CHANGE-ME; nothing switches it",
    }
    assert not by_name["power switch"]["works"]
    assert "does not switch off" in by_name["power switch"]["text"]


def test_it_is_named_where_it_is_not_installed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lopower.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    assert "bench" in done.stdout
