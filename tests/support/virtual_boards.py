"""Virtual boards, flashed directly into their file or by the real esptool, and the tools that talk to them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lopower_provisioning import chips, filesystem, images
from lopower_provisioning.chips import Chip
from tests.support import stock_images
from tests.support.requirements import missing, require_module
from tests.support.stock_images import Entry, stock_image

MB = 1 << 20


def chip_named(name: str) -> Chip:
    """One of the chips that lopower runs on."""
    chip = chips.by_name(name)
    assert chip is not None
    return chip


def flash_content(
    chip: Chip,
    files: Mapping[str, bytes],
    *,
    layout: Sequence[Entry] = stock_images.LAYOUT_4MB,
    size: int = 4 * MB,
) -> bytes:
    """The whole flash of a board with a stock image and `files`."""
    image = images.parse(stock_image(chip, layout))
    region = image.filesystem(size)
    volume = filesystem.littlefs(files, region.size)
    content = bytearray(b"\xff" * size)
    content[chip.image_offset : chip.image_offset + len(image.content)] = image.content
    content[region.offset : region.offset + len(volume)] = volume
    return bytes(content)


@contextmanager
def virtual_board(
    directory: Path, files: Mapping[str, bytes] | None = None, *, layout: Sequence[Entry] | None = None, **options: Any
) -> Iterator[Any]:
    """A board with its power on; blank unless there are `files`. `options` are BoardConfig's."""
    require_module("micropython_run")
    require_module("esp32_mock_bootloader")
    from lopower_hil.virtual_board import Board, BoardConfig

    config = BoardConfig(directory=directory / "board", **options)
    if files is not None:
        config.directory.mkdir()
        content = flash_content(
            chip_named(config.chip), files, layout=layout or stock_images.LAYOUT_4MB, size=config.flash_size
        )
        (config.directory / "flash.bin").write_bytes(content)
    with Board(config) as board:
        yield board


def tool(name: str, *arguments: str, check: bool = True, timeout: float = 100) -> str:
    """Run esptool or mpremote as it is installed, unmodified; what it said. Fails with that unless it exits with 0."""
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if program is None:
        missing(f"program {name!r} is not installed")
    with tempfile.TemporaryFile("w+") as said:  # no pipe: output and error in the order they were written
        done = subprocess.run(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=timeout,
        )
        said.seek(0)
        text = said.read()
    assert not check or done.returncode == 0, text
    return text


def esptool(board: Any, *arguments: str, check: bool = True) -> str:
    """esptool at the board's port."""
    return tool("esptool", "--port", board.port, *arguments, check=check)


def mpremote(board: Any, *arguments: str, check: bool = True) -> str:
    """mpremote connected to the board's port."""
    return tool("mpremote", "connect", board.port, *arguments, check=check)
