#!/usr/bin/env python3
"""Write the module `kernels_native`: the hand-written kernels of small.py, then the unrolled ones made here.

Viper keeps two locals in registers, so each unrolled function has its state pointer and one accumulator first. Limbs of
13 bits let a column of 20 products stay below 2^32: Viper multiplies words and has no high half of a product.

    python generate.py > kernels_native.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LIMBS = 20
MASK = 0x1FFF
PRIME = 2**255 - 19
FOLD = 608
"""2^260, the weight of limb 20, modulo the prime."""


class Function:
    """The text of one Viper function."""

    def __init__(self, signature: str) -> None:
        self.lines = ["@micropython.viper", f"def {signature}:"]
        self._indent = 1

    def __call__(self, *statements: str) -> None:
        self.lines += ["    " * self._indent + statement for statement in statements]

    def loop(self, condition: str) -> None:
        """Statements from here on repeat while `condition` holds."""
        self(f"while {condition}:")
        self._indent += 1

    def text(self) -> str:
        return "\n".join(self.lines) + "\n\n\n"


QUARTER_ROUNDS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
"""Columns, then diagonals (RFC 8439 section 2.3; RFC 7693 section 3.2 mixes in the same order)."""


def chacha20_xor() -> Function:
    """`x`: 16 words of scratch, then the input block of RFC 8439 section 2.3, whose counter it moves on."""
    f = Function("chacha20_xor(x: ptr32, t: uint, data: ptr8, offset: int, blocks: int)")
    f("m = ptr32(int(data) + offset)")
    f.loop("blocks > 0")
    f(*(f"x[{i}] = x[{16 + i}]" for i in range(16)))
    f("n = 10")
    f("while n > 0:")
    for a, b, c, d in QUARTER_ROUNDS:
        for target, other, turned, distance in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            f(
                f"    x[{target}] = x[{target}] + x[{other}]",
                f"    t = uint(x[{turned}] ^ x[{target}])",
                f"    x[{turned}] = t << {distance}",
                f"    x[{turned}] = (t >> {32 - distance}) + uint(x[{turned}])",
            )
    f("    n -= 1")
    f(*(f"m[{i}] = m[{i}] ^ (x[{i}] + x[{16 + i}])" for i in range(16)))
    f("x[28] = x[28] + 1", "m = ptr32(int(m) + 64)", "blocks -= 1")
    return f


def poly1305_blocks() -> Function:
    """`s`: h, r and 5r in limbs of 13 bits, 10 of each, and 10 of scratch; `high` is 2^128 in limb 9, 0x800."""
    f = Function("poly1305_blocks(s: ptr32, d: uint, data: ptr8, offset: int, blocks: int, high: int)")
    f("p = ptr16(int(data) + offset)", f"M = uint({MASK})")
    f.loop("blocks > 0")
    limbs = (
        "p[0]", "(uint(p[0]) >> 13) | uint(p[1] << 3)", "(uint(p[1]) >> 10) | uint(p[2] << 6)",
        "(uint(p[2]) >> 7) | uint(p[3] << 9)", "(uint(p[3]) >> 4) | uint(p[4] << 12)", "uint(p[4]) >> 1",
        "(uint(p[4]) >> 14) | uint(p[5] << 2)", "(uint(p[5]) >> 11) | uint(p[6] << 5)",
        "(uint(p[6]) >> 8) | uint(p[7] << 8)",
    )  # fmt: skip
    f(*(f"s[{i}] = s[{i}] + int(({limb}) & M)" for i, limb in enumerate(limbs)))
    f("s[9] = s[9] + int(uint(p[7]) >> 5) + high", "d = uint(0)")
    for i in range(10):
        for j in range(10):
            f(f"d = uint(s[{j}] * s[{10 + i - j if j <= i else 30 + i - j}]) + d")
            if j == 4:  # ten products and a carry would not fit in 32 bits
                f("c = d >> 13", "d = d & M")
        f(f"s[{30 + i}] = d & M", "d = c + (d >> 13)")
    f("d = uint(s[30]) + d * uint(5)", "s[0] = d & M", "s[1] = uint(s[31]) + (d >> 13)")
    f(*(f"s[{i}] = s[{30 + i}]" for i in range(2, 10)))
    f("p = ptr16(int(p) + 16)", "blocks -= 1")
    return f


def blake2s_rounds() -> Function:
    """`x`: v and the message block; `order`: the permutations of RFC 7693 section 2.7, each entry plus 16."""
    f = Function("blake2s_rounds(x: ptr32, t: uint, order: ptr8)")
    f("n = 10")
    f.loop("n > 0")
    k = 0
    for a, b, c, d in QUARTER_ROUNDS:
        for first, second in ((16, 12), (8, 7)):
            f(f"x[{a}] = x[{a}] + x[{b}] + x[order[{k}]]")
            k += 1
            for target, turned, other, distance in ((c, d, a, first), (None, b, c, second)):
                f(f"t = uint(x[{turned}] ^ x[{other}])")
                f(f"x[{turned}] = (t << {32 - distance}) | (t >> {distance})")
                if target is not None:
                    f(f"x[{target}] = x[{target}] + x[{turned}]")
    f("order = ptr8(int(order) + 16)", "n -= 1")
    return f


def _carry(f: Function, columns: Iterable[str]) -> None:
    """Limbs of 13 bits from columns below 2^32, to `o`; limb 1 may exceed 13 bits a little."""
    f("t = uint(0)", f"M = {MASK}")
    for k, column in enumerate(columns):
        f(f"t = uint({column}) + t", f"o[{k}] = t & M", "t = t >> 13")
    f(f"t = uint(o[0]) + t * uint({FOLD})", "o[0] = t & M", "o[1] = uint(o[1]) + (t >> 13)")


def _reduce(f: Function, first: int) -> None:
    """39 columns from `x[first]` on to the 20 limbs of `o`."""
    f(f"M = {MASK}", "y = uint(0)")
    for k in range(39):
        f(f"y = uint(x[{first + k}]) + y", f"x[{first + k}] = y & M", "y = y >> 13")
    f(f"x[{first + 39}] = y & M", f"x[{first + 40}] = y >> 13")
    f(f"y = uint(x[{first + 40}] * {FOLD * FOLD})", f"c = {FOLD}")
    for k in range(LIMBS):
        f(f"y = uint(x[{first + LIMBS + k}] * c) + uint(x[{first + k}]) + y", f"o[{k}] = y & M", "y = y >> 13")
    f(f"y = uint(o[0]) + y * uint({FOLD})", "o[0] = y & M", "o[1] = uint(o[1]) + (y >> 13)")


def field_multiply() -> Function:
    """`x`: 61 words of scratch; o = a * b."""
    f = Function("field_multiply(x: ptr32, y: uint, a: ptr32, b: ptr32, o: ptr32)")
    f(*(f"x[{i}] = b[{i}]" for i in range(LIMBS)))
    for i in range(LIMBS):
        f(f"y = uint(a[{i}])")
        for j in range(LIMBS):
            more = f" + x[{LIMBS + i + j}]" if i and j < LIMBS - 1 else ""
            f(f"x[{LIMBS + i + j}] = int(y) * x[{j}]{more}")
    _reduce(f, LIMBS)
    return f


def field_square() -> Function:
    """`x`: 61 words of scratch; o = a * a."""
    f = Function("field_square(x: ptr32, y: uint, a: ptr32, o: ptr32)")
    f(*(f"x[{i}] = a[{i}]" for i in range(LIMBS)))
    begun = set()
    for i in range(LIMBS):
        f(f"y = uint(x[{i}])")
        for j in range(i, LIMBS):
            if j == i + 1:
                f("y = y << 1")
            k = LIMBS + i + j
            f(f"x[{k}] = int(y) * x[{j}]" + (f" + x[{k}]" if k in begun else ""))
            begun.add(k)
    _reduce(f, LIMBS)
    return f


def _bias() -> list[int]:
    """64 times the prime, each limb large enough that a difference of limbs plus it is positive."""
    value = PRIME * 64
    limbs = [value >> 13 * i & MASK for i in range(LIMBS - 1)] + [value >> 13 * (LIMBS - 1)]
    bias = [limbs[0] + 2 * 8192] + [limb + 2 * 8192 - 2 for limb in limbs[1:-1]] + [limbs[-1] - 2]
    assert sum(limb << 13 * i for i, limb in enumerate(bias)) == value
    assert min(bias) > 8192 + 16
    return bias


def field_add() -> Function:
    """o = a + b."""
    f = Function("field_add(a: ptr32, t: uint, b: ptr32, o: ptr32)")
    _carry(f, (f"a[{k}] + b[{k}]" for k in range(LIMBS)))
    return f


def field_subtract() -> Function:
    """o = a - b."""
    f = Function("field_subtract(a: ptr32, t: uint, b: ptr32, o: ptr32)")
    _carry(f, (f"a[{k}] - b[{k}] + {bias}" for k, bias in enumerate(_bias())))
    return f


def field_multiply_add() -> Function:
    """o = b + 121665 * a (RFC 7748's a24)."""
    f = Function("field_multiply_add(a: ptr32, t: uint, b: ptr32, o: ptr32)")
    f("S = 121665")
    _carry(f, (f"a[{k}] * S + b[{k}]" for k in range(LIMBS)))
    f("t = uint(o[1])", f"o[1] = t & {MASK}", "o[2] = uint(o[2]) + (t >> 13)")
    return f


GENERATED = (
    chacha20_xor, poly1305_blocks, blake2s_rounds, field_multiply, field_square, field_add, field_subtract,
    field_multiply_add,
)  # fmt: skip


def module() -> str:
    """The module's source."""
    small = Path(__file__).with_name("small.py").read_text()
    return small + "\n\n" + "".join(make().text() for make in GENERATED).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(module(), end="")
