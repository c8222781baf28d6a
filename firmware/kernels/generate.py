#!/usr/bin/env python3
"""Write the module `kernels` for a board: the hand-written kernels of small.py, then the unrolled ones made here.

Viper keeps two locals in registers, so each unrolled function has its state pointer and one accumulator first. It is
cheapest where one operand is that accumulator: `x[1] + t` spares the store and the load that `x[0] + x[1]` costs, and,
with the load on the left, the cycle that a load's result takes. Limbs of 13 bits let a column of 20 products stay below 2^32: Viper multiplies
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

    def begin(self, head: str) -> None:
        """Statements from here on belong to a `while` or `if`."""
        self(head)
        self._indent += 1

    def end(self) -> None:
        """Those of the `while` or `if` begun last end here."""
        self._indent -= 1

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
    """The cipher of RFC 8439 over `blocks` blocks at `offset`, under the nonce in the packet's header.

    `x`: 16 words of scratch, the input block of section 2.3 with the constants in it, and 16 words for the block whose
    counter is 0: the key of Poly1305 (section 2.6), made first if `counter` is 0. If it is negative, `x` has the whole
    input.
    """
    f = Function("chacha20_xor(x: ptr32, t: uint, key: ptr32, packet: ptr8, offset: int, blocks: int, counter: int)")
    f("m = ptr32(int(packet))", "n = 0")
    f.begin("if counter >= 0:")
    f("while n < 8:", "    x[20 + n] = key[n]", "    n += 1")
    f("x[28] = counter", "x[29] = 0", "x[30] = m[2]", "x[31] = m[3]")
    f.end()
    f("m = ptr32(int(packet) + offset)")
    f.begin("if counter == 0:")
    f("n = 0", "while n < 16:", "    x[32 + n] = 0", "    n += 1")
    f("m = ptr32(int(x) + 128)", "blocks += 1")
    f.end()
    f.begin("while blocks > 0:")
    f(*(f"x[{i}] = x[{16 + i}]" for i in range(16)))
    f("n = 10")
    f.begin("while n > 0:")
    for a, b, c, d in QUARTER_ROUNDS:
        f(f"t = uint(x[{b}])")  # and each sum is the next one's operand
        for target, turned, distance in ((a, d, 16), (c, b, 12), (a, d, 8), (c, b, 7)):
            f(f"t = uint(x[{target}]) + t", f"x[{target}] = t", f"t = uint(x[{turned}]) ^ t")
            f(*rotated(distance, wide), f"x[{turned}] = t")
    f("n -= 1")
    f.end()
    f(*(f"m[{i}] = m[{i}] ^ (x[{i}] + x[{16 + i}])" for i in range(16)))
    f("x[28] = x[28] + 1", "m = ptr32(int(m) + 64)", "blocks -= 1")
    f.begin("if counter == 0:")
    f("m = ptr32(int(packet) + offset)", "counter = 1")
    return f


H, R, R5, PRODUCTS, LENGTHS = 48, 58, 68, 78, 88
"""Words of Poly1305 behind those of ChaCha20: three times 10 limbs of 13 bits, 10 columns of products, a block."""


def poly1305() -> Function:
    """The tag of what lies at 16: `associated` bytes, a multiple of 16, and `length` encrypted ones (RFC 8439 section 2.8).

    It follows them: it is written there if `seal`, and compared otherwise: 0 if it is the same. The rest of the last 16
    bytes is overwritten with zeros before. `x`: as `chacha20_xor` leaves it, and 44 words more.
    """
    f = Function("poly1305(x: ptr32, t: uint, packet: ptr8, length: int, associated: int, seal: int) -> int")
    # r is clamped while it is cut into limbs of 13 bits (section 2.5)
    f("key = ptr16(int(x) + 128)", "received = ptr8(int(x))", "made = ptr8(int(x) + 16)", "tag = ptr16(int(x) + 16)")
    clamp = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    for i in range(10):
        half, bit = divmod(13 * i, 16)
        part = f"(key[{half}] >> {bit})" if bit else f"key[{half}]"
        if bit > 3 and half < 7:
            part = f"({part} | (key[{half + 1}] << {16 - bit}))"
        f(f"x[{R + i}] = {part} & {clamp >> 13 * i & MASK}")
    f("n = 0", "while n < 10:", f"    x[{H} + n] = 0", f"    x[{R5} + n] = 5 * x[{R} + n]", "    n += 1")
    f("end = 16 + associated + length", "n = 0")
    f("while n < 16:", "    received[n] = packet[end + n]", "    n += 1")
    f("n = end", "while n & 15:", "    packet[n] = 0", "    n += 1")
    f(f"x[{LENGTHS}] = associated", f"x[{LENGTHS + 1}] = 0", f"x[{LENGTHS + 2}] = length", f"x[{LENGTHS + 3}] = 0")
    f("blocks = n >> 4", "p = ptr32(int(packet) + 16)")
    f.begin("while blocks > 0:")
    f("if blocks == 1:", f"    p = ptr32(int(x) + {4 * LENGTHS})")
    _poly1305_block(f)
    f("p = ptr32(int(p) + 16)", "blocks -= 1")
    f.end()
    _poly1305_finish(f)
    f("n = 0", "d = 0")
    f.begin("while n < 16:")
    f("if seal:", "    packet[end + n] = made[n]", "else:", "    d |= made[n] ^ received[n]", "n += 1")
    f.end()
    f("return d")
    return f


def _poly1305_block(f: Function) -> None:
    """h = (h + block + 2^128) * r, the block at `p`."""
    for i in range(10):
        word, bit = divmod(13 * i, 32)
        if i == 0 or bit < 13:
            f(f"t = uint(p[{word}])")
            if bit:  # the limb lies in two words: its low part came from the word before
                f(f"x[{H + i - 1}] = int((t & {(1 << bit) - 1}) << {13 - bit}) + x[{H + i - 1}]")
        part = f"(t >> {bit})" if bit else "t"
        part = f"({part} & {MASK})" if bit + 13 < 32 else part
        f(f"x[{H + i}] = int({part}) + x[{H + i}]")
    f(f"x[{H + 9}] = x[{H + 9}] + 0x800")
    for j in range(10):
        f(f"t = uint(x[{H + j}])")
        for i in range(10):
            factor = f"x[{R + i - j if j <= i else R5 + 10 + i - j}]"
            f(f"x[{PRODUCTS + i}] = {factor} * int(t)" + (f" + x[{PRODUCTS + i}]" if j else ""))
        if j == 4:  # nearly all products of columns 0 and 1 are with 5r: ten of them would not fit in 32 bits
            for i in (PRODUCTS, PRODUCTS + 1):
                f(f"t = uint(x[{i}])", f"x[{i}] = t & {MASK}", f"x[{i + 1}] = (t >> 13) + uint(x[{i + 1}])")
    f("t = uint(0)")
    for i in range(10):
        f(f"t = uint(x[{PRODUCTS + i}]) + t", f"x[{H + i}] = t & {MASK}", "t = t >> 13")
    f(f"t = t * uint(5) + uint(x[{H}])", f"x[{H}] = t & {MASK}", f"x[{H + 1}] = (t >> 13) + uint(x[{H + 1}])")


def _poly1305_finish(f: Function) -> None:
    """`tag` = (h modulo the prime) + s. With 5 added, h reaches 2^130 exactly if it is not below it: a mask chooses."""
    f("t = uint(0)", "rounds = 0")
    f.begin("while rounds < 2:")
    f("n = 0")
    f.begin("while n < 10:")
    f(f"t = t + uint(x[{H} + n])", f"x[{H} + n] = t & uint({MASK})", "t = t >> 13", "n += 1")
    f.end()
    f("t = t * uint(5)", "rounds += 1")
    f.end()
    f(f"x[{H}] = uint(x[{H}]) + t", "t = uint(5)", "n = 0")
    f.begin("while n < 10:")
    f(f"t = t + uint(x[{H} + n])", f"x[{PRODUCTS} + n] = t & uint({MASK})", "t = t >> 13", "n += 1")
    f.end()
    f("mask = uint(0) - t", "n = 0")
    f.begin("while n < 10:")
    f(f"x[{H} + n] = (uint(x[{PRODUCTS} + n]) & mask) | (uint(x[{H} + n]) & ~mask)", "n += 1")
    f.end()
    f("t = uint(0)", "carry = uint(0)", "bits = 0", "limb = 0", "n = 0")
    f.begin("while n < 8:")
    f(f"t = t | (uint(x[{H} + limb]) << bits)", "bits += 13", "limb += 1")
    f.begin("if bits > 15:")
    f("carry = carry + (t & uint(0xFFFF)) + uint(key[8 + n])", "tag[n] = carry", "carry = carry >> 16")
    f("t = t >> 16", "bits -= 16", "n += 1")
    f.end()
    f.end()


def blake2s_compress(wide: bool) -> Function:
    """F of RFC 7693 section 3.2 on the `n` bytes at `at`, filled up with zeros.

    `x`: v and the message block; `table`: the 8 words of the vector, then the permutations of section 2.7, one entry,
    plus 16, per byte; `total` is t (a message here never reaches 2^30 bytes); `last` is 0 or -1.
    """
    f = Function(
        "blake2s_compress(x: ptr32, t: uint, state: ptr32, table: ptr32, data: ptr8, at: int, n: int, total: int, last: int)"
    )
    f("message = ptr8(int(x) + 64)", "order = ptr8(int(table) + 32)", "i = 0")
    f.begin("while i < 8:")
    f("x[i] = state[i]", "x[8 + i] = table[i]", "i += 1")
    f.end()
    f("x[12] = x[12] ^ total", "x[14] = x[14] ^ last", "i = 0")
    f("while i < n:", "    message[i] = data[at + i]", "    i += 1")
    f("while i < 64:", "    message[i] = 0", "    i += 1")
    f("n = 10")
    f.begin("while n > 0:")
    k = 0
    for a, b, c, d in QUARTER_ROUNDS:
        f(f"t = uint(x[{b}])")
        for first, second in ((16, 12), (8, 7)):
            f(f"t = uint(x[{a}]) + t", f"t = uint(x[order[{k}]]) + t", f"x[{a}] = t")
            k += 1
            f(f"t = uint(x[{d}]) ^ t", *rotated(32 - first, wide), f"x[{d}] = t")
            f(f"t = uint(x[{c}]) + t", f"x[{c}] = t")
            f(f"t = uint(x[{b}]) ^ t", *rotated(32 - second, wide), f"x[{b}] = t")
    f("order = ptr8(int(order) + 16)", "n -= 1")
    f.end()
    f("while n < 8:", "    state[n] = state[n] ^ x[n] ^ x[8 + n]", "    n += 1")
    return f


def _carry(f: Function, columns: Iterable[tuple[str, ...]]) -> None:
    """Limbs of 13 bits from columns below 2^32, given as summands, to `o`; limb 1 may exceed 13 bits a little."""
    f("y = uint(0)")
    for k, summands in enumerate(columns):
        f(*(f"y = {summand}" for summand in summands), f"o[{k}] = y & {MASK}", "y = y >> 13")
    f(f"y = y * uint({FOLD}) + uint(o[0])", f"o[0] = y & {MASK}", "o[1] = (y >> 13) + uint(o[1])")


FIRST, MIDDLE = 30, 70
"""Columns of products: 39 of them from one place on, and those that belong to columns 10 to 28 as well."""


def _reduce(f: Function, middle: bool) -> None:
    """The columns to the 20 limbs of `o`. `middle`: those of Karatsuba's third product are to be added.

    The upper half becomes limbs first, in words 0 to 19; then it is folded to the lower, whose columns have room for it.
    """

    def add(k: int) -> None:
        if not middle or k != LIMBS - 1:
            f(f"y = uint(x[{FIRST + k}]) + y")
        if middle and 10 <= k <= 28:
            f(f"y = uint(x[{MIDDLE + k - 10}]) + y")
            f(f"y = y - uint(x[{FIRST + k - 10}])", f"y = y - uint(x[{FIRST + k + 10}])")

    f("y = uint(0)")
    for k in range(LIMBS, 2 * LIMBS - 1):
        add(k)
        f(f"x[{k - LIMBS}] = y & {MASK}", "y = y >> 13")
    f(f"x[{LIMBS - 1}] = y & {MASK}", f"y = (y >> 13) * uint({FOLD * FOLD})")
    for k in range(LIMBS):
        f(f"y = uint(x[{k}] * {FOLD}) + y")
        add(k)
        f(f"o[{k}] = y & {MASK}", "y = y >> 13")
    f(f"y = y * uint({FOLD}) + uint(o[0])", f"o[0] = y & {MASK}", "y = (y >> 13) + uint(o[1])")
    f(f"o[1] = y & {MASK}", "o[2] = (y >> 13) + uint(o[2])")


def _multiply(f: Function) -> None:
    """o = a * b, by Karatsuba's three products of halves: 300 products of limbs instead of 400."""
    f(*(f"x[{i}] = b[{i}]" for i in range(LIMBS)))
    f(*(f"x[{LIMBS + i}] = x[{i}] + x[{10 + i}]" for i in range(10)))
    for factor, other, columns in ((0, 0, FIRST), (10, 10, FIRST + LIMBS), (None, LIMBS, MIDDLE)):
        for i in range(10):
            f(f"y = uint(a[{i}]) + uint(a[{10 + i}])" if factor is None else f"y = uint(a[{factor + i}])")
            for j in range(10):
                more = f" + x[{columns + i + j}]" if i and j < 9 else ""
                f(f"x[{columns + i + j}] = x[{other + j}] * int(y){more}")
    _reduce(f, middle=True)


def _square(f: Function) -> None:
    """o = a * a."""
    f(*(f"x[{i}] = a[{i}]" for i in range(LIMBS)))
    begun = set()
    for i in range(LIMBS):
        f(f"y = uint(x[{i}])")
        for j in range(i, LIMBS):
            if j == i + 1:
                f("y = y << 1")
            k = FIRST + i + j
            f(f"x[{k}] = x[{j}] * int(y)" + (f" + x[{k}]" if k in begun else ""))
            begun.add(k)
    _reduce(f, middle=False)


def _bias() -> list[int]:
    """64 times the prime, each limb large enough that a difference of limbs plus it is positive."""
    value = PRIME * 64
    limbs = [value >> 13 * i & MASK for i in range(LIMBS - 1)] + [value >> 13 * (LIMBS - 1)]
    bias = [limbs[0] + 2 * 8192] + [limb + 2 * 8192 - 2 for limb in limbs[1:-1]] + [limbs[-1] - 2]
    assert sum(limb << 13 * i for i, limb in enumerate(bias)) == value
    assert min(bias) > 8192 + 16
    return bias


ELEMENTS = 90
"""Words of scratch before the field elements, of 20 words each."""
MULTIPLY, SQUARE, ADD, SUBTRACT, MULTIPLY_ADD, SWAP = range(1, 7)


def field_run() -> Function:
    """Run a program of operations on field elements `steps` times, for the scalar's bits from `position` downwards.

    `x`: 90 words of scratch, then the elements. An operation is four bytes: what it is, the numbers of a, b and o; 0
    ends the program. 1: o = a * b. 2: o = a squared b times (b is no element). 3: o = a + b. 4: o = a - b.
    5: o = b + 121665 * a (RFC 7748's a24). 6: elements (1, 2) and (3, 4) are swapped if bits `position` and
    `position + 1` of the scalar differ; bit 255 is 0.
    """
    f = Function("field_run(x: ptr32, y: uint, program: ptr8, scalar: ptr8, position: int, steps: int)")
    f.begin("while steps > 0:")
    f("at = ptr8(int(program))", "kind = int(at[0])")
    f.begin("while kind > 0:")
    f(f"a = ptr32(int(x) + {4 * ELEMENTS} + int(at[1]) * 80)")
    f(f"b = ptr32(int(x) + {4 * ELEMENTS} + int(at[2]) * 80)")
    f(f"o = ptr32(int(x) + {4 * ELEMENTS} + int(at[3]) * 80)")
    f.begin(f"if kind == {MULTIPLY}:")
    _multiply(f)
    f.end()
    f.begin(f"if kind == {SQUARE}:")
    f("n = int(at[2])")
    f.begin("while n > 0:")
    _square(f)
    f("a = o", "n -= 1")
    f.end()
    f.end()
    f.begin(f"if kind == {ADD}:")
    _carry(f, ((f"uint(a[{k}]) + y", f"uint(b[{k}]) + y") for k in range(LIMBS)))
    f.end()
    f.begin(f"if kind == {SUBTRACT}:")
    bias = _bias()
    _carry(f, ((f"uint(a[{k}]) + y", f"y + uint({bias[k]})", f"y - uint(b[{k}])") for k in range(LIMBS)))
    f.end()
    f.begin(f"if kind == {MULTIPLY_ADD}:")
    _carry(f, ((f"uint(a[{k}] * 121665) + y", f"uint(b[{k}]) + y") for k in range(LIMBS)))
    f("y = uint(o[1])", f"o[1] = y & {MASK}", "o[2] = uint(o[2]) + (y >> 13)")
    f.end()
    f.begin(f"if kind == {SWAP}:")
    f("bit = scalar[position >> 3] >> (position & 7)", "above = 0")
    f("if position < 254:", "    above = scalar[(position + 1) >> 3] >> ((position + 1) & 7)")
    f("mask = uint(0) - uint((bit ^ above) & 1)")
    for i in range(ELEMENTS + LIMBS, ELEMENTS + 3 * LIMBS):
        one, other = f"x[{i}]", f"x[{i + 2 * LIMBS}]"
        f(f"y = uint({one})", f"y = (uint({other}) ^ y) & mask")
        f(f"{one} = uint({one}) ^ y", f"{other} = uint({other}) ^ y")
    f.end()
    f("at = ptr8(int(at) + 4)", "kind = int(at[0])")
    f.end()
    f("position -= 1", "steps -= 1")
    return f


def module(*, wide: bool = False) -> str:
    """The module's source. `wide`: for processors with words of 64 bits."""
    small = Path(__file__).with_name("small.py").read_text()
    made = [chacha20_xor(wide), poly1305(), blake2s_compress(wide), field_run()]
    return small + "\n\n" + "".join(function.text() for function in made).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(module(wide="--wide" in sys.argv), end="")
