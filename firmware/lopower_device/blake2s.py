"""BLAKE2s (RFC 7693), and HMAC and HKDF of it. Loaded for a handshake. Scratch is `crypto`'s: under the tunnel's lock."""

from array import array

from . import kernels as k
from .crypto import work

_TABLE = array(  # RFC 7693: the vector of section 2.6; the permutations of 2.7, each entry plus 16, a byte for each,
    # here two to a byte
    "I",
    b"\x67\xe6\x09\x6a\x85\xae\x67\xbb\x72\xf3\x6e\x3c\x3a\xf5\x4f\xa5"
    b"\x7f\x52\x0e\x51\x8c\x68\x05\x9b\xab\xd9\x83\x1f\x19\xcd\xe0\x5b"
    + bytes(
        [
            16 + digit
            for pair in b"\x01\x23\x45\x67\x89\xab\xcd\xef\xea\x48\x9f\xd6\x1c\x02\xb7\x53"
            b"\xb8\xc0\x52\xfd\xae\x36\x71\x94\x79\x31\xdc\xbe\x26\x5a\x40\xf8"
            b"\x90\x57\x24\xaf\xe1\xbc\x68\x3d\x2c\x6a\x0b\x83\x4d\x75\xfe\x19"
            b"\xc5\x1f\xed\x4a\x07\x63\x92\x8b\xdb\x7e\xc1\x39\x50\xf4\x86\x2a"
            b"\x6f\xe9\xb3\x08\xc2\xd7\x14\xa5\xa2\x84\x76\x15\xfb\x9e\x3c\xd0"
            for digit in (pair >> 4, pair & 15)
        ]
    ),
)
# Scratch of ciphers, in which nothing outlasts their calls
_state = memoryview(work)[32:40]
_scratch = memoryview(work)[40:72]


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
