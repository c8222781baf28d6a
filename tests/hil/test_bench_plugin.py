"""The plugin as its users have it: pytest as a process, in a folder that knows nothing of this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

from lopower_hil.bench import tailnet
from lopower_hil.bench.errors import LackingError
from lopower_hil.made_images import stock_image
from lopower_hil.virtual_board import AccessPoint, Board, BoardConfig
from tests.support.requirements import missing, require_module

ROOT = Path(__file__).parents[2]
APPLICATION = """\
import socket, lopower
lopower.wait(60)
server = socket.socket()
server.bind(("0.0.0.0", 80))
server.listen(2)
print("ready")
while True:
    client, _ = server.accept()
    client.settimeout(5)
    client.recv(1000)
    client.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: 14\\r\\n\\r\\ntomatoes: 20 %")
    client.close()
"""


def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest in `directory`, without what this run has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "LOPOWER_"))}
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", "-p", "no:asyncio", *arguments]
    return subprocess.run(
        command, cwd=directory, env={**kept, **variables}, capture_output=True, text=True, check=False, timeout=110
    )


@pytest.fixture(autouse=True)
def _modules() -> None:
    for module in ("micropython_run", "esp32_mock_bootloader", "esptool"):
        require_module(module)


def test_what_the_readme_shows(tmp_path: Path) -> None:
    """Its test runs as it stands there; the report's page has what board and proxy said, JUnit's file the outcome."""
    try:
        tailnet.program(tmp_path)
    except LackingError as error:
        missing(str(error))
    (shown,) = re.findall(r"```python\n(# test_garden.py.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "test_garden.py").write_text(shown)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "main.py").write_text(APPLICATION)
    done = run(tmp_path, "--bench-report", "report.html", "--junitxml", "junit.xml")
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    page = (tmp_path / "report.html").read_text()
    assert "2 passed" in page
    assert "<th>board1</th><th>proxy</th>" in page
    assert "<td>ready</td><td></td>" in page
    assert "is up: 0 devices" in page
    assert "writing: " in page
    assert "http://" not in re.sub(r"<details.*</details>", "", page, flags=re.DOTALL)  # it needs nothing else
    suite = xml.etree.ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "0")


LACKING = """\
import pytest

@pytest.mark.power
def test_power(board):
    assert False

@pytest.mark.wifi_ap
def test_wifi(board):
    assert False

@pytest.mark.two_boards
def test_two(boards):
    assert False

def test_a_board_at_hand(board, proxy):
    board.join(proxy)
    assert board.run("print(6 * 7)") == "42\\n"
    with pytest.raises(Exception, match="ZeroDivisionError"):
        board.run("1 / 0")
    board.install({"/lib/mine.py": "VALUE = 7\\n" * 100})
    assert board.run("import mine; print(mine.VALUE)") == "7\\n"
"""


def test_a_board_at_hand_and_what_it_lacks(tmp_path: Path) -> None:
    """`--board`: the port is another process's; what the bench has not got is skipped by name, or fails."""
    ssid, password = "at hand", "only for this test"
    config = BoardConfig(directory=tmp_path / "board", access_points=(AccessPoint(ssid, password),))
    (tmp_path / "test_lacking.py").write_text(LACKING)
    with Board(config) as board:
        (tmp_path / "image.bin").write_bytes(stock_image(board.chip))
        words = ["--board", board.port, "--board-image", "image.bin", "--bench-address", "127.0.0.1"]
        done = run(tmp_path, *words, "--board-wifi", ssid, LOPOWER_WIFI_PASSWORD=password)
        assert "1 passed, 3 skipped" in done.stdout, done.stdout + done.stderr
        for reason in (
            "board1 has no power switch (marker power)",
            "the access point of board1 cannot be switched (marker wifi_ap)",
            "2 boards are needed, and --board names 1 for this process",
        ):
            assert reason in done.stdout
        assert password not in done.stdout + done.stderr
        done = run(tmp_path, *words, "-k", "power", "--board-wifi", ssid, LOPOWER_WIFI_PASSWORD=password,
                   LOPOWER_REQUIRE_ALL="1")  # fmt: skip
        assert "LOPOWER_REQUIRE_ALL=1, but: board1 has no power switch" in done.stdout
        assert done.returncode == 1
        done = run(tmp_path, *words, "-k", "at_hand", HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))
        assert "the Wi-Fi for the boards is not known: name it by --board-wifi" in done.stdout
        assert done.returncode == 1


def test_without_labgrid(tmp_path: Path) -> None:
    (tmp_path / "test_lab.py").write_text("def test_it(board):\n    pass\n")
    done = run(tmp_path, "--lg-env", "bench.yaml")
    assert "--lg-env needs labgrid, in an environment of its own: see docs/bench.md" in done.stdout
    assert done.returncode == 1


def test_a_failure_is_shown_with_what_was_said(tmp_path: Path) -> None:
    """Bytes of a serial line cannot become markup, and a failed test is open on the page."""
    (tmp_path / "test_wrong.py").write_text(
        "def test_wrong(board, proxy):\n    board.join(proxy)\n"
        "    board.run('print(\"<script>x</script>\\\\x1b[2J\")')\n    assert not 'so'\n"
    )
    done = run(tmp_path, "--bench-report", "report.html")
    assert done.returncode == 1
    page = (tmp_path / "report.html").read_text()
    assert "1 failed" in page
    assert '<details class="failed" open>' in page
    assert "&lt;script&gt;x&lt;/script&gt;·[2J" in page
    assert "<script" not in page
