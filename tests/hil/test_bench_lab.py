"""Boards of a lab: exported by labgrid's own exporter, handed out by its coordinator, tested by an unchanged test."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from lopower_hil.made_images import stock_image
from lopower_hil.virtual_board import AccessPoint, Board, BoardConfig
from lopower_hil.virtual_board.control import ControlSocket
from tests.support.labgrid_lab import PROGRAMS, running_lab
from tests.support.requirements import missing, require_module, require_program

SSID, PASSWORD = "lab", "a shelf of boards"
TEST = """\
import pytest

@pytest.mark.power
@pytest.mark.wifi_ap
def test_a_board_of_the_lab(board, proxy):
    assert board.name == "kitchen"
    board.flash(proxy)
    board.wifi_off()
    board.wifi_on()
    board.power_off()
    board.power_on()
    board.wait_connected()
    assert board.run("import time; print(time.gmtime()[0])") == "2000\\n"

def test_labgrids_own_fixtures(env, proxy, board):
    driver = env.get_target("kitchen").get_driver("MicroPythonDriver")
    assert driver.run("print(6 * 7)") == "42\\n"

@pytest.mark.two_boards
def test_two(boards):
    # The second is a pty that ser2net exports.
    for board in boards:
        assert board.run("print(40 + 2)") == "42\\n"

@pytest.mark.power
@pytest.mark.two_boards
def test_the_second_has_no_switch(boards):
    assert False
"""


def environment(board: Board) -> str:
    """Its first board has all that a lab can have, the second a serial port alone."""
    tell = shlex.join([sys.executable, "-m", "lopower.cli.main", "virtual-board"])
    tell += f" --directory {board.config.directory} --tell"
    return f"""\
imports: [lopower_hil.labgrid_drivers]
images: {{esp32: image.bin}}
targets:
  kitchen:
    resources:
      RemotePlace: {{name: kitchen}}
      WifiAccessPoint: {{ssid: {SSID}}}
    drivers:
      ExternalPowerDriver:
        cmd_on: '{tell} ''{{"do": "power_on"}}'''
        cmd_off: '{tell} ''{{"do": "cut_power"}}'''
      AccessPointCommandDriver:
        cmd_on: '{tell} ''{{"do": "radio", "on": true}}'''
        cmd_off: '{tell} ''{{"do": "radio", "on": false}}'''
      MicroPythonDriver: {{image: esp32}}
  hall:
    resources:
      RemotePlace: {{name: hall}}
    drivers:
      MicroPythonDriver: {{}}
"""


def test_a_coordinator_an_exporter_and_the_plugin(tmp_path: Path) -> None:
    require_program("ser2net")
    require_module("micropython_run")
    with ExitStack() as stack:
        points = (AccessPoint(SSID, PASSWORD),)
        kitchen = stack.enter_context(
            Board(BoardConfig(directory=tmp_path / "kitchen", access_points=points, rfc2217=True))
        )
        stack.callback(ControlSocket(kitchen, tmp_path / "kitchen" / "control.sock").close)
        hall = stack.enter_context(Board(BoardConfig(directory=tmp_path / "hall")))
        image = stock_image(kitchen.chip)
        (tmp_path / "image.bin").write_bytes(image)
        with hall.flash_file.open("r+b") as flash:  # a board that runs MicroPython, and nothing else
            flash.seek(hall.chip.image_offset)
            flash.write(image)
        hall.press_reset()
        host, _, port = kitchen.port.removeprefix("rfc2217://").partition("?")[0].partition(":")
        resources = (
            f"kitchen: {{NetworkSerialPort: {{host: {host}, port: {port}, speed: 115200, protocol: rfc2217}}}}\n"
            f"hall: {{RawSerialPort: {{port: {hall.port}, speed: 115200}}}}\n"
        )
        lab = stack.enter_context(running_lab(tmp_path, resources))
        lab.place("kitchen", "shelf/kitchen/*")
        lab.place("hall", "shelf/hall/*")
        (tmp_path / "bench.yaml").write_text(environment(kitchen))
        (tmp_path / "test_lab.py").write_text(TEST)
        done = lab.run(
            "pytest", "-rs", "-v", "-p", "no:cacheprovider", "--lg-env", "bench.yaml", "--bench-address", "127.0.0.1",
            "test_lab.py", variables={"LOPOWER_WIFI_PASSWORD": PASSWORD, "LOPOWER_REQUIRE_ALL": ""},
        )  # fmt: skip
        assert "3 passed, 1 skipped" in done.stdout, done.stdout + done.stderr + lab.said()
        assert "hall has no power switch (marker power)" in done.stdout


def test_the_other_pyserial_is_refused(tmp_path: Path) -> None:
    """Two distributions own `serial`: `make lab` leaves labgrid's, and a lab does not start with esptool's."""
    if not (PROGRAMS.parent / ".installed").is_file():
        missing("labgrid is not installed: make lab")
    check = [str(PROGRAMS / "python"), "-c", "from lopower_hil.bench import lab; lab.check_installation()"]
    good = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    (tmp_path / "serial").symlink_to(Path(str(require_module("serial").__file__)).parent)
    other = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(check, cwd=tmp_path, env=other, capture_output=True, text=True, check=False)
    assert "was installed over labgrid's" in done.stderr
    assert "pip install --force-reinstall --no-deps pyserial-labgrid==" in done.stderr
