"""X25519 (RFC 7748) in slices. Loaded for a handshake."""

from . import kernels as k
from .crypto import words

STEPS = 24
"""Steps of the ladder between two yields: below 5 ms on an ESP32."""

_FIELD = 230
"""Words of the kernels' scratch, and of seven elements of the field: x1, x2, z2, x3, z3, and two more."""
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


def x25519(secret, point):
    """RFC 7748, resumable: a generator that yields after every few steps and returns 32 bytes.

    An all-zero result (a public point of low order) is returned as None.
    """
    field, scalar = words(_FIELD), bytearray(secret)
    scalar[0] &= 248  # RFC 7748 section 5
    scalar[31] = scalar[31] & 127 | 64
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
    return bytes(result) if k.differ(result, 0, bytes(32), 0, 32) else None


def run(generator):
    """What a generator returns, without pauses."""
    try:
        while True:
            next(generator)
    except StopIteration as stop:
        return stop.value
