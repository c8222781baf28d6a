"""Images laid out as stock MicroPython's, under the name that tests know them by."""

from __future__ import annotations

from lopower_hil.made_images import (
    LAYOUT_2MB,
    LAYOUT_4MB,
    LAYOUT_4MB_OTA,
    LAYOUT_8MB_OTA,
    LAYOUT_VFS,
    NVS,
    PHY,
    Entry,
    application,
    partition_table,
    stock_image,
)

__all__ = [
    "LAYOUT_2MB", "LAYOUT_4MB", "LAYOUT_4MB_OTA", "LAYOUT_8MB_OTA", "LAYOUT_VFS", "NVS", "PHY", "Entry", "application",
    "partition_table", "stock_image",
]  # fmt: skip
