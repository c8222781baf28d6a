"""Completion, in the shells themselves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from lopower.cli.main import main
from tests.support.requirements import require_program


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def complete_in_bash(script: str, *words: str) -> list[str]:
    """What bash offers for the last of `words`. Devices are kitchen and garden."""
    line = " ".join(f"'{word}'" for word in words)
    code = f"""
lopower() {{ [ "$1 $2" = "device list" ] && printf 'kitchen\\ngarden\\n'; }}
{script}
COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}
_lopower; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run([require_program("bash"), "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash(capsys: pytest.CaptureFixture[str]) -> None:
    text = script("bash", capsys)
    assert complete_in_bash(text, "lopower", "de") == ["device"]
    assert complete_in_bash(text, "lopower", "device", "re") == ["remove", "rename", "reset-clock"]
    assert complete_in_bash(text, "lopower", "device", "show", "k") == ["kitchen"]
    assert complete_in_bash(text, "lopower", "ping", "") == ["kitchen", "garden"]
    assert "--full-tunnel" in complete_in_bash(text, "lopower", "device", "add", "--f")
    assert "--endpoint" in complete_in_bash(text, "lopower", "up", "--e")
    assert complete_in_bash(text, "lopower", "completion", "")[:3] == ["bash", "zsh", "fish"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_others_take_the_script(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(script(shell, capsys))
    assert "device list --quiet" in file.read_text()
    program = require_program(shell)
    done = subprocess.run([program, "-n", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
