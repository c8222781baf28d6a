"""The real esptool against virtual boards: each chip, each layout, over a pty and over RFC 2217."""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from lopower_provisioning import filesystem, images
from tests.support import stock_images
from tests.support.stock_images import Entry, stock_image
from tests.support.virtual_boards import MB, chip_named, esptool, mpremote, virtual_board

MAC = bytes.fromhex("240ac4123456")


@pytest.mark.parametrize(
    ("name", "layout", "size"),
    [
        ("ESP32", stock_images.LAYOUT_4MB, 4 * MB),
        ("ESP32-S2", stock_images.LAYOUT_VFS, 4 * MB),
        ("ESP32-C3", stock_images.LAYOUT_4MB_OTA, 4 * MB),
        ("ESP32-S3", stock_images.LAYOUT_8MB_OTA, 8 * MB),
        ("ESP32-C6", stock_images.LAYOUT_2MB, 2 * MB),
    ],
    ids=["esp32-4MB", "s2-vfs", "c3-4MB-OTA", "s3-8MB-OTA", "c6-2MB"],
)
def test_blank_board_is_flashed_and_boots(tmp_path: Path, name: str, layout: Sequence[Entry], size: int) -> None:
    """It says chip, MAC and size as that board does; what was written runs, from where its image looks for files."""
    chip = chip_named(name)
    image = stock_image(chip, layout)
    region = images.parse(image).filesystem(size)
    (tmp_path / "image.bin").write_bytes(image)
    program = b"import machine\nprint('up', machine.unique_id().hex(), machine.reset_cause())\n"
    (tmp_path / "files.bin").write_bytes(filesystem.littlefs({"main.py": program}, region.size))
    with virtual_board(tmp_path, chip=name, flash_size=size, mac=MAC) as board:
        board.wait_for("invalid header: 0xffffffff")
        said = esptool(
            board, "write-flash", hex(chip.image_offset), str(tmp_path / "image.bin"),
            hex(region.offset), str(tmp_path / "files.bin"),
        )  # fmt: skip
        board.wait_for(f"up {MAC.hex()} 1")
        assert f"Connected to {name} on {board.port}" in said
        assert MAC.hex(":") in said
        assert said.count("Hash of data verified.") == 2
        assert f"Detected flash size: {size // MB}MB" in esptool(board, "flash-id")
        assert board.flash_file.read_bytes()[chip.image_offset :].startswith(image)


def test_reading_verifying_and_erasing(tmp_path: Path) -> None:
    content = random.Random(6).randbytes(70_000)
    (tmp_path / "data").write_bytes(content)
    (tmp_path / "other").write_bytes(content[:-1] + b"\0")
    with virtual_board(tmp_path) as board:
        esptool(board, "write-flash", "0x20000", str(tmp_path / "data"))
        assert "Verification successful" in esptool(board, "verify-flash", "0x20000", str(tmp_path / "data"))
        assert "Verification failed" in esptool(board, "verify-flash", "0x20000", str(tmp_path / "other"), check=False)
        esptool(board, "read-flash", "0x20000", str(len(content)), str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == content
        esptool(board, "erase-region", "0x21000", "0x1000")
        flash = board.flash_file.read_bytes()
        assert flash[0x20000:0x21000] == content[:0x1000]
        assert flash[0x21000:0x22000] == b"\xff" * 0x1000
        assert flash[0x22000 : 0x20000 + len(content)] == content[0x2000:]
        esptool(board, "erase-flash")
        assert not board.flash_file.read_bytes().strip(b"\xff")


def test_without_the_stub(tmp_path: Path) -> None:
    """The ROM's own commands: uncompressed and compressed writes, slow reads, a digest in hexadecimal."""
    (tmp_path / "data").write_bytes(bytes(range(256)) * 20)
    with virtual_board(tmp_path, chip="ESP32-C3") as board:
        assert "verified" in esptool(board, "--no-stub", "write-flash", "0x1000", str(tmp_path / "data"))
        assert "verified" in esptool(board, "--no-stub", "write-flash", "-u", "0x9000", str(tmp_path / "data"))
        esptool(board, "--no-stub", "read-flash", "0x9000", "512", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == bytes(range(256)) * 2
        assert board.flash_file.read_bytes()[0x1000 : 0x1000 + 256] == bytes(range(256))


def test_image_for_another_chip_does_not_start(tmp_path: Path) -> None:
    image = stock_image(chip_named("ESP32-S2"))
    (tmp_path / "image.bin").write_bytes(image)
    with virtual_board(tmp_path) as board:
        esptool(board, "write-flash", "--force", "0x1000", str(tmp_path / "image.bin"))
        assert "the image is for ESP32-S2, the board has ESP32" in board.wait_for("E (57) boot")
        assert board.state.name == "NO_PROGRAM"


def test_power_cut_while_esptool_writes(tmp_path: Path) -> None:
    """The flash keeps what was written so far, esptool fails, and the board can be flashed again."""
    content = random.Random(7).randbytes(200_000)
    (tmp_path / "data").write_bytes(content)
    with virtual_board(tmp_path) as board:
        board.cut_power(after_flash_bytes=100_000)
        said = esptool(board, "write-flash", "0x10000", str(tmp_path / "data"), check=False)
        assert "Hash of data verified" not in said
        assert board.state.name == "OFF"
        flash = board.flash_file.read_bytes()[0x10000 : 0x10000 + len(content)]
        written = next(n for n in range(0, len(content), 16) if flash[n : n + 16] != content[n : n + 16])
        assert 40_000 < written < 60_000  # half of the 100,000 were erasing
        assert not flash[written + 4096 :].strip(b"\xff")
        board.power_on()
        assert "verified" in esptool(board, "write-flash", "0x10000", str(tmp_path / "data"))
        digest = hashlib.sha256(board.flash_file.read_bytes()[0x10000 : 0x10000 + len(content)])
        assert digest.digest() == hashlib.sha256(content).digest()


def test_usb_reset_over_rfc2217(tmp_path: Path) -> None:
    """The control lines of a chip's own USB port lead a running board into download mode, and out of it."""
    files = {"main.py": b"print('main runs')\n"}
    with virtual_board(tmp_path, files, chip="ESP32-C3", rfc2217=True, usb=True) as board:
        board.wait_for("main runs")
        began = len(board.serial_text())
        said = esptool(board, "--before", "usb-reset", "--no-stub", "read-mac")
        assert board.mac.hex(":") in said
        printed = board.wait_for("main runs", since=began)
        assert printed.index("waiting for download") < printed.index("main runs")
        assert "RUNNING" in str(board.state)


def test_flashed_and_used_over_rfc2217(tmp_path: Path) -> None:
    """The auto-reset circuit leads a running board into download mode, and out of it into what was flashed.

    Without the stub, whose upload costs ten seconds more: pyserial's client waits for each change of a setting.
    """
    chip = chip_named("ESP32")
    region = images.parse(stock_image(chip)).filesystem(4 * MB)
    (tmp_path / "files.bin").write_bytes(filesystem.littlefs({"main.py": b"print('second')\n"}, region.size))
    (tmp_path / "sent.py").write_bytes(b"# \xe2\x82\xac\r\n\xff\xc0")
    with virtual_board(tmp_path, {"main.py": b"print('first')\n"}, rfc2217=True) as board:
        board.wait_for("first")
        esptool(board, "--no-stub", "write-flash", hex(region.offset), str(tmp_path / "files.bin"))
        printed = board.wait_for("second")
        assert printed.count("first") == 1
        assert printed.index("first") < printed.index("waiting for download") < printed.index("second")
        said = mpremote(board, "exec", "print(6 * 7)", "fs", "cp", str(tmp_path / "sent.py"), ":sent.py",
                        "+", "fs", "cp", ":sent.py", str(tmp_path / "back.py"))  # fmt: skip
        assert said.startswith("42")
        assert (tmp_path / "back.py").read_bytes() == (tmp_path / "sent.py").read_bytes()
