"""`make demo` as somebody sees it who watches it on a terminal, and then uses what it keeps up."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.requirements import missing

PROGRAMS = Path(sys.executable).parent
SECONDS = 120.0
COLUMNS = 80
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
STEPS_OF_THE_TAILNET = (
    "the proxy is a node",
    "peer's page, from kitchen",
    "kitchen is a node",
    "kitchen's page, from peer",
    "the same, from stranger",
    "kitchen's own identity",
)
STEPS_OF_THE_BOARD = ("a blank board", "the board is flashed", "a page, from the board", "its page, from peer")

pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(300)]


class Terminal:
    """The demonstration in a terminal, as whose keys and screen this is."""

    def __init__(self, directory: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lopower_hil.demo", "--keep"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment, "TMPDIR": str(directory), "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._output = bytearray()

    def read_until(self, text: str | None) -> None:
        """Until this was shown, or, with None, until the program has ended."""
        deadline = time.monotonic() + SECONDS
        while text is None or text not in self.shown:
            readable, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"it did not say {text!r}, but:\n{self.shown}"
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # Linux says EIO when nobody has the other end open
                data = b""
            if not data:
                assert text is None, f"it ended without {text!r}:\n{self.shown}"
                return
            self._output += data

    @property
    def raw(self) -> str:
        """What came, with its escape sequences."""
        return self._output.decode(errors="replace")  # a character may have come in part yet

    @property
    def shown(self) -> str:
        """The text of it."""
        return _ESCAPE.sub("", self.raw).replace("\r\n", "\n")

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    for program in ("lopower-test-tailnet", "lopower-sidecar"):
        if not (PROGRAMS / program).is_file():
            missing(f"{program}, which `make test-programs setup` builds where Go is")
    made = Terminal(tmp_path)
    yield made
    made.close()


def fetch(proxy: str, url: str) -> tuple[int, str]:
    """What a browser that uses this proxy would get."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": proxy}))
    try:
        with opener.open(url, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_all_of_it(terminal: Terminal, tmp_path: Path) -> None:
    terminal.read_until("lets stranger in, too")
    shown = terminal.shown
    assert "all steps ended as they should" in shown, shown
    assert "FAIL" not in shown
    for step in (*STEPS_OF_THE_TAILNET, *STEPS_OF_THE_BOARD):
        assert re.search(rf"^  ok   {step} ", shown, re.MULTILINE), f"{step} is not in:\n{shown}"
    unwrapped = " ".join(shown.split())
    assert "http://peer.tail-test.ts.net/ is 100.64." in unwrapped
    assert "connection refused: --from names peer alone" in unwrapped
    assert re.search(r"^\$ lopower flash /dev/pts/\d+ --name shelf --wifi demo ", shown, re.MULTILINE)
    assert "shelf is connected (" in shown  # the command's own words
    assert 'http://peer.tail-test.ts.net/ by MagicDNS: the board prints "peer"' in unwrapped
    assert 'http://shelf/ says "Hello from a board. You are 100.64.0.1"' in unwrapped

    # One code of the device's configuration, one of the URL to log in at.
    lines = shown.splitlines()
    assert any(line.startswith("open http://127.0.0.1:") for line in lines)
    codes = re.findall(r"(?:\x1b\[38;2;0;0;0;48;2;255;255;255m[ ▀▄█]+\x1b\[0m\r\n)+", terminal.raw)
    assert len(codes) == 2
    steps = [line for line in lines if line.startswith(("  ok ", " " * 44))]
    assert max(map(len, steps)) <= COLUMNS
    assert "\x1b[32mok  \x1b[0m" in terminal.raw

    # What it keeps up is there for those who try what it says.
    state = re.search(r"export LOPOWER_STATE_DIR=(\S+)", shown)
    assert state is not None
    status = subprocess.run(
        [PROGRAMS / "lopower", "status", "--json"],
        env={**os.environ, "LOPOWER_STATE_DIR": state[1]},
        capture_output=True,
        check=True,
    )
    assert json.loads(status.stdout)["data_plane"]["tailnet"]["connected"]
    proxies = dict(re.findall(r"curl --proxy (\S+) http://kitchen/  # as (\w+)", shown))
    proxies = {name: proxy for proxy, name in proxies.items()}
    code, body = fetch(proxies["peer"], "http://kitchen/")
    assert (code, body.startswith("Hello from a device.")) == (200, True)
    assert fetch(proxies["stranger"], "http://kitchen/") == (502, "stranger cannot fetch http://kitchen/: refused\n")

    assert fetch(proxies["peer"], "http://shelf/") == (200, "Hello from a board. You are 100.64.0.1")

    terminal.press(b"\x03")
    terminal.read_until(None)
    assert terminal.process.wait(30) == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("lopower-")], "something was left behind"


def test_without_a_tailnet(tmp_path: Path) -> None:
    """No Go, so no tailnet: it says so, and the daemon itself visits the board."""
    program = (
        "import sys; from lopower_hil.demo import __main__ as demo, steps, tailnet; "
        "tailnet.what_is_missing = lambda: 'lopower-sidecar is not there'; steps.BULK_BYTES = 1_000_000; "
        "sys.exit(demo.main())"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Without a tailnet: lopower-sidecar is not there." in done.stdout
    assert re.search(r"by the gateway's name: the board prints \"Hello from a web server of this host.\"", done.stdout)
    assert re.search(
        r"^  ok   its page, from the gateway .*Hello from a board. You are 10.90.0.1", done.stdout, re.MULTILINE
    )
    assert "FAIL" not in done.stdout
