"""The command line starts quickly, and reaches the daemon through its socket alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.control_plane import environment

HEAVY = ("numpy", "sqlalchemy", "aiohttp", "asyncio", "nacl", "cryptography", "qrcode", "PIL", "dnslib")
COMMANDS = (
    ("device", "list"),
    ("device", "show", "kitchen"),
    ("device", "add", "kitchen"),
    ("serve", "1883"),
    ("server", "show"),
    ("status",),
    ("ping", "kitchen"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_through_the_socket_import_nothing_heavy(command: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from lopower.cli.main import main; main(sys.argv[1:]);"
        f"print([name for name in {HEAVY!r} if name in sys.modules],"
        " [name for name in sys.modules if name.startswith('lopower.devices')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--state-dir", str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment(tmp_path),
    )  # fmt: skip
    assert done.stdout == "[] []\n", done.stderr
    assert "no lopower daemon is running" in done.stderr


def test_version(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lopower.cli.main", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "lopower 0.1.0\n")


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -m lopower.cli.main config init --stdout | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
