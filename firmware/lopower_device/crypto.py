"""ChaCha20-Poly1305, XChaCha20-Poly1305, BLAKE2s and X25519, out of kernels.

Buffers that the native kernels get are aligned to 4 bytes, and have room up to the next 64 bytes behind what is
encrypted. The arrays of this module are scratch that all calls share: they happen one after the other, under the
tunnel's lock.
"""

from array import array

from . import kernels as k


def words(count):
    """`count` zero words of 32 bits."""
    return array("I", bytes(4 * count))


_ORDER = bytes(  # RFC 7693 section 2.7, each entry plus 16; one hexadecimal digit per entry
    [
        16 + int(digit, 16)
        for digit in "0123456789abcdefea489fd61c02b753b8c052fdae3671947931dcbe265a40f8905724afe1bc683d"
        "2c6a0b834d75fe19c51fed4a0763928bdb7ec13950f4862a6fe9b308c2d714a5a2847615fb9e3cd0"
    ]
)
_VECTOR = array(
    "I",
    b"\x67\xe6\x09\x6a\x85\xae\x67\xbb\x72\xf3\x6e\x3c\x3a\xf5\x4f\xa5"
    b"\x7f\x52\x0e\x51\x8c\x68\x05\x9b\xab\xd9\x83\x1f\x19\xcd\xe0\x5b",
)
_ZERO = bytes(64)
_hash_work = words(32)
_hash_state = words(8)
_hash_block = bytearray(64)


def blake2s(data, key=b"", size=32):
    """RFC 7693: `size` bytes (1 to 32) of digest of `data`, under `key` (up to 32 bytes)."""
    for i in range(8):
        _hash_state[i] = _VECTOR[i]
    _hash_state[0] ^= 0x01010000 ^ len(key) << 8 ^ size
    length = len(data)
    before = 0
    if key:
        before = 64
        k.copy(_hash_block, 0, _ZERO, 0, 64)
        k.copy(_hash_block, 0, key, 0, len(key))
        _compress(64, not length)
    at = 0
    while at < length or not before:
        n = min(64, length - at)
        k.copy(_hash_block, 0, _ZERO, 0, 64)
        k.copy(_hash_block, 0, data, at, n)
        at += n
        _compress(before + at, at == length)
        if at == length:
            break
    return bytes(_hash_state)[:size]


def _compress(length, last):
    k.blake2s_start(_hash_work, _hash_state, _hash_block, _VECTOR, length, -1 if last else 0)
    k.blake2s_rounds(_hash_work, 0, _ORDER)
    k.blake2s_finish(_hash_work, _hash_state)


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


_poly = words(40)
_block = words(16)
_tag = bytearray(16)
_received_tag = bytearray(16)
_lengths = bytearray(16)
HEADER = 16
TAG = 16


class Cipher:
    """ChaCha20-Poly1305 (RFC 8439) under one key."""

    def __init__(self, key):
        self._state = state = words(32)
        constants = array("I", b"expand 32-byte k")
        for i in range(4):
            state[16 + i] = constants[i]
        words_of_key = array("I", bytes(key))
        for i in range(8):
            state[20 + i] = words_of_key[i]

    def key(self):
        """The 32 bytes."""
        return bytes(memoryview(self._state)[20:28])

    def seal(self, packet, length):
        """Encrypt `length` bytes behind the header of a data message, whose counter is the nonce.

        The tag follows them. Needs room up to the next 64 bytes, and the tag's 16, behind.
        """
        state = self._state
        k.chacha20_start(state, _block, packet)
        k.chacha20_xor(state, 0, _block, 0, 1)
        k.chacha20_xor(state, 0, packet, HEADER, length + 63 >> 6)
        _authenticate(packet, length)
        k.copy(packet, HEADER + length, _tag, 0, TAG)

    def open(self, packet, length):
        """Whether the `length` bytes of a data message are authentic; then they are decrypted in place."""
        state = self._state
        k.chacha20_start(state, _block, packet)
        k.chacha20_xor(state, 0, _block, 0, 1)
        k.copy(_received_tag, 0, packet, HEADER + length, TAG)
        _authenticate(packet, length)
        if k.differ(_received_tag, 0, _tag, 0, TAG):
            return False
        k.chacha20_xor(state, 0, packet, HEADER, length + 63 >> 6)
        return True

    def seal_message(self, data, associated, nonce=_ZERO):
        """The AEAD of a handshake: ciphertext and tag. `associated` has a multiple of 16 bytes; `nonce`, 8."""
        length = len(data)
        packet = self._message(data, length, nonce)
        k.chacha20_xor(self._state, 0, packet, HEADER, length + 63 >> 6)
        self._authenticate_message(packet, length, associated)
        return bytes(packet[HEADER : HEADER + length]) + bytes(_tag)

    def open_message(self, data, associated, nonce=_ZERO):
        """The plaintext of a handshake's AEAD, or None."""
        length = len(data) - TAG
        packet = self._message(data[:length], length, nonce)
        self._authenticate_message(packet, length, associated)
        if k.differ(data, length, _tag, 0, TAG):
            return None
        k.chacha20_xor(self._state, 0, packet, HEADER, length + 63 >> 6)
        return bytes(packet[HEADER : HEADER + length])

    def _message(self, data, length, nonce):
        packet = bytearray(HEADER + (length + 63 >> 6 << 6) + TAG)
        packet[8:16] = nonce[:8]
        packet[HEADER : HEADER + length] = data
        k.chacha20_start(self._state, _block, packet)
        k.chacha20_xor(self._state, 0, _block, 0, 1)
        return packet

    def _authenticate_message(self, packet, length, associated):
        padded = bytearray(HEADER + (length + 15 >> 4 << 4))
        padded[HEADER : HEADER + length] = packet[HEADER : HEADER + length]
        k.poly1305_start(_poly, _block)
        k.poly1305_blocks(_poly, 0, bytearray(associated), 0, len(associated) >> 4, 0x800)
        _finish(padded, length, len(associated))


def _authenticate(packet, length):
    """Overwrites what follows the `length` bytes up to a multiple of 16 with the zeros that are authenticated."""
    k.poly1305_start(_poly, _block)
    if length & 15:
        k.copy(packet, HEADER + length, _ZERO, 0, 16 - (length & 15))
    _finish(packet, length, 0)


def _finish(packet, length, associated):
    k.poly1305_blocks(_poly, 0, packet, HEADER, length + 15 >> 4, 0x800)
    _lengths[0] = associated
    _lengths[8] = length & 0xFF
    _lengths[9] = length >> 8
    k.poly1305_blocks(_poly, 0, _lengths, 0, 1, 0x800)
    k.poly1305_finish(_poly, _block, _tag)


def open_xchacha20(key, nonce, data, associated):
    """XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha section 2): the plaintext, or None. `nonce` has 24 bytes."""
    cipher = Cipher(key)
    state = cipher._state
    nonce_words = array("I", bytes(nonce[:16]))
    for i in range(4):
        state[28 + i] = nonce_words[i]
    k.chacha20_xor(state, 0, _block, 0, 1)  # what the 20 rounds leave, before the input is added, is HChaCha20
    subkey = bytes(state)
    return Cipher(subkey[:16] + subkey[48:64]).open_message(data, associated, nonce[16:])


STEPS = 24
"""Steps of the ladder between two yields: about 6 ms on an ESP32."""

_points = words(80)
_view = memoryview(_points)
_x2, _z2, _x3, _z3 = [_view[i : i + 20] for i in (0, 20, 40, 60)]
_x1, _a, _b, _c, _d, _e, _aa, _bb = [words(20) for _ in range(8)]
_product = words(62)
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
    scalar = clamped(secret)
    k.field_unpack(point, _x1)
    for i in range(20):
        _x2[i] = _z2[i] = _z3[i] = 0
        _x3[i] = _x1[i]
    _points[0] = _points[60] = 1
    multiply, square, add, subtract, swap = (
        k.field_multiply, k.field_square, k.field_add, k.field_subtract, k.conditional_swap,
    )  # fmt: skip
    product, points = _product, _points
    x1, x2, z2, x3, z3 = _x1, _x2, _z2, _x3, _z3
    a, b, c, d, e, aa, bb = _a, _b, _c, _d, _e, _aa, _bb
    position = 254
    while position >= 0:
        swap(points, 0, scalar, position)
        add(x2, 0, z2, a)
        subtract(x2, 0, z2, b)
        add(x3, 0, z3, c)
        subtract(x3, 0, z3, d)
        multiply(product, 0, d, a, d)
        multiply(product, 0, c, b, c)
        square(product, 0, a, aa)
        square(product, 0, b, bb)
        subtract(aa, 0, bb, e)
        multiply(product, 0, aa, bb, x2)
        k.field_multiply_add(e, 0, aa, a)
        multiply(product, 0, e, a, z2)
        add(d, 0, c, a)
        square(product, 0, a, x3)
        subtract(d, 0, c, b)
        square(product, 0, b, b)
        multiply(product, 0, x1, b, z3)
        if position % STEPS == 0:
            yield
        position -= 1
    # Bit 0 of a clamped scalar is 0, so nothing is left to be swapped.
    _invert(z2, z2)
    multiply(product, 0, x2, z2, x2)
    result = bytearray(32)
    k.field_pack(x2, result)
    return bytes(result) if k.differ(result, 0, _ZERO, 0, 32) else None


def _squares(o, element, count):
    k.field_square(_product, 0, element, o)
    for _ in range(count - 1):
        k.field_square(_product, 0, o, o)


def _invert(element, o):
    """element ^ (p - 2), by 254 squarings and 11 products; uses the ladder's scratch."""
    multiply, product = k.field_multiply, _product
    a, b, c, t = _a, _b, _c, _d
    _squares(a, element, 1)
    _squares(t, a, 2)
    multiply(product, 0, t, element, b)  # ^9
    multiply(product, 0, b, a, a)  # ^11
    _squares(t, a, 1)
    multiply(product, 0, t, b, b)  # ^(2^5 - 1)
    _squares(t, b, 5)
    multiply(product, 0, t, b, b)  # ^(2^10 - 1)
    _squares(t, b, 10)
    multiply(product, 0, t, b, c)  # ^(2^20 - 1)
    _squares(t, c, 20)
    multiply(product, 0, t, c, t)
    _squares(t, t, 10)
    multiply(product, 0, t, b, b)  # ^(2^50 - 1)
    _squares(t, b, 50)
    multiply(product, 0, t, b, c)  # ^(2^100 - 1)
    _squares(t, c, 100)
    multiply(product, 0, t, c, t)
    _squares(t, t, 50)
    multiply(product, 0, t, b, t)  # ^(2^250 - 1)
    _squares(t, t, 5)
    multiply(product, 0, t, a, o)  # ^(2^255 - 21)


def run(generator):
    """What a generator returns, without pauses."""
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value
