"""Images laid out as stock MicroPython's: a real bootloader header, partition table, application and checksums.

The code in them is made up; every byte that a flasher looks at is as ESP-IDF's tools write it.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence

from lopower_provisioning.chips import Chip

Entry = tuple[str, int, int, int, int]

NVS: Entry = ("nvs", 1, 2, 0x9000, 0x6000)
PHY: Entry = ("phy_init", 1, 1, 0xF000, 0x1000)
LAYOUT_4MB: tuple[Entry, ...] = (NVS, PHY, ("factory", 0, 0, 0x10000, 0x1F0000))
LAYOUT_2MB: tuple[Entry, ...] = (NVS, PHY, ("factory", 0, 0, 0x10000, 0x160000))
LAYOUT_4MB_OTA: tuple[Entry, ...] = (
    ("nvs", 1, 2, 0x9000, 0x4000),
    ("otadata", 1, 0, 0xD000, 0x2000),
    PHY,
    ("ota_0", 0, 0x10, 0x10000, 0x180000),
    ("ota_1", 0, 0x11, 0x190000, 0x180000),
)
LAYOUT_8MB_OTA: tuple[Entry, ...] = (
    ("nvs", 1, 2, 0x9000, 0x4000),
    ("otadata", 1, 0, 0xD000, 0x2000),
    PHY,
    ("ota_0", 0, 0x10, 0x10000, 0x270000),
    ("ota_1", 0, 0x11, 0x280000, 0x270000),
)
LAYOUT_VFS: tuple[Entry, ...] = (*LAYOUT_4MB, ("vfs", 1, 0x81, 0x200000, 0x200000))


def application(chip_id: int, payload: bytes, *, digest: bool = True, flash_size: int = 1 << 20) -> bytes:
    """One segment behind a header of `esp_image_header_t`; `flash_size`: bytes that the bootloader insists on."""
    payload = payload.ljust(-(-len(payload) // 4) * 4, b"\0")
    size_and_speed = (flash_size.bit_length() - 21) << 4
    image = struct.pack("<BBBBI", 0xE9, 1, 2, size_and_speed, 0x40080000)
    image += struct.pack("<BBBBHBHH4sB", 0xEE, 0, 0, 0, chip_id, 0, 0, 0xFFFF, bytes(4), int(digest))
    image += struct.pack("<II", 0x3FFB0000, len(payload)) + payload
    checksum = 0xEF
    for byte in payload:
        checksum ^= byte
    image += bytes(15 - len(image) % 16) + bytes([checksum])
    return image + hashlib.sha256(image).digest() if digest else image


def partition_table(entries: Sequence[Entry], *, md5: bool = True) -> bytes:
    """ESP-IDF's gen_esp32part.py."""
    table = b"".join(
        struct.pack("<2sBBII16sI", b"\xaa\x50", type_, subtype, offset, size, label.encode(), 0)
        for label, type_, subtype, offset, size in entries
    )
    if md5:
        table += b"\xeb\xeb" + b"\xff" * 14 + hashlib.md5(table, usedforsecurity=False).digest()
    return table.ljust(0xC00, b"\xff")


def stock_image(chip: Chip, layout: Sequence[Entry] = LAYOUT_4MB, *, size: int = 100_000, seed: int = 1) -> bytes:
    """The file, whose application has `size` bytes that do not compress."""
    start = chip.image_offset
    image = bytearray(b"\xff" * (0x10000 - start))
    end = max(offset + length for _, _, _, offset, length in layout)
    bootloader = application(chip.image_id, b"bootloader" * 1000, flash_size=1 << (end - 1).bit_length())
    image[: len(bootloader)] = bootloader
    table = partition_table(layout)
    image[0x8000 - start : 0x8000 - start + len(table)] = table
    return bytes(image) + application(chip.image_id, _description() + random.Random(seed).randbytes(size))


def _description() -> bytes:
    """ESP-IDF's esp_app_desc_t, which an application begins with."""
    fields = (0xABCD5432, 0, b"", b"v1.28.0", b"micropython", b"12:00:00", b"Sep  1 2026", b"v5.5.1", b"")
    return struct.pack("<II8s32s32s16s16s32s32s80x", *fields)
