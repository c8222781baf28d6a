"""Gives memory back to the system once what needed it is over: buffers that lie idle, and the allocator's free pages.

The C library keeps what was freed, for the next burst, which on a small machine may never come while others need the
pages now.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import Any, Final

INTERVAL: Final = 2.0
# Growth since memory was given back last that makes it worth doing again.
WORTHWHILE_BYTES: Final = 1 << 20
# Fewer turns of the data path in an interval: nobody notices the milliseconds that it takes.
QUIET_TURNS: Final = 200
# So many intervals that were not quiet, and it happens all the same.
_PATIENCE: Final = 15


def resident_bytes() -> int:
    """The process's resident set; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def heap_trimmer() -> Callable[[], None] | None:
    """What has the C library give its free pages back; None if it has no such call (others than glibc)."""
    try:
        trim: Any = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return lambda: trim(ctypes.c_size_t(0))


class MemoryKeeper:
    """See the module.

    Args:
        release: gives up buffers that have not been needed since the last call.
        turns: how many turns the data path has had.
        resident: the resident set in bytes; 0: not known, and the heap is left alone.
        trim: gives the heap's free pages back; None: that cannot be done.
    """

    def __init__(
        self,
        release: Callable[[], None],
        turns: Callable[[], int],
        resident: Callable[[], int],
        trim: Callable[[], None] | None,
    ) -> None:
        self._release = release
        self._turns = turns
        self._resident = resident
        self._trim = trim
        self._lowest = 0
        self._turns_before = 0
        self._waited = 0

    async def run(self) -> None:
        """Look again and again."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL)

    def look(self) -> None:
        """Give back what can be given back now."""
        self._release()
        turns = self._turns()
        quiet = turns - self._turns_before < QUIET_TURNS
        self._turns_before = turns
        if self._trim is None:
            return
        resident = self._resident()
        if resident < self._lowest + WORTHWHILE_BYTES:
            self._lowest = min(self._lowest, resident)
            self._waited = 0
        elif quiet or self._waited >= _PATIENCE:
            self._trim()
            self._lowest = self._resident()
            self._waited = 0
        else:
            self._waited += 1
