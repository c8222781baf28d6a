"""Stock images are taken whole or refused with the reason, before anything is written."""

import pytest

from lopower_provisioning import chips, images
from lopower_provisioning.chips import Chip
from lopower_provisioning.errors import BoardState, ImageError
from tests.support import stock_images
from tests.support.stock_images import application, stock_image

ESP32 = chips.CHIPS[0]


@pytest.mark.parametrize("chip", chips.CHIPS, ids=lambda chip: chip.name)
def test_image_of_each_chip(chip: Chip) -> None:
    image = images.parse(stock_image(chip))
    assert image.chip is chip
    assert image.filesystem(4 << 20).offset == 0x200000
    images.check_chip(image, chip)


def test_chips_agree_with_esptool() -> None:
    targets = pytest.importorskip("esptool.targets")
    for chip in chips.CHIPS:
        known = targets.CHIP_DEFS[chip.name.lower().replace("-", "")]
        assert (
            chip.name,
            chip.image_id,
            chip.image_offset,
        ) == (known.CHIP_NAME, known.IMAGE_CHIP_ID, known.BOOTLOADER_FLASH_OFFSET)


def test_esptool_takes_the_made_images_for_true() -> None:
    bin_image = pytest.importorskip("esptool.bin_image")
    content = stock_image(ESP32)
    for part in (content[: 0x8000 - 0x1000], content[0x10000 - 0x1000 :]):
        parsed = bin_image.LoadFirmwareImage("esp32", part)
        assert parsed.checksum == parsed.calculate_checksum()
        assert parsed.stored_digest == parsed.calc_digest


def test_image_for_another_chip() -> None:
    image = images.parse(stock_image(chips.CHIPS[1]))
    with pytest.raises(ImageError, match="is for ESP32-S2, the board has ESP32") as caught:
        images.check_chip(image, ESP32)
    assert caught.value.state is BoardState.UNTOUCHED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "too short"),
        (b"\xe9", "too short"),
        (b"PK\x03\x04" + bytes(100_000), "does not begin with E9"),
        (stock_image(ESP32)[:20_000], "before its partition table"),
        (stock_image(ESP32)[:0xF000], "before its application"),
        (stock_image(ESP32)[:-1], "application is cut short"),
        (stock_image(ESP32)[:-40], "application is cut short"),
        (application(12, bytes(1000)), "lopower does not run on"),
        (application(0, bytes(1000)), "before its partition table"),
    ],
    ids=["empty", "byte", "zip", "head", "no-app", "last-byte", "no-digest", "esp32c2", "app-only"],
)
def test_files_that_are_no_image(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        images.parse(content)


def test_an_application_at_the_bootloaders_place_of_another_chip() -> None:
    content = bytearray(stock_image(ESP32))
    content[0x10000 - 0x1000 + 12] = 9
    with pytest.raises(ImageError, match="application is for another chip"):
        images.parse(bytes(content))


def test_a_wrong_bit_in_bootloader_or_application() -> None:
    content = bytearray(stock_image(ESP32, size=10_000))
    start = 0x10000 - 0x1000
    for at in (*range(40), 5000, *range(start, start + 40), start + 5000, len(content) - 1, len(content) - 33):
        content[at] ^= 0x04
        with pytest.raises(ImageError):
            images.parse(bytes(content))
        content[at] ^= 0x04


def test_an_image_that_covers_its_file_system() -> None:
    content = stock_image(ESP32, stock_images.LAYOUT_VFS)
    image = images.parse(content.ljust(0x200000, b"\xff"))
    with pytest.raises(ImageError, match="behind the beginning of its file system"):
        image.filesystem(4 << 20)


def test_a_file_larger_than_any_flash() -> None:
    with pytest.raises(ImageError, match="larger than any flash"):
        images.parse(bytes(images.MAX_IMAGE_SIZE + 1))
