"""ESP-IDF's partition table, and where stock MicroPython looks for its file system.

Format: ESP-IDF Programming Guide, "Partition Tables": entries of 32 bytes that begin with AA 50, then an entry that
begins with EB EB and ends with the MD5 of all before it, then FF to the end.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from lopower_provisioning.errors import ImageError

TABLE_OFFSET: Final = 0x8000
TABLE_SIZE: Final = 0xC00
BLOCK_SIZE: Final = 4096
"""Bytes that flash erases at once, and of a block of the file system."""

APP: Final = 0x00
DATA: Final = 0x01
FACTORY: Final = 0x00
OTA_0: Final = 0x10

_ENTRY: Final = struct.Struct("<2sBBII16sI")
_MAGIC: Final = b"\xaa\x50"
_MD5_MARK: Final = b"\xeb\xeb" + b"\xff" * 14
_END: Final = b"\xff" * _ENTRY.size
_FILESYSTEM_LABELS: Final = ("vfs", "ffat")


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry. `offset` and `size` are bytes, from the start of the flash."""

    label: str
    type: int
    subtype: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Region:
    """A part of the flash: `offset` and `size` in bytes."""

    offset: int
    size: int


def parse(table: bytes) -> tuple[Partition, ...]:
    """The entries of a table that begins with the first byte of `table`, in their order.

    Raises ImageError unless it is whole: known marks only, an MD5 that is right if there is one, no two entries that
    overlap each other or the table itself.
    """
    found: list[Partition] = []
    for at in range(0, min(len(table), TABLE_SIZE) - _ENTRY.size + 1, _ENTRY.size):
        entry = table[at : at + _ENTRY.size]
        if entry == _END:
            return _checked(found)
        if entry.startswith(_MD5_MARK):
            if entry[16:] != hashlib.md5(table[:at], usedforsecurity=False).digest():
                raise ImageError("the partition table is damaged: its MD5 is not that of its entries")
            continue
        magic, type_, subtype, offset, size, label, _flags = _ENTRY.unpack(entry)
        if magic != _MAGIC:
            raise ImageError(f"there is no partition table at {TABLE_OFFSET:#x}, or it is damaged")
        name = label.partition(b"\0")[0].decode("ascii", "replace")
        found.append(Partition(name, type_, subtype, offset, size))
    raise ImageError("the partition table has no end")


def filesystem_region(partitions: tuple[Partition, ...], flash_size: int) -> Region:
    """Where stock MicroPython mounts `/` on a board with `flash_size` bytes of flash.

    That is the data partition `vfs` or `ffat`. Images since 1.26 have neither: there it is everything from the end of
    the last partition to the end of the flash.

    Raises ImageError if the partitions do not fit the flash, or leave less than two blocks.
    """
    last = max(partition.end for partition in partitions)
    if last > flash_size:
        raise ImageError(
            f"the image is made for more flash than the board has: its partitions end at {last:#x}, "
            f"the flash at {flash_size:#x}",
            "take the image for a board with less flash",
        )
    for label in _FILESYSTEM_LABELS:
        for partition in partitions:
            if partition.type == DATA and partition.label == label:
                return _usable(partition.offset, partition.end)
    return _usable(last, flash_size)


def application(partitions: tuple[Partition, ...]) -> Partition:
    """The partition that a freshly flashed board starts: `factory`, or else the first OTA slot.

    Raises ImageError if there is neither.
    """
    for subtype in (FACTORY, OTA_0):
        for partition in partitions:
            if (partition.type, partition.subtype) == (APP, subtype):
                return partition
    raise ImageError("the partition table has no application that would start")


def _usable(start: int, end: int) -> Region:
    start = -(-start // BLOCK_SIZE) * BLOCK_SIZE
    size = (end - start) // BLOCK_SIZE * BLOCK_SIZE
    if size < 2 * BLOCK_SIZE:
        raise ImageError("the image leaves no room for a file system on this board's flash")
    return Region(start, size)


def _checked(found: list[Partition]) -> tuple[Partition, ...]:
    if not found:
        raise ImageError("the partition table is empty")
    before = TABLE_OFFSET + TABLE_SIZE
    for partition in sorted(found, key=lambda entry: entry.offset):
        if partition.offset % BLOCK_SIZE or not partition.size:
            raise ImageError(f"the partition table is damaged: {partition.label!r} is not at a block, or empty")
        if partition.offset < before:
            raise ImageError(f"the partition table is damaged: {partition.label!r} overlaps what is before it")
        before = partition.end
    return tuple(found)
