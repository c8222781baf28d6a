"""A stock MicroPython image for ESP32 chips, checked before a byte of it is written.

Such a file is what lies in flash from the chip's bootloader offset on: the bootloader, the partition table at 0x8000,
the application in its partition. Bootloader and application are in the format of ESP-IDF's "Application Image Format":
a header of 24 bytes, segments, a checksum (XOR of all segment bytes, seed EF) that ends a line of 16 bytes and, if the
header says so, a SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from lopower_provisioning import chips, partitions
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import ImageError
from lopower_provisioning.partitions import Partition, Region

MAX_IMAGE_SIZE: Final = 64 << 20
"""A file that is no image can be of any size; stock images have about 2 MB, and no board more than 64."""

_MAGIC: Final = 0xE9
_HEADER: Final = struct.Struct("<BBBBIBBBBHBHH4sB")  # common header, then the extended one
_SEGMENT: Final = struct.Struct("<II")
_MAX_SEGMENTS: Final = 16  # ESP_IMAGE_MAX_SEGMENTS
_CHECKSUM_SEED: Final = 0xEF
_DIGEST_SIZE: Final = 32
_HINT: Final = "download it again from micropython.org/download, and check that it is the .bin for this board"


@dataclass(frozen=True, slots=True)
class Image:
    """A whole image for `chip`.

    Attributes:
        content: the file, to be written from `chip.image_offset` on.
        partitions: its table.
    """

    chip: Chip
    content: bytes
    partitions: tuple[Partition, ...]

    def filesystem(self, flash_size: int) -> Region:
        """Where this image finds its file system in a flash of `flash_size` bytes.

        Raises ImageError if the flash is too small, or if the image itself covers that place.
        """
        # Byte 3 of the header: the bootloader does not start on less flash than it names (ESP-IDF's esp_flash_api.c).
        wanted = (1 << 20) << (self.content[3] >> 4)
        if wanted > flash_size:
            raise ImageError(
                f"the image is made for {wanted >> 20} MB of flash, the board has {flash_size >> 20}",
                "take the image for a board with less flash: --board, or --image",
            )
        region = partitions.filesystem_region(self.partitions, flash_size)
        end = self.chip.image_offset + len(self.content)
        if end > region.offset:
            raise ImageError(f"the image ends at {end:#x}, behind the beginning of its file system", _HINT)
        return region


def parse(content: bytes) -> Image:
    """Check a file from its first to its last byte.

    Raises ImageError with the reason: cut short, damaged, for an unknown chip, an application without a bootloader.
    """
    if len(content) > MAX_IMAGE_SIZE:
        raise ImageError("the file is larger than any flash", _HINT)
    header = _header(content, "the file")
    chip = chips.by_image_id(header)
    if chip is None:
        raise ImageError(f"the image is for a chip that lopower does not run on (identifier {header})")
    table = partitions.TABLE_OFFSET - chip.image_offset
    if len(content) < table + partitions.TABLE_SIZE:
        raise ImageError("the image is cut short: it ends before its partition table", _HINT)
    _check_application(content[:table], chip, "the bootloader")
    found = partitions.parse(content[table : table + partitions.TABLE_SIZE])
    partition = partitions.application(found)
    start = partition.offset - chip.image_offset
    if start >= len(content):
        raise ImageError("the image is cut short: it ends before its application", _HINT)
    _check_application(content[start : start + partition.size], chip, "the application")
    return Image(chip, content, found)


def check_chip(image: Image, board: Chip) -> None:
    """Raises ImageError if `image` is for another chip than the board has."""
    if image.chip != board:
        raise ImageError(f"the image is for {image.chip.name}, the board has {board.name}", _HINT)


def _header(content: bytes, what: str) -> int:
    """The chip identifier of the image that begins here."""
    if len(content) < _HEADER.size:
        raise ImageError(f"{what} is too short for an image", _HINT)
    fields = _HEADER.unpack_from(content)
    if fields[0] != _MAGIC:
        raise ImageError(f"{what} is no ESP32 image: it does not begin with E9", _HINT)
    return int(fields[9])


def _check_application(content: bytes, chip: Chip, what: str) -> None:
    """Walk one application image, which may be followed by anything."""
    if _header(content, what) != chip.image_id:
        raise ImageError(f"{what} is for another chip than {chip.name}", _HINT)
    count, digest_appended = content[1], content[_HEADER.size - 1]
    if not 0 < count <= _MAX_SEGMENTS or digest_appended > 1:
        raise ImageError(f"{what} is damaged: its header makes no sense", _HINT)
    at, checksum = _HEADER.size, _CHECKSUM_SEED
    for _ in range(count):
        if at + _SEGMENT.size > len(content):
            raise ImageError(f"{what} is cut short, or damaged", _HINT)
        _, size = _SEGMENT.unpack_from(content, at)
        at += _SEGMENT.size
        if size > len(content) - at:
            raise ImageError(f"{what} is cut short, or damaged", _HINT)
        checksum ^= int(np.bitwise_xor.reduce(np.frombuffer(content, np.uint8, size, at), initial=0))
        at += size
    at += 15 - at % 16
    if at >= len(content) or content[at] != checksum:
        raise ImageError(f"{what} is cut short, or damaged: its checksum is wrong", _HINT)
    at += 1
    if digest_appended and content[at : at + _DIGEST_SIZE] != hashlib.sha256(content[:at]).digest():
        raise ImageError(f"{what} is cut short, or damaged: its SHA-256 is wrong", _HINT)
