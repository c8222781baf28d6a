"""What is on a board before it is written to: nothing, a device of ours, MicroPython with files, or the unknown.

Read through its bootloader, a few blocks of flash. All of it is somebody else's: bounded, and as wrong as it likes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from lopower_provisioning import partitions
from lopower_provisioning.errors import ImageError
from lopower_provisioning.flasher import Board
from lopower_provisioning.partitions import BLOCK_SIZE, Region

_MAX_BLOCKS: Final = 64
"""Of a file system that leads from block to block: a device's settings lie in less than ten."""
_MAX_SETTINGS: Final = 65_536
_DESCRIPTION: Final = 0x20  # esp_app_desc_t, behind the headers of image and first segment
_DESCRIPTION_MAGIC: Final = b"\x32\x54\xcd\xab"


class Kind(Enum):
    """What runs there; the value is for the user."""

    BLANK = "nothing"
    LOPOWER = "lopower"
    MICROPYTHON = "MicroPython"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a board holds.

    Attributes:
        firmware: name and version of what runs, as it says itself; may be empty.
        name: of the device, if it is one of ours and has settings.
    """

    kind: Kind
    firmware: str = ""
    name: str | None = None


def identify(board: Board) -> Contents:
    """Look at the flash of a board in its bootloader.

    Raises FlashError if it cannot be read.
    """
    if not board.read(board.chip.image_offset, BLOCK_SIZE).strip(b"\xff"):
        return Contents(Kind.BLANK)
    try:
        table = partitions.parse(board.read(partitions.TABLE_OFFSET, partitions.TABLE_SIZE))
        firmware = _firmware(board.read(partitions.application(table).offset + _DESCRIPTION, 80))
        region = partitions.filesystem_region(table, board.flash_size)
    except ImageError:
        return Contents(Kind.UNKNOWN)
    names, settings = _files(board, region)
    if "lopower.json" in names or "lopower_a" in names:
        return Contents(Kind.LOPOWER, firmware, _name(settings))
    is_micropython = firmware.lower().startswith("micropython")
    return Contents(Kind.MICROPYTHON if is_micropython else Kind.UNKNOWN, firmware)


def _firmware(description: bytes) -> str:
    if not description.startswith(_DESCRIPTION_MAGIC):
        return ""
    version, project = description[16:48], description[48:80]
    texts = (entry.partition(b"\0")[0].decode("ascii", "replace") for entry in (project, version))
    return "".join(letter for letter in " ".join(texts).strip() if letter.isprintable())


def _name(settings: bytes) -> str | None:
    try:
        name = json.loads(settings)["hostname"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    usable = isinstance(name, str) and 0 < len(name) < 64 and name.isascii() and name.replace("-", "").isalnum()
    return name.lower() if usable else None


def _files(board: Board, region: Region) -> tuple[set[str], bytes]:
    """The names in `/`, and what /lopower.json holds; nothing where there is no file system."""
    from littlefs import LittleFS, LittleFSError
    from littlefs.context import UserContext

    blocks: dict[int, bytes] = {}

    class Flash(UserContext):
        """The blocks that are asked for, each fetched once."""

        def read(self, cfg: Any, block: int, off: int, size: int) -> bytearray:
            if block not in blocks:
                if len(blocks) >= _MAX_BLOCKS or (block + 1) * BLOCK_SIZE > region.size:
                    raise _TooMuch
                blocks[block] = board.read(region.offset + block * BLOCK_SIZE, BLOCK_SIZE)
            return bytearray(blocks[block][off : off + size])

    try:
        volume = LittleFS(
            context=Flash(0), mount=False, block_size=BLOCK_SIZE, block_count=region.size // BLOCK_SIZE,
            read_size=32, prog_size=32, lookahead_size=32, cache_size=128, block_cycles=100,
        )  # fmt: skip
        volume.mount()
        names = set(volume.listdir("/"))
        if "lopower.json" not in names or volume.stat("/lopower.json").size > _MAX_SETTINGS:
            return names, b""
        with volume.open("/lopower.json", "rb") as file:
            return names, file.read()
    except (LittleFSError, _TooMuch, OSError, UnicodeDecodeError):
        return set(), b""


class _TooMuch(Exception):  # noqa: N818 - never leaves this module
    pass
