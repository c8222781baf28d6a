"""ESP-IDF partition tables, whole and damaged, and where stock MicroPython's file system lies."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower_provisioning import partitions
from lopower_provisioning.errors import ImageError
from lopower_provisioning.partitions import Region
from tests.support import stock_images
from tests.support.stock_images import Entry, partition_table

MB = 1 << 20


@pytest.mark.parametrize(
    ("layout", "flash_size", "expected"),
    [
        (stock_images.LAYOUT_4MB, 4 * MB, Region(0x200000, 0x200000)),
        (stock_images.LAYOUT_4MB_OTA, 4 * MB, Region(0x310000, 0xF0000)),
        (stock_images.LAYOUT_2MB, 2 * MB, Region(0x170000, 0x90000)),
        (stock_images.LAYOUT_8MB_OTA, 8 * MB, Region(0x4F0000, 0x310000)),
        (stock_images.LAYOUT_4MB, 16 * MB, Region(0x200000, 0xE00000)),
        (stock_images.LAYOUT_VFS, 8 * MB, Region(0x200000, 0x200000)),  # as the table says, not up to the end
    ],
)
def test_file_system_of_each_layout(layout: tuple[Entry, ...], flash_size: int, expected: Region) -> None:
    assert partitions.filesystem_region(partitions.parse(partition_table(layout)), flash_size) == expected


def test_a_fat_label_is_taken_too() -> None:
    found = partitions.parse(partition_table([*stock_images.LAYOUT_4MB, ("ffat", 1, 0x81, 0x200000, 0x100000)]))
    assert partitions.filesystem_region(found, 4 * MB) == Region(0x200000, 0x100000)


def test_flash_too_small_and_flash_that_is_full() -> None:
    found = partitions.parse(partition_table(stock_images.LAYOUT_8MB_OTA))
    with pytest.raises(ImageError, match="more flash than the board has"):
        partitions.filesystem_region(found, 4 * MB)
    found = partitions.parse(partition_table(stock_images.LAYOUT_4MB))
    with pytest.raises(ImageError, match="no room"):
        partitions.filesystem_region(found, 2 * MB)


def test_what_starts_first() -> None:
    assert partitions.application(partitions.parse(partition_table(stock_images.LAYOUT_4MB))).label == "factory"
    assert partitions.application(partitions.parse(partition_table(stock_images.LAYOUT_4MB_OTA))).label == "ota_0"
    with pytest.raises(ImageError, match="no application"):
        partitions.application(partitions.parse(partition_table([stock_images.NVS])))


def test_a_table_without_md5_is_one() -> None:
    assert len(partitions.parse(partition_table(stock_images.LAYOUT_4MB, md5=False))) == 3


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "empty"),
        ([("app", 0, 0, 0x10000, 0)], "empty"),
        ([("app", 0, 0, 0x10010, 0x1000)], "not at a block"),
        ([("app", 0, 0, 0x8000, 0x1000)], "overlaps"),
        ([("app", 0, 0, 0x10000, 0x2000), ("b", 1, 2, 0x11000, 0x1000)], "overlaps"),
    ],
)
def test_tables_that_make_no_sense(entries: list[Entry], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        partitions.parse(partition_table(entries))


def test_a_wrong_bit_anywhere_is_seen() -> None:
    table = bytearray(partition_table(stock_images.LAYOUT_4MB))
    for at in range(4 * 32):
        table[at] ^= 0x10
        with pytest.raises(ImageError):
            partitions.parse(bytes(table))
        table[at] ^= 0x10


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4096), st.booleans())
def test_anything_is_parsed_or_refused(table: bytes, marked: bool) -> None:
    if marked:
        table = b"".join(b"\xaa\x50" + table[at : at + 30] for at in range(0, len(table), 30))
    try:
        found = partitions.parse(table)
    except ImageError:
        return
    assert found
