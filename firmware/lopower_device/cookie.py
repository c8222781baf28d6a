"""The cookie of a proxy under load (whitepaper section 5.4.7). Loaded for one reply."""

from array import array

from . import kernels as k
from .crypto import work
from .noise import decrypt


def open_cookie(key, message, mac1):
    """The cookie in a reply to the message that had `mac1`, or None."""
    return open_xchacha20(key, message[8:32], message[32:64], mac1)


def open_xchacha20(key, nonce, data, associated):
    """XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha section 2): the plaintext, or None. `nonce` has 24 bytes."""
    given = array("I", bytes(key) + bytes(nonce[:16]))
    for i in range(12):
        work[20 + i] = given[i]
    k.chacha20_xor(work, 0, given, bytearray(64), 0, 1, -1)
    mixed = bytes(memoryview(work)[:16])  # what the 20 rounds leave, before the input is added, is HChaCha20
    return decrypt(mixed[:16] + mixed[48:], data, associated, nonce[16:])
