"""A board's flash: NOR flash in a file, which holds at any moment what has been erased and written so far.

Reading and writing go straight to the file, so that a board that dies in the middle of a write leaves the same trace as
a chip whose power is cut.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

SECTOR_SIZE: Final = 4096
ERASED: Final = 0xFF
SIZES: Final = tuple(1 << n for n in range(20, 26))
"""1 MB to 32 MB: what a JEDEC identifier's third byte can say and esptool knows."""

_CHUNK: Final = 1 << 16


class PowerCutError(Exception):
    """The power went while the flash was written."""


class FlashMemory:
    """`size` bytes in the file at `path`; a new file is erased flash.

    Raises ValueError for a size that no such chip has, or a file of another size; OSError if it cannot be used.
    """

    def __init__(self, path: Path, size: int, *, allowance: Callable[[int], int] = lambda wanted: wanted) -> None:
        """Args:
        allowance: called before bytes are erased or written with their number; how many still are, before the power
            goes.
        """
        if size not in SIZES:
            raise ValueError(f"no flash has {size} bytes: 1, 2, 4, 8, 16 or 32 MB")
        self.path = path
        self.size = size
        self._allowance = allowance
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(self._descriptor).st_size
            if found == 0:
                self._fill(0, size)
            elif found != size:
                raise ValueError(f"{path} has {found} bytes, and the flash {size}")
        except BlockingIOError:
            self.close()
            raise ValueError(f"{path} is the flash of a board that runs") from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the file back; again is harmless."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the flash."""
        found = bytearray()
        length = max(0, min(length, self.size - offset))
        while len(found) < length:
            part = os.pread(self._descriptor, length - len(found), offset + len(found))
            if not part:
                break
            found += part
        return bytes(found)

    def erase(self, offset: int, length: int) -> None:
        """Erase all sectors that `length` bytes from `offset` on touch.

        Raises ValueError outside of the flash; PowerCutError if the power went.
        """
        first = offset // SECTOR_SIZE * SECTOR_SIZE
        end = -(-(offset + length) // SECTOR_SIZE) * SECTOR_SIZE
        self._check(first, end - first)
        allowed = self._allowance(end - first)
        self._fill(first, allowed)
        if allowed < end - first:
            raise PowerCutError

    def program(self, offset: int, data: bytes) -> None:
        """Write; as in NOR flash a bit can become 0 only.

        Raises ValueError outside of the flash; PowerCutError if the power went.
        """
        self._check(offset, len(data))
        allowed = self._allowance(len(data))
        for start in range(0, allowed, _CHUNK):
            part = data[start : min(start + _CHUNK, allowed)]
            before = self.read(offset + start, len(part))
            both = int.from_bytes(before, "little") & int.from_bytes(part, "little")
            self._write(offset + start, both.to_bytes(len(part), "little"))
        if allowed < len(data):
            raise PowerCutError

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise ValueError(f"{length} bytes at {offset:#x} lie outside of the flash")

    def _fill(self, offset: int, length: int) -> None:
        for start in range(0, length, _CHUNK):
            self._write(offset + start, bytes((ERASED,)) * min(_CHUNK, length - start))

    def _write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            offset += written
            view = view[written:]
