#!/usr/bin/env python3
"""Write the module `kernels` for a board: the hand-written kernels of small.py, then the unrolled ones made here.

Viper keeps two locals in registers, so each unrolled function has its state pointer and one accumulator first. It is
cheapest where the left operand is that accumulator and the right one a load or a constant: `t + x[1]` spares the store
and the load that `x[0] + x[1]` costs. Limbs of 13 bits let a column of 20 products stay below 2^32: Viper multiplies
words and has no high half of a product.

    python generate.py [--wide] > kernels.py
"""

from __future__ import annotations

import sys
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


def rotated(distance: int, wide: bool) -> list[str]:
    """t, turned left. Words of 64 bits have collected carries above bit 31, which must not come back from there."""
    turn = f"t = (t << {distance}) + (t >> {32 - distance})"
    return ["t = t & uint(0xFFFFFFFF)", turn] if wide else [turn]


def chacha20_xor(wide: bool) -> Function:
    """`x`: 16 words of scratch, then the input block of RFC 8439 section 2.3, whose counter it moves on."""
    f = Function("chacha20_xor(x: ptr32, t: uint, data: ptr8, offset: int, blocks: int)")
    f("m = ptr32(int(data) + offset)")
    f.loop("blocks > 0")
    f(*(f"x[{i}] = x[{16 + i}]" for i in range(16)))
    f("n = 10")
    f("while n > 0:")
    for a, b, c, d in QUARTER_ROUNDS:
        f(f"    t = uint(x[{b}])")  # and each sum is the next one's operand
        for target, turned, distance in ((a, d, 16), (c, b, 12), (a, d, 8), (c, b, 7)):
            f(
                f"    t = t + uint(x[{target}])",
                f"    x[{target}] = t",
                f"    t = t ^ uint(x[{turned}])",
            )
            f(*("    " + line for line in rotated(distance, wide)), f"    x[{turned}] = t")
    f("    n -= 1")
    f(*(f"m[{i}] = m[{i}] ^ (x[{i}] + x[{16 + i}])" for i in range(16)))
    f("x[28] = x[28] + 1", "m = ptr32(int(m) + 64)", "blocks -= 1")
    return f


def poly1305_blocks() -> Function:
    """`s`: h, r and 5r in limbs of 13 bits, 10 of each, and 10 of scratch; `high` is 2^128 in limb 9, 0x800."""
    f = Function("poly1305_blocks(s: ptr32, d: uint, data: ptr8, offset: int, blocks: int, high: int)")
    f("p = ptr32(int(data) + offset)")
    f.loop("blocks > 0")
    for i in range(10):
        word, bit = divmod(13 * i, 32)
        if i == 0 or bit < 13:
            if bit:  # the limb lies in two words: its low part came from the word before
                f(f"d = uint(p[{word}])", f"s[{i - 1}] = int((d & {(1 << bit) - 1}) << {13 - bit}) + s[{i - 1}]")
            else:
                f(f"d = uint(p[{word}])")
        end = bit + 13
        part = "d" if not bit else f"(d >> {bit})"
        if end < 32:
            part = f"({part} & {MASK})"
        f(f"s[{i}] = int{part} + s[{i}]" if part.startswith("(") else f"s[{i}] = int({part}) + s[{i}]")
    f("s[9] = s[9] + high")
    for j in range(10):
        f(f"d = uint(s[{j}])")
        for i in range(10):
            factor = f"s[{10 + i - j if j <= i else 30 + i - j}]"
            f(f"s[{30 + i}] = int(d) * {factor}" + (f" + s[{30 + i}]" if j else ""))
        if j == 4:  # nearly all products of columns 0 and 1 are with 5r: ten of them would not fit in 32 bits
            for i in (0, 1):
                f(f"d = uint(s[{30 + i}])", f"s[{30 + i}] = d & {MASK}", f"s[{31 + i}] = (d >> 13) + uint(s[{31 + i}])")
    f("d = uint(0)")
    for i in range(10):
        f(f"d = d + uint(s[{30 + i}])", f"s[{i}] = d & {MASK}", "d = d >> 13")
    f("d = d * uint(5) + uint(s[0])", f"s[0] = d & {MASK}", "s[1] = (d >> 13) + uint(s[1])")
    f("p = ptr32(int(p) + 16)", "blocks -= 1")
    return f


def blake2s_rounds(wide: bool) -> Function:
    """`x`: v and the message block; `order`: the permutations of RFC 7693 section 2.7, each entry plus 16."""
    f = Function("blake2s_rounds(x: ptr32, t: uint, order: ptr8)")
    f("n = 10")
    f.loop("n > 0")
    k = 0
    for a, b, c, d in QUARTER_ROUNDS:
        f(f"t = uint(x[{b}])")
        for first, second in ((16, 12), (8, 7)):
            f(f"t = t + uint(x[{a}])", f"t = t + uint(x[order[{k}]])", f"x[{a}] = t")
            k += 1
            f(f"t = t ^ uint(x[{d}])", *rotated(32 - first, wide), f"x[{d}] = t")
            f(f"t = t + uint(x[{c}])", f"x[{c}] = t")
            f(f"t = t ^ uint(x[{b}])", *rotated(32 - second, wide), f"x[{b}] = t")
    f("order = ptr8(int(order) + 16)", "n -= 1")
    return f


def _carry(f: Function, columns: Iterable[tuple[str, ...]]) -> None:
    """Limbs of 13 bits from columns below 2^32, given as summands, to `o`; limb 1 may exceed 13 bits a little."""
    f("t = uint(0)")
    for k, summands in enumerate(columns):
        f(*(f"t = t {summand}" for summand in summands), f"o[{k}] = t & {MASK}", "t = t >> 13")
    f(f"t = t * uint({FOLD}) + uint(o[0])", f"o[0] = t & {MASK}", "o[1] = (t >> 13) + uint(o[1])")


def _reduce(f: Function, first: int) -> None:
    """39 columns from `x[first]` on to the 20 limbs of `o`."""
    f("y = uint(0)")
    for k in range(39):
        f(f"y = y + uint(x[{first + k}])", f"x[{first + k}] = y & {MASK}", "y = y >> 13")
    f(f"x[{first + 39}] = y & {MASK}", "y = (y >> 13) * uint({})".format(FOLD * FOLD))
    for k in range(LIMBS):
        f(f"y = uint(x[{first + LIMBS + k}] * {FOLD}) + y", f"y = y + uint(x[{first + k}])")
        f(f"o[{k}] = y & {MASK}", "y = y >> 13")
    f(f"y = y * uint({FOLD}) + uint(o[0])", f"o[0] = y & {MASK}", "o[1] = (y >> 13) + uint(o[1])")


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
    _carry(f, ((f"+ uint(a[{k}])", f"+ uint(b[{k}])") for k in range(LIMBS)))
    return f


def field_subtract() -> Function:
    """o = a - b."""
    f = Function("field_subtract(a: ptr32, t: uint, b: ptr32, o: ptr32)")
    _carry(f, ((f"+ uint(a[{k}])", f"+ uint({bias})", f"- uint(b[{k}])") for k, bias in enumerate(_bias())))
    return f


def field_multiply_add() -> Function:
    """o = b + 121665 * a (RFC 7748's a24)."""
    f = Function("field_multiply_add(a: ptr32, t: uint, b: ptr32, o: ptr32)")
    _carry(f, ((f"+ uint(a[{k}] * 121665)", f"+ uint(b[{k}])") for k in range(LIMBS)))
    f("t = uint(o[1])", f"o[1] = t & {MASK}", "o[2] = uint(o[2]) + (t >> 13)")
    return f


def conditional_swap() -> Function:
    """`p`: (x2, z2), then (x3, z3), swapped if bits `position` and `position + 1` of the scalar differ; bit 255 is 0."""
    f = Function("conditional_swap(p: ptr32, t: uint, scalar: ptr8, position: int)")
    f("bit = scalar[position >> 3] >> (position & 7)", "above = 0")
    f("if position < 254:", "    above = scalar[(position + 1) >> 3] >> ((position + 1) & 7)")
    f("mask = uint(0) - uint((bit ^ above) & 1)")
    for i in range(2 * LIMBS):
        one, other = f"p[{i}]", f"p[{2 * LIMBS + i}]"
        f(
            f"t = uint({one})",
            f"t = (t ^ uint({other})) & mask",
            f"{one} = t ^ uint({one})",
            f"{other} = t ^ uint({other})",
        )
    return f


GENERATED = (
    poly1305_blocks, field_multiply, field_square, field_add, field_subtract,
    field_multiply_add, conditional_swap,
)  # fmt: skip


def module(*, wide: bool = False) -> str:
    """The module's source. `wide`: for processors with words of 64 bits."""
    small = Path(__file__).with_name("small.py").read_text()
    made = [chacha20_xor(wide), blake2s_rounds(wide), *(make() for make in GENERATED)]
    return small + "\n\n" + "".join(function.text() for function in made).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(module(wide="--wide" in sys.argv), end="")
