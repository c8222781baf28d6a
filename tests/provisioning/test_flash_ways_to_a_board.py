"""The ways to a board and to the daemon: a TCP port, which resets nothing, a terminal, and a daemon behind ssh."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.provisioning.conftest import PASSWORD, SSID, BoardMaker
from tests.support.loopback_daemon import LOPOWER, LoopbackDaemon
from tests.support.sshd import sshd


@contextmanager
def tcp_port(path: str) -> Iterator[str]:
    """A serial port as a plain TCP port, for one client after another."""
    line = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(line)
    listening = socket.create_server(("127.0.0.1", 0))
    stop, wake = os.pipe()

    def serve() -> None:
        client: socket.socket | None = None
        while True:
            watched: list[int | socket.socket] = [line, stop, listening, *([client] if client else [])]
            ready, _, _ = select.select(watched, [], [])
            if stop in ready:
                break
            if listening in ready:
                if client:
                    client.close()
                client = listening.accept()[0]
                continue
            if line in ready:
                data = os.read(line, 4096)
                if client:
                    client.sendall(data)
            if client in ready and client is not None:
                data = client.recv(4096)
                if data:
                    os.write(line, data)
                else:
                    client.close()
                    client = None
        if client:
            client.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"socket://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        os.write(wake, b"x")
        thread.join(10)
        listening.close()
        for descriptor in (line, stop, wake):
            os.close(descriptor)


def test_a_tcp_port_and_a_daemon_behind_ssh(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    board = make_board()
    session = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "LOPOWER_STATE_DIR": str(daemon.state_dir)}
    with sshd(tmp_path / "ssh", session) as host, tcp_port(board.port) as port:
        environ = {
            **daemon.environment, "LOPOWER_WIFI_PASSWORD": PASSWORD, "LOPOWER_STATE_DIR": "",
            "LOPOWER_DAEMON": host.url, "PATH": f"{host.path}:{os.defpath}",
        }  # fmt: skip
        command = [LOPOWER, "flash", port, "--name", "far", "--image", str(image), "--wifi", SSID, "--json"]
        with subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            events = []
            for line in process.stdout:
                events.append(json.loads(line))
                if "press its RESET button now" in events[-1].get("text", ""):
                    board.press_reset()
    assert process.returncode == 0, events
    assert events[-1]["state"] == "connected"
    assert daemon.devices()["far"]["state"] == "connected"


def test_a_terminal_is_asked(daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path) -> None:
    """Network and password, which is not shown; whether to keep them; progress that moves."""
    board = make_board()
    answers = {
        b"Wi-Fi network: ": SSID, f"Password of {SSID}".encode(): PASSWORD, b"for your eyes alone? [Y/n]": "y",
    }  # fmt: skip
    process, terminal = pty.fork()
    if process == 0:
        os.execve(LOPOWER, ["lopower", "flash", board.port, "--image", str(image)], daemon.environment)
    shown, asked = b"", 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # it has ended
            break
        for question, answer in list(answers.items()):
            if question in shown:
                del answers[question]
                asked += 1
                os.write(terminal, answer.encode() + b"\n")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, shown.decode()
    assert asked == 3
    assert PASSWORD.encode() not in shown
    assert b"%" in shown
    assert b"is connected" in shown
    assert b"\r\x1b[Kwriting" in shown
    saved = json.loads((tmp_path / ".config/lopower/wifi.json").read_text())
    assert saved == {"networks": [{"ssid": SSID, "password": PASSWORD}]}


def test_without_a_terminal_what_is_missing_is_an_error(daemon: LoopbackDaemon, tmp_path: Path) -> None:
    for words, reason in (
        (["/dev/null"], "no Wi-Fi network is named"),
        (["/dev/null", "--wifi", "Home"], "the password of Home is not known"),
        (["/dev/null", "--wifi", "Home", "--wifi-password-file", str(tmp_path / "none")], "cannot be read"),
        (["/dev/null", "--conf", "x", "--offline", "y"], "--conf does not go together with --offline"),
        (["/dev/null", "--chip", "esp8266"], "does not run on a chip 'esp8266'"),
        (["/dev/null", "--name", "a b"], "cannot be a device's name"),
    ):
        variables = {"LOPOWER_WIFI_PASSWORD": "long enough"} if "--chip" in words else {}
        chosen = [*words, "--wifi", "Home"] if variables else words
        done = daemon.lopower("flash", *chosen, **variables)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_without_the_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    """The wheel has the command; esptool and the rest are what may be missing."""
    hidden = "import sys\nfor name in ('esptool', 'serial', 'platformdirs'):\n    sys.modules[name] = None\n"
    program = hidden + "from lopower.cli.main import main\nsys.exit(main(['flash', '/dev/null', '--wifi', 'x']))"
    environ = {**os.environ, "LOPOWER_WIFI_PASSWORD": "long enough", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "pip install 'lopower[flash]'" in done.stderr
    assert "Traceback" not in done.stderr
