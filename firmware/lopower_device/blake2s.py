"""BLAKE2s (RFC 7693), and HMAC and HKDF of it. Loaded for a handshake."""

from array import array

from . import kernels as k
from .crypto import words

_TABLE = array(  # RFC 7693: the vector of section 2.6; the permutations of 2.7, each entry plus 16, a byte for each
    "I",
    b"\x67\xe6\x09\x6a\x85\xae\x67\xbb\x72\xf3\x6e\x3c\x3a\xf5\x4f\xa5"
    b"\x7f\x52\x0e\x51\x8c\x68\x05\x9b\xab\xd9\x83\x1f\x19\xcd\xe0\x5b"
    + bytes(
        [
            16 + int(digit, 16)
            for digit in "0123456789abcdefea489fd61c02b753b8c052fdae3671947931dcbe265a40f8905724afe1bc683d"
            "2c6a0b834d75fe19c51fed4a0763928bdb7ec13950f4862a6fe9b308c2d714a5a2847615fb9e3cd0"
        ]
    ),
)
_state = words(8)
_scratch = words(32)


def blake2s(data, key=b"", size=32):
    """RFC 7693: `size` bytes (1 to 32) of digest of `data`, under `key` (up to 32 bytes)."""
    state, compress = _state, k.blake2s_compress
    for i in range(8):
        state[i] = _TABLE[i]
    state[0] ^= 0x01010000 ^ len(key) << 8 ^ size
    length = len(data)
    before = 0
    if key:
        before = 64
        compress(_scratch, 0, state, _TABLE, key, 0, len(key), 64, 0 if length else -1)
    at = 0
    while at < length or not before:
        n = min(64, length - at)
        compress(_scratch, 0, state, _TABLE, data, at, n, before + at + n, -1 if at + n == length else 0)
        at += n
        if at == length:
            break
    return bytes(state)[:size]


def hmac(key, data):
    """HMAC-BLAKE2s (Noise section 4.3), for keys of up to 64 bytes."""
    key = key + bytes(64 - len(key))
    inner = blake2s(bytes([byte ^ 0x36 for byte in key]) + data)
    return blake2s(bytes([byte ^ 0x5C for byte in key]) + inner)


def hkdf(chaining_key, material, outputs):
    """HKDF of Noise section 4.3: one to three outputs of 32 bytes."""
    secret = hmac(chaining_key, material)
    output = b""
    results = []
    for i in range(outputs):
        output = hmac(secret, output + bytes((i + 1,)))
        results.append(output)
    return results
