"""The stable stock image for a chip, from micropython.org, kept in a cache with its checksum.

    ~/.cache/lopower/images/ESP32_GENERIC-20260901-v1.28.0.bin
    ~/.cache/lopower/images/ESP32_GENERIC-20260901-v1.28.0.bin.json     {"sha256": …, "url": …}
    ~/.cache/lopower/images/latest.json                                 which is the newest, for a day

mpflash finds what there is (`stock_index`); the file is fetched here, because mpflash keeps whatever the server
answers, an error page or half a file included.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lopower_provisioning import images
from lopower_provisioning.chips import Chip
from lopower_provisioning.downloads import fetch, site
from lopower_provisioning.errors import DownloadError, ImageError
from lopower_provisioning.images import MAX_IMAGE_SIZE, Image

INDEX_SECONDS: Final = 90.0
FRESH_SECONDS: Final = 86_400.0
"""There is a new MicroPython every few months: asking once a day is enough, and the next board is ready sooner."""

_NAME: Final = re.compile(r"[A-Z][A-Z0-9_]{1,60}(?:-[A-Z0-9_]{1,40})?")
_VERSION: Final = re.compile(r"v(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")
_HINT: Final = "or name a file: --image, from micropython.org/download"


@dataclass(frozen=True, slots=True)
class StockImage:
    """An image and where it is from.

    Attributes:
        file: in the cache.
        sha256: of the file, in hexadecimal digits.
        note: what the user should know about it; may be empty.
    """

    image: Image
    file: Path
    sha256: str
    note: str = ""


def board_for(chip: Chip, flash_size: int) -> str:
    """What micropython.org calls the image for any board with this chip and so much flash, in bytes."""
    # The S3's ordinary image is for 8 MB and more.
    return f"{chip.stock_board}-FLASH_4M" if chip.name == "ESP32-S3" and flash_size < 8 << 20 else chip.stock_board


def stock_image(
    board: str,
    cache: Path,
    *,
    progress: Callable[[float], None] = lambda done: None,
    clock: Callable[[], float] = time.time,
) -> StockImage:
    """The newest stable image for `board`, out of the cache or downloaded.

    Args:
        board: as micropython.org names it, with its variant: ESP32_GENERIC-SPIRAM.
        cache: a directory of ours; it is made.

    Raises DownloadError, ImageError.
    """
    if not _NAME.fullmatch(board):
        raise ImageError(f"{board!r} is no name of a board", "micropython.org/download lists them: ESP32_GENERIC_S3")
    cache = cache / "images"
    cache.mkdir(parents=True, exist_ok=True)
    note = ""
    try:
        url = _newest(board, cache, clock())
    except DownloadError as error:
        kept = _kept(board, cache)
        if kept is None:
            raise
        url = kept
        note = f"{error}; the image of an earlier time is used"
    file = cache / url.rpartition("/")[2]
    content = _checked(file)
    if content is None:
        content = fetch(url, MAX_IMAGE_SIZE, progress)
        images.parse(content)  # before it is kept: a portal's page is no image
        record = {"sha256": hashlib.sha256(content).hexdigest(), "url": url}
        _write(file, content)
        _write(file.with_name(file.name + ".json"), json.dumps(record).encode())
    return StockImage(images.parse(content), file, hashlib.sha256(content).hexdigest(), note)


def _newest(board: str, cache: Path, now: float) -> str:
    """The URL of the newest stable image."""
    known = _latest(cache)
    entry = known.get(f"{site()} {board}")
    if isinstance(entry, dict) and 0 <= now - float(entry.get("found", 0)) < FRESH_SECONDS:
        return str(entry["url"])
    found = [(version, entry["url"]) for entry in _ask(board, cache) if (version := _version(entry["version"]))]
    found = [entry for entry in found if entry[1].startswith(site()) and _safe(entry[1])]
    if not found:
        raise DownloadError(
            f"{site()} has no stable image for {board}", f"see which boards there are at {site()}download, {_HINT}"
        )
    url = max(found)[1]
    known[f"{site()} {board}"] = {"url": url, "found": now}
    _write(cache / "latest.json", json.dumps(known).encode())
    return url


def _ask(board: str, cache: Path) -> list[dict[str, str]]:
    """Run `stock_index`, at home in the cache."""
    home = cache.parent / "mpflash"
    firmware = home / "firmware"
    firmware.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPFLASH", "GITHUB_"))}
    environ = {**kept, "HOME": str(home), "USERPROFILE": str(home), "MPFLASH_FIRMWARE": str(firmware)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "lopower_provisioning.stock_index", board],
            env=environ, capture_output=True, text=True, check=False, timeout=INDEX_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DownloadError(f"{site()} does not answer within {INDEX_SECONDS:g} s", _HINT) from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise DownloadError(f"what images {site()} has cannot be found out: {reason}", f"is there a network? {_HINT}")
    try:
        return [{name: str(entry[name]) for name in ("board", "version", "url")} for entry in json.loads(done.stdout)]
    except (ValueError, KeyError, TypeError):
        raise DownloadError(
            "mpflash answers in a way that is not understood", f"pip install -U mpflash, {_HINT}"
        ) from None


def _latest(cache: Path) -> dict[str, Any]:
    try:
        known = json.loads((cache / "latest.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _kept(board: str, cache: Path) -> str | None:
    """The URL of what was the newest once, if that is whole in the cache."""
    entry = _latest(cache).get(f"{site()} {board}")
    url = str(entry["url"]) if isinstance(entry, dict) and "url" in entry else ""
    return url if _safe(url) and _checked(cache / url.rpartition("/")[2]) is not None else None


def _checked(file: Path) -> bytes | None:
    """The file, if it still is what was downloaded."""
    try:
        wanted = json.loads(file.with_name(file.name + ".json").read_text())["sha256"]
        content = file.read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return content if hashlib.sha256(content).hexdigest() == wanted else None


def _version(text: str) -> tuple[int, ...] | None:
    found = _VERSION.fullmatch(text)
    return None if found is None else tuple(int(part or 0) for part in found.groups())


def _safe(url: str) -> bool:
    """Whether its last part is a file's name."""
    return re.fullmatch(r"[A-Za-z0-9_.-]{1,150}\.bin", url.rpartition("/")[2]) is not None


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: several boards may be flashed at once."""
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(scratch, path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
