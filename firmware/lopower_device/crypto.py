"""ChaCha20-Poly1305, BLAKE2s and X25519, out of kernels.

Buffers that the native kernels get are aligned to 4 bytes, and have room up to the next 64 bytes behind what is
encrypted. The arrays of this module are scratch that all calls share: they happen one after the other, under the
tunnel's lock.
"""

from array import array

from . import kernels as k


def words(count):
    """`count` zero words of 32 bits."""
    return array("I", bytes(4 * count))


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
_ZERO = bytes(64)
_hash_state = words(8)


def blake2s(data, key=b"", size=32):
    """RFC 7693: `size` bytes (1 to 32) of digest of `data`, under `key` (up to 32 bytes)."""
    state, compress = _hash_state, k.blake2s_compress
    for i in range(8):
        state[i] = _TABLE[i]
    state[0] ^= 0x01010000 ^ len(key) << 8 ^ size
    length = len(data)
    before = 0
    if key:
        before = 64
        compress(_field, 0, state, _TABLE, key, 0, len(key), 64, 0 if length else -1)
    at = 0
    while at < length or not before:
        n = min(64, length - at)
        compress(_field, 0, state, _TABLE, data, at, n, before + at + n, -1 if at + n == length else 0)
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

    def seal_message(self, data, associated, nonce=_ZERO):
        """The AEAD of a handshake: ciphertext and tag. `associated` has a multiple of 16 bytes; `nonce`, 8."""
        length = len(data)
        packet, at = _message(data, associated, nonce)
        self.seal(packet, length, len(associated))
        return bytes(packet[at : at + length + TAG])

    def open_message(self, data, associated, nonce=_ZERO):
        """The plaintext of a handshake's AEAD, or None."""
        length = len(data) - TAG
        packet, at = _message(data, associated, nonce)
        return bytes(packet[at : at + length]) if self.open(packet, length, len(associated)) else None


def _message(data, associated, nonce):
    """(buffer as of a data message, where `data` begins in it)."""
    at = HEADER + len(associated)
    packet = bytearray(at + (len(data) + 63 & ~63) + TAG)
    packet[8:16] = nonce[:8]
    packet[HEADER:at] = associated
    packet[at : at + len(data)] = data
    return packet, at


STEPS = 24
"""Steps of the ladder between two yields: below 5 ms on an ESP32."""

_field = words(230)
"""Scratch of the kernels, and seven elements of the field: x1, x2, z2, x3, z3, and two more."""
# Programs of field_run. RFC 7748 section 5, with A = 5, B = z2, C = x2, D = z3:
_LADDER = bytes(
    (
        6, 0, 0, 0,  # swap
        3, 1, 2, 5,  # A = x2 + z2
        4, 1, 2, 2,  # B = x2 - z2
        3, 3, 4, 1,  # C = x3 + z3
        4, 3, 4, 4,  # D = x3 - z3
        1, 4, 5, 4,  # DA
        1, 1, 2, 1,  # CB
        2, 5, 1, 5,  # AA
        2, 2, 1, 6,  # BB
        3, 4, 1, 3,  # x3 = (DA + CB)^2
        2, 3, 1, 3,
        4, 4, 1, 4,  # z3 = x1 * (DA - CB)^2
        2, 4, 1, 4,
        1, 0, 4, 4,
        1, 5, 6, 1,  # x2 = AA * BB
        4, 5, 6, 6,  # E = AA - BB
        5, 6, 5, 2,  # z2 = E * (AA + 121665 * E)
        1, 6, 2, 2,
        0,
    )
)  # fmt: skip
# x2 = x2 * z2 ^ (p - 2), by 254 squarings and 11 products
_INVERT = bytes(
    (
        2, 2, 1, 3,  # 2
        2, 3, 2, 4,
        1, 4, 2, 5,  # 9
        1, 5, 3, 3,  # 11
        2, 3, 1, 4,
        1, 4, 5, 5,  # 2^5 - 1
        2, 5, 5, 4,
        1, 4, 5, 5,  # 2^10 - 1
        2, 5, 10, 4,
        1, 4, 5, 6,  # 2^20 - 1
        2, 6, 20, 4,
        1, 4, 6, 4,  # 2^40 - 1
        2, 4, 10, 4,
        1, 4, 5, 5,  # 2^50 - 1
        2, 5, 50, 4,
        1, 4, 5, 6,  # 2^100 - 1
        2, 6, 100, 4,
        1, 4, 6, 4,  # 2^200 - 1
        2, 4, 50, 4,
        1, 4, 5, 4,  # 2^250 - 1
        2, 4, 5, 4,
        1, 4, 3, 4,  # 2^255 - 21
        1, 1, 4, 1,
        0,
    )
)  # fmt: skip
BASE_POINT = b"\x09" + bytes(31)


def clamped(secret):
    """A private key out of 32 random bytes (RFC 7748 section 5)."""
    scalar = bytearray(secret)
    scalar[0] &= 248
    scalar[31] = scalar[31] & 127 | 64
    return bytes(scalar)


def x25519(secret, point):
    """RFC 7748, resumable: a generator that yields after every few steps and returns 32 bytes.

    An all-zero result (a public point of low order) is returned as None. One multiplication at a time: they share their
    scratch.
    """
    field, scalar = _field, clamped(secret)
    for i in range(110, 190):
        field[i] = 0
    field[110] = field[170] = 1
    k.field_unpack(field, 0, point)
    k.field_unpack(field, 3, point)
    position = 254
    while position >= 0:
        steps = position % STEPS + 1
        k.field_run(field, 0, _LADDER, scalar, position, steps)
        position -= steps
        yield
    # Bit 0 of a clamped scalar is 0, so nothing is left to be swapped.
    k.field_run(field, 0, _INVERT, scalar, 0, 1)
    yield
    result = bytearray(32)
    k.field_pack(field, 1, result)
    return bytes(result) if k.differ(result, 0, _ZERO, 0, 32) else None


def run(generator):
    """What a generator returns, without pauses."""
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value
