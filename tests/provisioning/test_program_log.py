"""What a program of the user's does not catch: in the board's log, and else as on any MicroPython."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lopower_hil.virtual_board.board import State
from lopower_hil.virtual_board.radio import AccessPoint
from lopower_provisioning import filesystem
from tests.provisioning.conftest import PASSWORD, SSID
from tests.provisioning.test_littlefs_on_micropython import run as on_micropython
from tests.support.loopback_daemon import LoopbackDaemon
from tests.support.virtual_boards import mpremote, virtual_board

FILESYSTEM = 0x200000
SIZE = 0x200000
KEY = base64.b64encode(bytes(range(32))).decode()
PROXY = {"public_key": KEY, "addresses": ["10.0.0.2"], "endpoints": ["127.0.0.1:9"], "allowed_ips": ["10.0.0.0/24"]}
SETTINGS = json.dumps(
    {"private_key": KEY, "written": 1_700_000_000, "wifi": [{"ssid": SSID, "password": PASSWORD}], "proxies": [PROXY]}
)


def files_of(user: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of a board that was flashed with `--main`."""
    settings = {"lopower.json": SETTINGS.encode()}
    return {**filesystem.device_files("xtensawin"), **settings, **filesystem.program(user)}


def log_of(board: Any, scratch: Path) -> list[str]:
    """The texts in the flash of a board, as MicroPython reads them, and a check of their size."""
    copy = scratch / "copy-of-flash"
    copy.write_bytes(board.flash_file.read_bytes())
    program = """
import json, os
for name in ("lopower.log.old", "lopower.log"):
    if name in os.listdir():
        assert os.stat(name)[6] <= 2048, os.stat(name)
        for line in open(name):
            print(json.dumps(json.loads(line)[2]))
"""
    return [json.loads(line) for line in on_micropython(program, copy, FILESYSTEM, SIZE).splitlines()]


FAILING = f"""
import gc
def deeper(n):
    if n == 0:
        raise ValueError("the sensor says {PASSWORD}")
    deeper(n - 1)
kept = 42
deeper(2)
""".encode()


def test_a_traceback_and_nothing_else_changed(tmp_path: Path) -> None:
    """It is printed, kept without the password that it quotes, and the console is as after any program."""
    with virtual_board(tmp_path, files_of({"main.py": FAILING}), access_points=[AccessPoint(SSID, PASSWORD)]) as board:
        printed = board.wait_for(">>> ")
        assert f"ValueError: the sensor says {PASSWORD}" in printed  # the console is the user's own
        # A raw REPL, as mpremote has it: without a soft reset, and with one, after which main.py does not run.
        assert mpremote(board, "resume", "exec", "print(kept)").strip() == "42"
        assert mpremote(board, "exec", "print('kept' in globals(), __name__)").split() == ["False", "__main__"]
        assert board.serial_text().count("the sensor says") == 1
        # A power cut leaves what was there; Ctrl-D at the prompt runs main.py.
        mark = len(board.serial_text())
        board.cut_power()
        board.power_on()
        board.wait_for("the sensor says", since=mark)
        board.wait_for(">>> ", since=mark)
        board.cut_power()
        assert board.state is State.OFF
    texts = log_of(board, tmp_path)
    tracebacks = [text for text in texts if "Traceback" in text]
    assert len(tracebacks) == 2
    assert tracebacks[0].endswith("ValueError: the sensor says ***")
    assert 'File "main_program.py", line 8, in <module>' in tracebacks[0]
    assert tracebacks[0].count("in deeper") == 3
    assert [text for text in texts if text not in tracebacks] == ["started: pwron", "started: soft", "started: pwron"]


def test_ctrl_c_and_sys_exit(tmp_path: Path) -> None:
    """Neither is an exception of the program's: nothing is kept of them."""
    main = b"import time\nprint('up')\nwhile True:\n    time.sleep(0.05)\n"
    with virtual_board(tmp_path, files_of({"main.py": main})) as board:
        board.wait_for("up")
        assert mpremote(board, "resume", "exec", "print(6 * 7)").strip() == "42"
        assert "KeyboardInterrupt" in board.serial_text()
        board.cut_power()
    assert log_of(board, tmp_path) == ["started: pwron"]


LOOP = b"""
import machine, os
print("start")
if "again" not in os.listdir("/"):
    import micropython
    open("/again", "w").close()
    taken = []
    while True:
        taken.append(bytearray(2000))
if machine.reset_cause() != machine.WDT_RESET:
    machine.WDT(timeout=100)
raise RuntimeError("x" * 3000 + " at the end")
"""


def test_bounded_whatever_happens(tmp_path: Path) -> None:
    """No memory left, long texts, and the power cut in the middle of the log's writes: it can be read, and is small."""
    with virtual_board(tmp_path, files_of({"main.py": LOOP})) as board:
        board.wait_for("MemoryError")
        board.wait_for(">>> ")
        for number in range(9):
            board.cut_power()
            mark = len(board.serial_text())
            board.power_on()
            board.wait_for("start", since=mark)
            if number % 3 == 0:
                board.cut_power(after_flash_bytes=40 * number)
                deadline = time.monotonic() + 10
                while board.state is not State.OFF and ">>> " not in board.serial_text()[mark:]:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            else:
                board.wait_for(">>> ", since=mark)
        board.cut_power()
    texts = log_of(board, tmp_path)
    assert max(map(len, texts)) <= 410
    ends = [text for text in texts if re.search(r"Traceback.*x at the end$", text, re.DOTALL)]
    assert ends, texts


ROOM = b"import gc\ngc.collect()\nprint('taken', gc.mem_alloc())\n"


def test_what_it_costs_while_the_program_runs(tmp_path: Path) -> None:
    """The frame and the few instructions of what waits for the exception."""
    taken = []
    for name, files in (("guarded", files_of({"main.py": ROOM})), ("stock", {**files_of({}), "main.py": ROOM})):
        (tmp_path / name).mkdir()
        with virtual_board(tmp_path / name, files, access_points=[]) as board:
            found = re.search(r"taken (\d+)", board.wait_for(">>> "))
            assert found is not None
            taken.append(int(found[1]))
    print("bytes of the heap, guarded and not:", taken)
    assert taken[0] - taken[1] < 1024  # with the 64-bit objects of this machine, half on a board


def test_device_logs_after_the_restart(tmp_path: Path, daemon: LoopbackDaemon) -> None:
    """What `lopower device logs` shows of it, through the tunnel."""
    from contextlib import ExitStack

    from tests.provisioning.test_updates import Bench

    with ExitStack() as stack:
        bench = Bench(tmp_path, daemon, stack)
        main = tmp_path / "app"
        main.mkdir()
        (main / "main.py").write_text("import machine\nif machine.reset_cause() == machine.HARD_RESET:\n    1 / 0\n")
        board = bench.board("kitchen")
        done = daemon.lopower("update", "kitchen", "--main", str(main))
        assert done.returncode == 0, done.stdout + done.stderr
        board.wait_for("ZeroDivisionError")
        board.cut_power()
        board.power_on()
        bench.wait_for("kitchen", lambda device: (device["firmware"] or {}).get("reset") == "pwron")
        said = daemon.lopower("device", "logs", "kitchen")
    assert said.returncode == 0, said.stderr
    assert re.search(r'File "main_program.py", line 3, in <module>\s+ZeroDivisionError: divide by zero', said.stdout)
    assert said.stdout.index("ZeroDivisionError") < said.stdout.rindex("started: pwron")
