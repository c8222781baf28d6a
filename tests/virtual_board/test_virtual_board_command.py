"""`lopower virtual-board`, several boards at once, and garbage on the line."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serial import Serial

from tests.support.requirements import require_module
from tests.support.virtual_boards import chip_named, esptool, flash_content, mpremote, tool, virtual_board

LOPOWER = str(Path(sys.executable).with_name("lopower"))


@pytest.fixture(autouse=True)
def _needs() -> None:
    require_module("micropython_run")
    require_module("esp32_mock_bootloader")


def lopower(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [LOPOWER, "virtual-board", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def test_the_command(tmp_path: Path) -> None:
    """It says where it is, obeys its control socket, keeps the flash, and leaves no socket behind."""
    place = ["--directory", str(tmp_path / "b")]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "flash.bin").write_bytes(flash_content(chip_named("ESP32"), {"main.py": b"print('hello')\n"}))
    command = [LOPOWER, "virtual-board", *place, "--json", "--wifi", "Home:pass:word", "--wifi", "Open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            described = json.loads(process.stdout.readline())
            assert described["chip"] == "ESP32"
            assert described["access_points"] == ["Home", "Open"]
            assert tool("mpremote", "connect", described["port"], "exec", "print(6 * 7)").strip() == "42"
            assert (tmp_path / "b" / "control.sock").stat().st_mode & 0o777 == 0o600
            assert lopower(*place, "--tell", '{"do": "cut_power"}').stdout == '{"ok": true}\n'
            assert json.loads(lopower(*place, "--tell", '{"do": "status"}').stdout)["state"] == "off"
            refused = lopower(*place, "--tell", '{"do": "explode"}', check=False)
            assert refused.returncode == 1
            assert "no such thing" in refused.stdout
            second = lopower(*place, check=False)
            assert second.returncode == 1
            assert "the flash of a board that runs" in second.stderr
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["flash.bin", "serial.log"]
    silent = lopower(*place, "--tell", '{"do": "status"}', check=False)
    assert silent.returncode == 1
    assert "no virtual board answers" in silent.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--flash-size", "3"], "no flash has 3145728 bytes"),
        (["--mac", "ff:ff:ff:ff:ff:ff"], "no MAC address of one device"),
        (["--usb"], "a pty has no control lines"),
        (["--wifi", "Home:short"], "8 to 63 characters"),
        (["--chip", "ESP8266"], "invalid choice"),
    ],
)
def test_what_cannot_be(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = lopower("--directory", str(tmp_path), *arguments, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_its_extra_it_says_how_to_install_it(tmp_path: Path) -> None:
    """As on a host that has the proxy alone."""
    program = (
        "import sys\nsys.modules['esp32_mock_bootloader'] = None\n"
        "from lopower.cli.main import main\nsys.exit(main(['virtual-board', '--chip', 'ESP32']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "pip install 'lopower[hil]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_boards_at_once(tmp_path: Path) -> None:
    """Each has a flash, a MAC address and a program of its own."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        boards = []
        for number, chip in enumerate(("ESP32", "ESP32-C3", "ESP32-S3")):
            (tmp_path / str(number)).mkdir()
            files = {"main.py": b"print('board %d')\n" % number}
            boards.append(stack.enter_context(virtual_board(tmp_path / str(number), files, chip=chip)))
        for number, board in enumerate(boards):
            board.wait_for(f"board {number}")
        assert len({board.mac for board in boards}) == 3
        said = [mpremote(board, "exec", "import machine; print(machine.unique_id().hex())") for board in boards]
        assert [line.strip() for line in said] == [board.mac.hex() for board in boards]


def test_garbage_on_the_line(tmp_path: Path) -> None:
    """Blank, in download mode, running: it is ignored, or a syntax error, and the board goes on."""
    noise = random.Random(5)
    with virtual_board(tmp_path) as board:
        for before in (b"", b"\xc0\x00\x08\x24\x00\x00\x00\x00\x00\x07\x07\x12\x20" + b"\x55" * 32 + b"\xc0"):
            with Serial(board.port, timeout=0, write_timeout=10) as port:
                port.write(before)
                for _ in range(40):
                    port.write(noise.randbytes(2000))
                    port.read(100_000)
        assert "4MB" in esptool(board, "flash-id")
        board.stop()
    (tmp_path / "board" / "flash.bin").unlink()
    (tmp_path / "board" / "serial.log").rename(tmp_path / "board.log")
    (tmp_path / "board").rmdir()
    with virtual_board(tmp_path, {"main.py": b"print('main')\n"}) as board:
        board.wait_for("main")
        with Serial(board.port, timeout=0, write_timeout=10) as port:
            for _ in range(20):
                port.write(noise.randbytes(1000))
                port.read(100_000)
        assert mpremote(board, "exec", "print('alive')").strip().endswith("alive")


def test_a_terminal_that_does_not_read_stops_no_program(tmp_path: Path) -> None:
    files = {"main.py": b"for n in range(40000):\n    print('x' * 60)\nprint('all printed')\n"}
    with virtual_board(tmp_path, files) as board, Serial(board.port):
        board.wait_for("all printed", 60)
