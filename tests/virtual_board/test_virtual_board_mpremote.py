"""The real mpremote against a virtual board whose MicroPython runs from its flash."""

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from serial import Serial

from tests.support.virtual_boards import mpremote, tool, virtual_board


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index with one package in one file, as micropython-lib's is laid out; its URL."""
    root = tmp_path / "index"
    (root / "package" / "6" / "tiny").mkdir(parents=True)
    (root / "package" / "py" / "tiny").mkdir(parents=True)
    (root / "file" / "ab").mkdir(parents=True)
    (root / "file" / "ab" / "abcdef0123456789").write_bytes(b"ANSWER = 42\n")
    described = {"v": 1, "version": "1.0", "hashes": [["tiny.py", "abcdef0123456789"]], "deps": []}
    for kind in ("6", "py"):
        (root / "package" / kind / "tiny" / "latest.json").write_text(json.dumps(described))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_files_and_exec(tmp_path: Path) -> None:
    binary = bytes(range(256)) * 40
    (tmp_path / "sent").write_bytes(binary)
    with virtual_board(tmp_path, {"main.py": b"print('main')\n", "lib/there.py": b"X = 7\n"}) as board:
        assert mpremote(board, "exec", "import there; print(there.X)").strip() == "7"
        said = mpremote(board, "exec", "import os, sys; print(sys.platform, os.uname().sysname, os.uname()[4])")
        assert said.strip() == "esp32 esp32 Virtual board with ESP32"
        mpremote(board, "fs", "mkdir", ":d", "+", "fs", "cp", str(tmp_path / "sent"), ":d/sent",
                 "+", "fs", "cp", ":d/sent", str(tmp_path / "back"))  # fmt: skip
        assert (tmp_path / "back").read_bytes() == binary
        assert "main.py" in mpremote(board, "fs", "ls", "/")
        mpremote(board, "fs", "rm", ":main.py")
        said = mpremote(board, "exec", "raise ValueError('because')", check=False)
        assert "ValueError: because" in said
        board.cut_power()
        board.power_on()
        listing = mpremote(board, "fs", "ls", "/")
        assert "main.py" not in listing
        assert "d/" in listing


def test_mount(tmp_path: Path) -> None:
    """Files of the host, read and written by the board; bytes that look like line ends pass unchanged."""
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "module.py").write_text("def name():\n    return 'from the host'\n")
    (tmp_path / "host" / "binary").write_bytes(b"\n\r\n\x1e\x1fVB\x18\x03\x04\x01" * 300)
    program = (
        "import module\nprint(module.name())\ndata = open('binary', 'rb').read()\n"
        "open('copy', 'wb').write(data)\nprint(len(data))"
    )
    with virtual_board(tmp_path, {}) as board:
        said = mpremote(board, "mount", str(tmp_path / "host"), "exec", program)
        assert "from the host" in said
        assert "3300" in said
    assert (tmp_path / "host" / "copy").read_bytes() == (tmp_path / "host" / "binary").read_bytes()


def test_packages(tmp_path: Path, index: str) -> None:
    """mip from the host and, through the radio, on the board."""
    install = (
        "import network, time\nw = network.WLAN()\nw.active(True)\nw.connect('virtual')\n"
        "while not w.isconnected(): time.sleep_ms(20)\n"
        f"import mip\nmip.install('tiny', index='{index}', target='/own')\n"
        "import sys\nsys.path.append('/own')\nimport tiny\nprint(tiny.__file__, tiny.ANSWER)"
    )
    with virtual_board(tmp_path, {}) as board:
        mpremote(board, "mip", "install", "--index", index, "tiny")
        assert mpremote(board, "exec", "import tiny; print(tiny.__file__, tiny.ANSWER)").split() == [
            "/lib/tiny.py",
            "42",
        ]
        mpremote(board, "fs", "rm", ":lib/tiny.py")
        assert mpremote(board, "exec", install).split()[-2:] == ["/own/tiny.py", "42"]


def test_resets(tmp_path: Path) -> None:
    """A soft reset runs boot.py and, out of the friendly REPL only, main.py; a hard one is told from it."""
    files = {
        "boot.py": b"import machine\nprint('boot', machine.reset_cause())\n",
        "main.py": b"x = 5\nprint('main')\n",
    }
    with virtual_board(tmp_path, files) as board:
        board.wait_for("main")
        mark = len(board.serial_text())
        assert "True" in mpremote(board, "exec", "y = 1", "resume", "exec", "print('y' in globals())")
        printed = board.serial_text()[mark:]
        assert "MPY: soft reboot\r\nboot 5\r\n" in printed  # mpremote resets softly when it enters the raw REPL
        assert "main" not in printed
        mark = len(board.serial_text())
        mpremote(board, "soft-reset", "+", "reset")
        board.wait_for("boot 2\r\nmain", since=mark)
        with Serial(board.port, timeout=5) as port:
            mark = len(board.serial_text())
            port.write(b"\r\x03\x02\x04")
            board.wait_for("MPY: soft reboot\r\nboot 5\r\nmain", since=mark)


def test_ctrl_c(tmp_path: Path) -> None:
    """It ends a program, wherever it came from, and is a character for the REPL."""
    files = {"main.py": b"print('loops')\nwhile True:\n    pass\n"}
    with virtual_board(tmp_path, files) as board, Serial(board.port, timeout=10) as port:
        port.write(b"\x03")  # before the program runs: it must not get lost
        assert b"KeyboardInterrupt" in port.read_until(b">>> ")
        port.write(b"while True: pass\r\r")
        assert b"while True: pass\r\n" in port.read_until(b"... \r\n")
        port.write(b"\x03")
        assert b"KeyboardInterrupt" in port.read_until(b">>> ")
        port.write(b"half a line\x03")
        assert b"half a line" in port.read_until(b">>> ")
        port.write(b"1 + 1\r")
        assert b"2\r\n" in port.read_until(b">>> ")
        assert tool("mpremote", "connect", board.port, "exec", "print('still there')").strip() == "still there"


def test_typing_ahead(tmp_path: Path) -> None:
    """What comes while a program runs is kept for it, as by a UART's buffer."""
    with virtual_board(tmp_path, {"main.py": b"import time\ntime.sleep(0.5)\nprint('got', input())\n"}) as board:
        board.wait_for("SPI_FAST_FLASH_BOOT")
        with Serial(board.port, timeout=5) as port:
            port.write(b"typed\r")
            board.wait_for("got typed")
