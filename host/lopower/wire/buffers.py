"""Large buffers, from the system's pages instead of the allocator's heap."""

from __future__ import annotations

import mmap

# Both are changed by index and by slice, and memoryview and numpy take either.
Bytes = bytearray | mmap.mmap

# Below it a buffer's last page, half used on average, and the calls cost more than they save.
_SMALLEST = 1 << 16


def zeroed(size: int) -> Bytes:
    """A buffer of zeros.

    A large one is resident only as far as it has been written to, and goes back to the system as soon as nobody refers
    to it: it leaves no hole in the heap that small objects settle in.
    """
    if size < _SMALLEST:
        return bytearray(size)
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def discard(buffer: Bytes) -> None:
    """Give the pages of a `zeroed` buffer back to the system. What is in it is lost; it may be used on."""
    if isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        buffer.madvise(mmap.MADV_DONTNEED)
