"""The real esptool against a board's bootloader on a pty: each chip's layout, and each way to fail."""

import grp
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from lopower_provisioning import chips, filesystem, flasher, images
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import BoardState, FlashError
from lopower_provisioning.flasher import Step
from tests.provisioning.test_littlefs_on_micropython import run
from tests.support import stock_images
from tests.support.mock_board import mock_board
from tests.support.requirements import require_module
from tests.support.stock_images import Entry, stock_image

ESP32 = chips.CHIPS[0]
MB = 1 << 20


def short(chip: Chip) -> str:
    return chip.name.lower().replace("-", "")


@pytest.fixture(autouse=True)
def _needs_esptool() -> None:
    require_module("esptool")
    require_module("littlefs")


@pytest.mark.parametrize(
    ("number", "layout", "flash_size"),
    [
        (0, stock_images.LAYOUT_4MB, 4 * MB),
        (1, stock_images.LAYOUT_4MB, 4 * MB),
        (2, stock_images.LAYOUT_4MB_OTA, 4 * MB),
        (3, stock_images.LAYOUT_8MB_OTA, 8 * MB),
        (4, stock_images.LAYOUT_2MB, 2 * MB),
    ],
    ids=["esp32-4MB", "s2-4MB", "c3-4MB-OTA", "s3-8MB-OTA", "c6-2MB"],
)
def test_flashed_and_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, layout: Sequence[Entry], flash_size: int
) -> None:
    """Flash holds image and files, verified; MicroPython mounts what was flashed where its image looks for it."""
    chip = chips.CHIPS[number]
    image = images.parse(stock_image(chip, layout))
    seen: list[tuple[Step, float]] = []
    with mock_board(short(chip), monkeypatch, flash_size=flash_size) as mock, flasher.connect(mock.port) as board:
        assert (board.chip, board.flash_size, board.state) == (chip, flash_size, BoardState.UNTOUCHED)
        images.check_chip(image, board.chip)
        region = image.filesystem(board.flash_size)
        files = filesystem.littlefs({"main.py": b"print('flashed')\n"}, region.size)
        board.write(
            [(chip.image_offset, image.content), (region.offset, files)], lambda step, done: seen.append((step, done))
        )
        assert board.state is BoardState.WRITTEN
        board.restart()
        content = bytes(mock.flash)
    assert content[chip.image_offset :].startswith(image.content)
    assert content[region.offset :].startswith(files)
    writing = [done for step, done in seen if step is Step.WRITE]
    assert len(writing) > 5
    assert writing == sorted(writing)
    assert writing[-1] > 0.95
    assert seen[-1] == (Step.VERIFY, 1.0)
    (tmp_path / "flash").write_bytes(content)
    assert run("print(open('main.py').read())", tmp_path / "flash", region.offset, region.size) == (
        "print('flashed')\n\n"
    )


def test_nothing_is_written_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_board("esp32", monkeypatch) as mock, flasher.connect(mock.port) as board:
        with pytest.raises(FlashError, match="ends at 0x400001") as caught:
            board.write([(0x1000, b"fits"), (0x400000, b"x")])
        assert caught.value.state is board.state is BoardState.UNTOUCHED
        assert mock.flash == b"\xff" * (4 * MB)


def test_flash_that_holds_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_board("esp32", monkeypatch) as mock, flasher.connect(mock.port) as board:
        mock.damage_while_writing(0x11000)
        with pytest.raises(FlashError, match="MD5") as caught:
            board.write([(0x1000, stock_image(ESP32))])
        assert caught.value.state is board.state is BoardState.INCOMPLETE


def test_a_board_that_goes_silent_and_is_flashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half written; the same once more on a board that was reset ends well."""
    content = stock_image(ESP32, size=60_000)

    def dies(data: bytes, before: int) -> bytes | None:
        return None if before > 60_000 else data

    with mock_board("esp32", monkeypatch, tap=dies) as mock:
        monkeypatch.setattr("esptool.loader.DEFAULT_TIMEOUT", 1)
        with flasher.connect(mock.port) as board:
            with pytest.raises(FlashError, match="failed") as caught:
                board.write([(0x1000, content)])
            assert caught.value.state is BoardState.INCOMPLETE
    with mock_board("esp32", monkeypatch) as mock, flasher.connect(mock.port) as board:
        board.write([(0x1000, content)])
        assert bytes(mock.flash[0x1000:]).startswith(content)


def test_an_unknown_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_board("esp32h2", monkeypatch) as mock, pytest.raises(FlashError, match="ESP32-H2, which lopower"):
        flasher.connect(mock.port)


def test_a_port_where_nothing_answers() -> None:
    master, slave = os.openpty()
    try:
        with pytest.raises(FlashError, match="no ESP32 answers") as caught:
            flasher.connect(os.ttyname(slave))
        assert "hold BOOT" in caught.value.hint
        assert caught.value.state is BoardState.UNTOUCHED
    finally:
        os.close(master)
        os.close(slave)


def test_ports_that_are_not_there_or_not_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="there is no"):
        flasher.connect(str(tmp_path / "ttyUSB0"))
    port = tmp_path / "ttyUSB1"
    port.touch()
    port.chmod(0o660)
    group = grp.getgrnam("dialout") if os.geteuid() == 0 else grp.getgrgid(os.getegid())
    os.chown(port, -1, group.gr_gid)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(FlashError, match="may not use") as caught:
        flasher.connect(str(port))
    assert f"usermod -aG {group.gr_name}" in caught.value.hint
    port.chmod(0o600)
    with pytest.raises(FlashError, match="may not use") as caught:
        flasher.connect(str(port))
    assert "udev rule" in caught.value.hint
