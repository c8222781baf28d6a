"""The newest stable image, found by the real mpflash and downloaded from a server laid out as micropython.org."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lopower_provisioning import chips, stock
from lopower_provisioning.errors import DownloadError, ImageError
from tests.support.micropython_site import Site, micropython_site
from tests.support.requirements import require_module
from tests.support.stock_images import stock_image

ESP32, S3 = chips.CHIPS[0], chips.CHIPS[3]
OLD, NEW = (stock_image(ESP32, size=20_000, seed=seed) for seed in (1, 2))
NEWEST = "ESP32_GENERIC-20260901-v1.28.0.bin"
DAY = 86_400.0


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    require_module("mpflash")
    with micropython_site() as made:
        monkeypatch.setenv("LOPOWER_MICROPYTHON_URL", made.url)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        made.add_images(
            "ESP32_GENERIC",
            {
                "ESP32_GENERIC-20261001-v1.29.0-preview.7.gabcdef012.bin": b"not stable",
                "ESP32_GENERIC-20250911-v1.9.4.bin": OLD,
                NEWEST: NEW,
                "ESP32_GENERIC-SPIRAM-20260901-v1.28.0.bin": OLD,
            },
        )
        yield made


def test_the_newest_stable_one_once(site: Site, tmp_path: Path) -> None:
    """Found, downloaded, kept with its checksum; the next one comes out of the cache, in our own folder alone."""
    seen: list[float] = []
    found = stock.stock_image("ESP32_GENERIC", tmp_path / "cache", progress=seen.append)
    assert found.image.content == NEW
    assert found.file == tmp_path / "cache" / "images" / NEWEST
    assert (found.file.read_bytes(), seen[-1]) == (NEW, 1.0)
    asked = len(site.asked)
    again = stock.stock_image("ESP32_GENERIC", tmp_path / "cache")
    assert (again.sha256, again.image.content, len(site.asked)) == (found.sha256, NEW, asked)
    assert not (tmp_path / "home").exists()
    variant = stock.stock_image("ESP32_GENERIC-SPIRAM", tmp_path / "cache")
    assert variant.image.content == OLD


def test_a_day_later_it_asks_again_and_goes_on_without_a_network(site: Site, tmp_path: Path) -> None:
    stock.stock_image("ESP32_GENERIC", tmp_path, clock=lambda: 0.0)
    site.files.clear()
    assert stock.stock_image("ESP32_GENERIC", tmp_path, clock=lambda: DAY - 1).note == ""
    late = stock.stock_image("ESP32_GENERIC", tmp_path, clock=lambda: DAY + 1)
    assert late.image.content == NEW
    assert "earlier time is used" in late.note


def test_a_cached_file_that_was_changed_is_downloaded_again(site: Site, tmp_path: Path) -> None:
    found = stock.stock_image("ESP32_GENERIC", tmp_path)
    found.file.write_bytes(OLD)
    assert stock.stock_image("ESP32_GENERIC", tmp_path).image.content == NEW
    assert found.file.read_bytes() == NEW


def test_what_is_not_whole_or_no_image_is_not_kept(site: Site, tmp_path: Path) -> None:
    site.cut.add(f"/resources/firmware/{NEWEST}")
    with pytest.raises(DownloadError, match="cut short"):
        stock.stock_image("ESP32_GENERIC", tmp_path)
    site.cut.clear()
    site.files[f"/resources/firmware/{NEWEST}"] = b"<html>log in to the hotel's Wi-Fi</html>"
    with pytest.raises(ImageError, match="no ESP32 image"):
        stock.stock_image("ESP32_GENERIC", tmp_path)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["latest.json"]
    site.files[f"/resources/firmware/{NEWEST}"] = NEW
    assert stock.stock_image("ESP32_GENERIC", tmp_path).image.content == NEW


def test_what_is_not_there(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no stable image for ESP32_GENERIC_C6"):
        stock.stock_image("ESP32_GENERIC_C6", tmp_path)
    with pytest.raises(ImageError, match="no name of a board"):
        stock.stock_image("../ESP32", tmp_path)


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_module("mpflash")
    monkeypatch.setenv("LOPOWER_MICROPYTHON_URL", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be found out") as caught:
        stock.stock_image("ESP32_GENERIC", tmp_path)
    assert "--image" in caught.value.hint


def test_the_name_for_a_chip() -> None:
    assert [stock.board_for(chip, 4 << 20) for chip in chips.CHIPS[:3]] == [
        "ESP32_GENERIC", "ESP32_GENERIC_S2", "ESP32_GENERIC_C3",
    ]  # fmt: skip
    assert stock.board_for(S3, 4 << 20) == "ESP32_GENERIC_S3-FLASH_4M"
    assert stock.board_for(S3, 8 << 20) == "ESP32_GENERIC_S3"
