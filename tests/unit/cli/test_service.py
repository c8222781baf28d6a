"""The systemd unit, and polite refusals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lopower.cli import service
from lopower.cli.errors import CommandError
from lopower.cli.main import main
from lopower.cli.service import unit_text
from tests.support.requirements import require_program

# systemd's own scale, from 0 (confined) to 10: below 2 is its "OK" for a service that must have the network.
MAX_EXPOSURE = 2.0


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    path = tmp_path / "lopower.service"
    path.write_text(unit_text(Path(sys.executable)))
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    done = subprocess.run(
        [require_program("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_is_confined(unit: Path) -> None:
    done = subprocess.run(
        [require_program("systemd-analyze"), "security", "--offline=yes", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    match = re.search(r"Overall exposure level for lopower.service: ([0-9.]+)", done.stdout)
    assert match is not None, done.stdout + done.stderr
    assert float(match[1]) <= MAX_EXPOSURE


def test_dry_run_prints_all_it_would_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "install", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for part in ("/etc/systemd/system/lopower.service", "/etc/sysusers.d/lopower.conf", '\ncontrol_group = "lopower"'):
        assert part in out
    assert "WatchdogSec=" in out
    assert main(["service", "uninstall", "--dry-run"]) == 0


def test_without_systemd_or_root_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "_BOOTED", tmp_path / "none")
    assert main(["service", "install"]) == 1
    assert main(["service", "status"]) == 1
    assert "not run by systemd" in capsys.readouterr().err
    monkeypatch.setattr(service, "_BOOTED", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["service", "install"]) == 4
    assert "sudo lopower service install" in capsys.readouterr().err


def test_a_program_in_a_private_directory_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "private/lopower"
    program.parent.mkdir(mode=0o700)
    program.touch(mode=0o755)
    with pytest.raises(CommandError, match="is private") as caught:
        service._require_readable(program)
    assert "--global" in caught.value.hint
