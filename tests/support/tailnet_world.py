"""The programs of the tests against a tailnet, built: the test tailnet of hil/tailnet_world, and the sidecar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lopower_hil.tailnet_world import TailnetWorld, running_world
from tests.support.requirements import missing, require_program

__all__ = ["TailnetWorld", "build_world", "running_world", "sidecar_directory"]

ROOT = Path(__file__).parents[2]
SIDECAR_SOURCE = ROOT / "host" / "sidecar"
WORLD_SOURCE = ROOT / "hil" / "tailnet_world"
BUILD_SECONDS = 600


def build_world(directory: Path) -> Path:
    """The test tailnet's program."""
    require_program("go")
    program = directory / "world"
    _run(["sh", str(SIDECAR_SOURCE / "build.sh"), str(program), str(WORLD_SOURCE)], WORLD_SOURCE)
    return program


def sidecar_directory(directory: Path) -> Path:
    """Where the sidecar is: beside the interpreter, where `make setup` puts it, else built in `directory`."""
    beside = Path(sys.executable).parent
    if not (beside / "lopower-sidecar").is_file():
        require_program("go")
        _run(["sh", "build.sh", str(directory / "lopower-sidecar")], SIDECAR_SOURCE)
        return directory
    return beside


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if done.returncode:
        missing(f"`{' '.join(command)}` in {directory} failed: {done.stderr[-2000:]}")
