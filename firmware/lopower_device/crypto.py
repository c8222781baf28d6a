"""ChaCha20-Poly1305 of data messages, out of kernels.

Buffers that the native kernels get are aligned to 4 bytes, and have room up to the next 64 bytes behind what is
encrypted. `work` is scratch that all calls share: they happen one after the other, under the tunnel's lock.
"""

from array import array

from . import kernels as k


def words(count):
    """`count` zero words of 32 bits."""
    return array("I", bytes(4 * count))


work = words(92)
_constants = array("I", b"expand 32-byte k")
for _i in range(4):
    work[16 + _i] = _constants[_i]
HEADER = 16
TAG = 16


class Cipher:
    """ChaCha20-Poly1305 (RFC 8439) under one key."""

    def __init__(self, key):
        self._key = array("I", bytes(key))

    def key(self):
        """The 32 bytes."""
        return bytes(self._key)

    def seal(self, packet, length, associated=0):
        """Encrypt `length` bytes behind the header of a data message, whose counter is the nonce.

        Between them may lie what is to be authenticated only, a multiple of 16 bytes. The tag follows them. Needs room
        up to the next 64 bytes, and the tag's 16, behind.
        """
        k.chacha20_xor(work, 0, self._key, packet, HEADER + associated, length + 63 >> 6, 0)
        k.poly1305(work, 0, packet, length, associated, 1)

    def open(self, packet, length, associated=0):
        """Whether the `length` bytes of a data message are authentic; then they are decrypted in place.

        Up to 15 bytes behind them, of the tag, are overwritten.
        """
        key = self._key
        k.chacha20_xor(work, 0, key, packet, HEADER, 0, 0)
        if k.poly1305(work, 0, packet, length, associated, 0):
            return False
        k.chacha20_xor(work, 0, key, packet, HEADER + associated, length + 63 >> 6, 1)
        return True
