"""The programs of the tests against a tailnet, built: the test tailnet of hil/tailnet_world, and the sidecar."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lopower_hil.tailnet_world import TailnetWorld, running_world
from tests.support.requirements import missing, require_program

__all__ = ["TailnetWorld", "build_world", "running_world", "sidecar_directory"]

ROOT = Path(__file__).parents[2]
SIDECAR_SOURCE = ROOT / "host" / "sidecar"
WORLD_SOURCE = ROOT / "hil" / "tailnet_world"
WORLD_NAME = "lopower-test-tailnet"
BUILD_SECONDS = 1800  # a slow machine with an empty cache


def build_world(directory: Path) -> Path:
    """The test tailnet's program."""
    require_program("go")
    program = directory / WORLD_NAME
    run_build(["sh", str(SIDECAR_SOURCE / "build.sh"), str(program), str(WORLD_SOURCE)], WORLD_SOURCE)
    return program


def sidecar_directory(directory: Path) -> Path:
    """Where the sidecar is: beside the interpreter, where `make setup` puts it, else built in `directory`."""
    if (built := beside_interpreter("lopower-sidecar")) is not None:
        return built.parent
    require_program("go")
    run_build(["sh", "build.sh", str(directory / "lopower-sidecar")], SIDECAR_SOURCE)
    return directory


def beside_interpreter(name: str) -> Path | None:
    """A program of ours where make puts it; None if it was not made."""
    place = Path(sys.executable).with_name(name)
    return place if place.is_file() else None


def run_build(command: list[str], directory: Path, **environment: str) -> str:
    """What a builder prints; a failure is something that the test lacks."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if done.returncode:
        missing(f"`{' '.join(command)}` in {directory} failed: {done.stderr[-2000:]}")
    return done.stdout
