"""The core does no I/O and knows neither clock nor randomness nor threads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lopower.wireguard

FORBIDDEN = {"socket", "asyncio", "time", "os", "random", "secrets", "threading", "select", "datetime", "subprocess"}
FILES = sorted(Path(lopower.wireguard.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_module_imports_what_does_io(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert not imported & FORBIDDEN
