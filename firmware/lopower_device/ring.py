"""A byte ring of fixed size: data in order, and room to write ahead of it."""

from . import kernels as k


class Ring:
    """`length` bytes in order; what lies further ahead is the caller's to know."""

    def __init__(self, size):
        self._buffer = bytearray(size)
        self.size = size
        self.clear()

    def clear(self):
        """As new."""
        self._start = self.length = 0

    @property
    def free(self):
        """Bytes that may still be written."""
        return self.size - self.length

    def write(self, ahead, source, offset, length):
        """Put bytes `ahead` of the end; they count once `length` was raised."""
        if not length:
            return
        at = (self._start + self.length + ahead) % self.size
        first = min(length, self.size - at)
        k.copy(self._buffer, at, source, offset, first)
        if first < length:
            k.copy(self._buffer, 0, source, offset + first, length - first)

    def read(self, offset, to, to_offset, length):
        """Copy bytes out, from `offset` on; they stay."""
        if not length:
            return
        at = (self._start + offset) % self.size
        first = min(length, self.size - at)
        k.copy(to, to_offset, self._buffer, at, first)
        if first < length:
            k.copy(to, to_offset + first, self._buffer, 0, length - first)

    def drop(self, length):
        """The first bytes go."""
        if length:
            self._start = (self._start + length) % self.size
        self.length -= length

    def find(self, byte):
        """The offset of a byte, or -1."""
        buffer, size, at = self._buffer, self.size, self._start
        for offset in range(self.length):
            if buffer[at] == byte:
                return offset
            at += 1
            if at == size:
                at = 0
        return -1
