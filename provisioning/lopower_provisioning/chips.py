"""The chips that the firmware runs on, and what differs between them when they are flashed.

Offsets are those of the second stage bootloader (ESP-IDF Programming Guide, "Bootloader"; esptool's
BOOTLOADER_FLASH_OFFSET), identifiers those of `esp_chip_id_t` in ESP-IDF's esp_app_format.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Chip:
    """One kind of chip.

    Attributes:
        name: as Espressif and esptool write it.
        image_id: the chip identifier in an image's header.
        image_offset: bytes from the start of the flash to where a stock image is written.
        architecture: what mpy-cross compiles native code for.
        stock_board: what micropython.org calls the image for any board with this chip.
    """

    name: str
    image_id: int
    image_offset: int
    architecture: str
    stock_board: str

    @property
    def short_name(self) -> str:
        """As esptool's options write it: esp32s3."""
        return self.name.lower().replace("-", "")


CHIPS: Final = (
    Chip("ESP32", 0, 0x1000, "xtensawin", "ESP32_GENERIC"),
    Chip("ESP32-S2", 2, 0x1000, "xtensawin", "ESP32_GENERIC_S2"),
    Chip("ESP32-C3", 5, 0x0, "rv32imc", "ESP32_GENERIC_C3"),
    Chip("ESP32-S3", 9, 0x0, "xtensawin", "ESP32_GENERIC_S3"),
    Chip("ESP32-C6", 13, 0x0, "rv32imc", "ESP32_GENERIC_C6"),
    Chip("ESP32-P4", 18, 0x2000, "rv32imc", "ESP32_GENERIC_P4"),
    Chip("ESP32-C5", 23, 0x2000, "rv32imc", "ESP32_GENERIC_C5"),
)

_NAMES: Final = {chip.name: chip for chip in CHIPS}
_IMAGE_IDS: Final = {chip.image_id: chip for chip in CHIPS}


def by_name(name: str) -> Chip | None:
    """The chip that esptool calls `name`; None if the firmware does not run on it."""
    return _NAMES.get(name)


def by_image_id(image_id: int) -> Chip | None:
    """The chip whose identifier stands in an image's header; None if the firmware does not run on it."""
    return _IMAGE_IDS.get(image_id)
