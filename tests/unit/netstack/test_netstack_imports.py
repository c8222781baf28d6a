"""The core does no I/O: neither it nor the wire formats import a socket, a clock or a source of randomness."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lopower.netstack
import lopower.wire

FORBIDDEN = {"socket", "asyncio", "time", "os", "random", "secrets", "threading", "select", "selectors"}
MODULES = sorted(
    path for package in (lopower.netstack, lopower.wire) for path in Path(package.__path__[0]).rglob("*.py")
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_io(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & FORBIDDEN
