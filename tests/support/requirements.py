"""What a test needs from the machine, by name.

A test that lacks it is skipped, and the skip's reason says which program, right or module is missing. With
`LOPOWER_REQUIRE_ALL=1` in the environment, as `make test` sets it after installing everything, a missing one is a
failure: a skip nobody looks at would otherwise turn into a test nobody runs.
"""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest


def require_program(name: str) -> str:
    """Path of the program `name` (a name to look for in PATH, or a path)."""
    path = shutil.which(name)
    if path is None:
        missing(f"program {name!r} is not installed")
    return path


def require_root() -> None:
    """Continue as root only."""
    if os.geteuid() != 0:
        missing("needs root")


def require_module(name: str) -> ModuleType:
    """The imported module `name`."""
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        missing(f"module {name!r} cannot be imported: {exc}")


def missing(reason: str) -> NoReturn:
    """Skip the running test for `reason`, or fail it where everything is required to be there."""
    if os.environ.get("LOPOWER_REQUIRE_ALL") == "1":
        pytest.fail(f"LOPOWER_REQUIRE_ALL=1, but: {reason}", pytrace=False)
    pytest.skip(reason)
