"""The device's cores, by the same cases on CPython, on MicroPython with native kernels, and with the plain ones."""

from __future__ import annotations

import ast
import importlib
import sys
from functools import cache
from pathlib import Path

import pytest
from lopower_device.peer import PROGRAM

from tests.firmware.test_firmware_turn import LARGEST
from tests.support.micropython import SUITE, built, run_micropython


def _cases() -> list[tuple[str, str]]:
    found = []
    for path in sorted(SUITE.glob("*_cases.py")):
        tree = ast.parse(path.read_text())
        found += [
            (path.stem, node.name)
            for node in tree.body
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
    return found


@cache
def _output(module: str, architecture: str, directory: str) -> str:
    return run_micropython(
        f"import suite_runner\nsuite_runner.run({module!r})\n",
        Path(directory),
        architecture=architecture,
        heap="32M",
        timeout=100,
    )


@pytest.mark.parametrize(("module", "case"), _cases())
def test_on_cpython(module: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The log lies beside the directory of the set that runs, which here would be this repository.
    journal = importlib.import_module("lopower_device.journal")
    monkeypatch.setattr(journal, "__file__", str(tmp_path / "set" / "lopower" / "journal.py"))
    monkeypatch.setitem(sys.modules, journal.__name__, journal)
    if str(SUITE) not in sys.path:
        sys.path.append(str(SUITE))
    getattr(importlib.import_module(module), case)()


@pytest.mark.xdist_group("firmware-suite")
@pytest.mark.parametrize(
    ("module", "case", "architecture"),
    [(*entry, "x64") for entry in _cases()]
    + [(*entry, "none") for entry in _cases() if entry[0] in ("crypto_cases", "start_cases")],
)
def test_on_micropython(module: str, case: str, architecture: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.getbasetemp() / "firmware-suite"
    directory.mkdir(exist_ok=True)
    output = _output(module, architecture, str(directory))
    assert f"PASSED {case}\n" in output, output[output.find(f"FAILED {case}\n") :].partition(f"END {case}")[0]


@pytest.mark.xdist_group("firmware-suite")
def test_files_of_a_handshake_are_small() -> None:
    """One of them is loaded in one turn."""
    for name in (*PROGRAM, "stamps", "initiate", "complete", "respond", "cookie"):
        assert 0 < (built("x64") / "lopower" / f"{name}.mpy").stat().st_size <= LARGEST, name
