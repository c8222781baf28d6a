"""What the ROM and the second stage bootloader look at before a program runs, and what they print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lopower_hil.virtual_board.flash_memory import FlashMemory
from lopower_hil.virtual_board.wires import ResetCause
from lopower_provisioning import images, partitions
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import ImageError
from lopower_provisioning.partitions import Region

_REASONS: Final = {
    ResetCause.POWER_ON: (0x1, "POWERON_RESET"),
    ResetCause.HARD: (0xC, "SW_CPU_RESET"),
    ResetCause.WATCHDOG: (0x8, "TG1WDT_SYS_RESET"),
    ResetCause.DEEP_SLEEP: (0x5, "DEEPSLEEP_RESET"),
}
ROM_NAMES: Final = {
    "ESP32": "ets Jul 29 2019 12:21:46",
    "ESP32-S2": "ESP-ROM:esp32s2-rc4-20191025",
    "ESP32-C3": "ESP-ROM:esp32c3-api1-20210207",
    "ESP32-S3": "ESP-ROM:esp32s3-20210327",
    "ESP32-C6": "ESP-ROM:esp32c6-20220919",
}
"""How each chip's ROM presents itself; the chips that a virtual board can have."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Either where the program's file system lies, or what is printed instead of a start."""

    files: Region | None
    printed: bytes


def banner(chip: Chip, cause: int, *, download: bool) -> bytes:
    """What the ROM prints after a reset."""
    number, reason = _REASONS[cause]
    boot = "0x3 (DOWNLOAD_BOOT(UART0/UART1/SDIO_REI_REO_V2))" if download else "0x13 (SPI_FAST_FLASH_BOOT)"
    text = f"{ROM_NAMES[chip.name]}\r\n\r\nrst:{number:#x} ({reason}),boot:{boot}\r\n"
    return (text + ("waiting for download\r\n" if download else "")).encode()


def check(flash: FlashMemory, chip: Chip) -> Verdict:
    """Whether the flash holds what this chip starts: bootloader, partition table and application, whole and for it."""
    content = flash.read(chip.image_offset, flash.size - chip.image_offset)
    if content[0] != 0xE9:
        word = int.from_bytes(content[:4], "little")
        return Verdict(None, f"invalid header: {word:#010x}\r\n".encode() * 4)
    try:
        image = images.parse(content)
        images.check_chip(image, chip)
        return Verdict(partitions.filesystem_region(image.partitions, flash.size), b"")
    except ImageError as error:
        return Verdict(
            None, f"E (57) boot: {error}\r\nE (62) boot: No bootable app partitions in the partition table\r\n".encode()
        )
