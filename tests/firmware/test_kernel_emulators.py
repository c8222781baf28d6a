"""The kernels as compiled for boards: right on words of 32 bits, and with one trace whatever the secrets are."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from functools import cache

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305
from nacl.bindings import crypto_scalarmult

from tests.support.kernel_emulators import HEAP, Processor, processor
from tests.support.micropython import firmware_module

PRIME = 2**255 - 19
ARCHITECTURES = ["xtensawin", "rv32imc"]
CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
A, B, OUT, SCRATCH = HEAP + 0x100, HEAP + 0x200, HEAP + 0x300, HEAP + 0x400
DATA = HEAP + 0x1000


@cache
def _machine(architecture: str) -> Processor:
    return processor(architecture)


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> Processor:
    found = _machine(request.param)
    found.trace = None
    return found


def _put(machine: Processor, address: int, words: list[int] | tuple[int, ...]) -> None:
    machine.write(address, struct.pack(f"<{len(words)}I", *words))


def _get(machine: Processor, address: int, count: int) -> tuple[int, ...]:
    return struct.unpack(f"<{count}I", machine.read(address, 4 * count))


def _limbs(value: int, count: int = 20) -> list[int]:
    limbs = [value >> 13 * i & 0x1FFF for i in range(count - 1)]
    return [*limbs, value >> 13 * (count - 1)]


def _value(limbs: tuple[int, ...]) -> int:
    return sum(limb << 13 * i for i, limb in enumerate(limbs))


def _chacha20(machine: Processor, key: bytes, nonce: bytes, counter: int, data: bytes) -> bytes:
    _put(machine, A + 64, (*CONSTANTS, *struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)))
    machine.write(DATA, data)
    machine.call("chacha20_xor", A, 0, DATA, 0, len(data) // 64)
    return machine.read(DATA, len(data))


def _poly1305(machine: Processor, key: bytes, data: bytes) -> bytes:
    machine.write(B, key)
    machine.call("poly1305_start", A, B)
    machine.write(DATA, data)
    machine.call("poly1305_blocks", A, 0, DATA, 0, len(data) // 16, 0x800)
    machine.call("poly1305_finish", A, B, OUT)
    return machine.read(OUT, 16)


def _x25519(machine: Processor, scalar: bytes, point: bytes) -> bytes:
    """RFC 7748 section 5 with the kernels, in the order of the device's ladder; the inverse is Python's."""
    clamped = bytearray(scalar)
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    points, k = HEAP + 0x100, HEAP + 0x280
    x2, z2, x3, z3 = (points + 80 * i for i in range(4))
    x1, a, b, c, d, e, aa, bb = (HEAP + 0x300 + 80 * i for i in range(8))
    w = HEAP + 0x800
    machine.write(k, bytes(clamped))
    machine.write(DATA, point)
    machine.call("field_unpack", DATA, x1)
    for place, value in ((x2, 1), (z2, 0), (z3, 1)):
        _put(machine, place, _limbs(value))
    machine.write(x3, machine.read(x1, 80))
    call = machine.call
    for position in range(254, -1, -1):
        call("conditional_swap", points, 0, k, position)
        call("field_add", x2, 0, z2, a)
        call("field_subtract", x2, 0, z2, b)
        call("field_add", x3, 0, z3, c)
        call("field_subtract", x3, 0, z3, d)
        call("field_multiply", w, 0, d, a, d)
        call("field_multiply", w, 0, c, b, c)
        call("field_square", w, 0, a, aa)
        call("field_square", w, 0, b, bb)
        call("field_subtract", aa, 0, bb, e)
        call("field_multiply", w, 0, aa, bb, x2)
        call("field_multiply_add", e, 0, aa, a)
        call("field_multiply", w, 0, e, a, z2)
        call("field_add", d, 0, c, a)
        call("field_square", w, 0, a, x3)
        call("field_subtract", d, 0, c, b)
        call("field_square", w, 0, b, b)
        call("field_multiply", w, 0, x1, b, z3)
    inverse = pow(_value(_get(machine, z2, 20)), PRIME - 2, PRIME)
    _put(machine, b, _limbs(inverse))
    call("field_multiply", w, 0, x2, b, x2)
    call("field_pack", x2, DATA)
    return machine.read(DATA, 32)


def test_chacha20(machine: Processor) -> None:
    """RFC 8439 section 2.3.2, and random cases against OpenSSL."""
    nonce = bytes.fromhex("000000090000004a00000000")
    expected = bytes.fromhex(
        "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e"
        "d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e"
    )
    assert _chacha20(machine, bytes(range(32)), nonce, 1, bytes(64)) == expected
    source = random.Random(1)
    for blocks in (1, 3, 22):
        key, nonce, data = source.randbytes(32), source.randbytes(12), source.randbytes(64 * blocks)
        cipher = Cipher(algorithms.ChaCha20(key, struct.pack("<I", 7) + nonce), None).encryptor()
        assert _chacha20(machine, key, nonce, 7, data) == cipher.update(data)


def test_poly1305(machine: Processor) -> None:
    """RFC 8439 appendix A.3's edges, the greatest limbs that can be, and random cases against OpenSSL."""
    source = random.Random(2)
    cases = [
        (bytes((2,)) + bytes(31), b"\xff" * 16),
        (bytes((2,)) + bytes(15) + b"\xff" * 16, bytes((2,)) + bytes(15)),
        (bytes((1,)) + bytes(31), b"\xff" * 16 + b"\xfb" + b"\xfe" * 15 + b"\x01" * 16),
        (bytes((2,)) + bytes(31), b"\xfd" + b"\xff" * 15),
        (b"\xff" * 32, b"\xff" * 1456),
        (b"\xff" * 32, bytes(160)),
        *((source.randbytes(32), source.randbytes(16 * count)) for count in (1, 2, 7, 40, 89)),
    ]
    for key, data in cases:
        assert _poly1305(machine, key, data) == Poly1305.generate_tag(key, data)


def test_blake2s(machine: Processor) -> None:
    """RFC 7693 appendix B, and one-block messages against hashlib."""
    order = firmware_order()
    vector = (
        0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
    )  # fmt: skip
    work, state, block, start, permutations = (HEAP + offset for offset in (0, 0x100, 0x200, 0x300, 0x400))
    _put(machine, start, vector)
    machine.write(permutations, order)
    source = random.Random(3)
    for message in (b"abc", b"", source.randbytes(64), b"\xff" * 64):
        _put(machine, state, (vector[0] ^ 0x01010020, *vector[1:]))
        machine.write(block, message.ljust(64, b"\0"))
        machine.call("blake2s_start", work, state, block, start, len(message), -1)
        machine.call("blake2s_rounds", work, 0, permutations)
        machine.call("blake2s_finish", work, state)
        assert machine.read(state, 32) == hashlib.blake2s(message).digest()


def firmware_order() -> bytes:
    from lopower_device import crypto

    order: bytes = crypto._ORDER
    return order


def test_field(machine: Processor) -> None:
    """Each operation on edge values, with limbs as large as any operation leaves them, and on random ones."""
    source = random.Random(4)
    edges = [0, 1, 2, 18, 19, PRIME - 1, PRIME, PRIME + 1, 2 * PRIME - 1, 2**255 - 1, 2**256 - 1, 2**260 - 1]
    pairs = [(a, b) for a in edges for b in edges[::3]] + [
        (source.getrandbits(260), source.getrandbits(260)) for _ in range(12)
    ]
    for number, (a, b) in enumerate(pairs):
        extra = 64 << 13 if number % 2 else 0  # limb 1 may exceed 13 bits a little
        limbs_a, limbs_b = _limbs(a), _limbs(b)
        limbs_a[1] += extra >> 13
        limbs_b[1] += extra >> 13
        a, b = a + extra, b + extra
        for name, arguments, expected in (
            ("field_multiply", (SCRATCH, 0, A, B, OUT), a * b),
            ("field_square", (SCRATCH, 0, A, OUT), a * a),
            ("field_add", (A, 0, B, OUT), a + b),
            ("field_subtract", (A, 0, B, OUT), a - b),
            ("field_multiply_add", (A, 0, B, OUT), 121665 * a + b),
        ):
            _put(machine, A, limbs_a)
            _put(machine, B, limbs_b)
            machine.call(name, *arguments)
            result = _get(machine, OUT, 20)
            assert _value(result) % PRIME == expected % PRIME, (name, a, b)
            assert max(result) < 0x2000 + 200
            machine.call("field_pack", OUT, DATA)
            assert int.from_bytes(machine.read(DATA, 32), "little") == expected % PRIME, (name, a, b)


def test_x25519(machine: Processor) -> None:
    """RFC 7748 section 5.2, and random cases against libsodium."""
    source = random.Random(5)
    cases = [
        (
            bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"),
            bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"),
        ),
        (source.randbytes(32), source.randbytes(32)),
    ]
    for scalar, point in cases:
        assert _x25519(machine, scalar, point) == crypto_scalarmult(scalar, point)


def test_words(machine: Processor) -> None:
    """Sequence arithmetic, the replay window and copies are as right with 32 bits as with 64."""
    for base, value, difference in (
        (0, 0, 0), (5, 3, -2), (0xFFFFFFFF, 1, 2), (1, 0xFFFFFFFF, -2), (0, 0x7FFFFFFF, 0xFFFFFFF),
        (0, 0x80000000, -0x10000000), (0x12345678, 0x12345678 - 70000, -70000),
    ):  # fmt: skip
        _put(machine, A, (0, base))
        machine.write(B, struct.pack(">I", value))
        assert _small(machine.call("sequence_difference", B, 0, A, 1)) == difference
    for base in (0, 2**32 - 5000, 2**40 - 3):
        _put(machine, A, (0,) * 68)

        def accept(counter: int) -> int:
            machine.write(DATA, bytes(8) + counter.to_bytes(8, "little"))
            return _small(machine.call("replay_accept", A, DATA))

        assert accept(base)
        assert not accept(base)
        for ahead in (1, 32, 33, 1984, 1985, 20000):
            assert accept(base + ahead)
            assert not accept(base + ahead)
        assert accept(base + 20000 - 1984)
        assert not accept(base + 20000 - 1985)


def _small(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


Secrets = Callable[[Processor, random.Random], None]


def _run_aead(machine: Processor, source: random.Random) -> None:
    key = source.choice((bytes(32), b"\xff" * 32, source.randbytes(32)))
    _chacha20(machine, key, source.randbytes(12), 0, source.randbytes(128))
    _poly1305(machine, source.choice((key, source.randbytes(32))), source.randbytes(128))
    machine.write(A, source.randbytes(16))
    machine.write(B, source.choice((source.randbytes(16), machine.read(A, 16))))
    machine.call("differ", A, 0, B, 0, 16)


def _run_hash(machine: Processor, source: random.Random) -> None:
    machine.write(HEAP + 0x400, firmware_order())
    machine.write(HEAP + 0x100, source.randbytes(32))
    machine.write(HEAP + 0x200, source.randbytes(64))
    machine.call("blake2s_start", HEAP, HEAP + 0x100, HEAP + 0x200, HEAP + 0x300, 64, 0)
    machine.call("blake2s_rounds", HEAP, 0, HEAP + 0x400)
    machine.call("blake2s_finish", HEAP, HEAP + 0x100)


def _run_ladder_step(machine: Processor, source: random.Random) -> None:
    edge = source.choice((0, 1, PRIME - 1, PRIME, 2**255 - 1, source.getrandbits(255)))
    _put(machine, A, _limbs(edge))
    _put(machine, B, _limbs(source.getrandbits(255)))
    machine.write(DATA, source.choice((bytes(32), b"\xff" * 32, source.randbytes(32))))
    machine.write(HEAP + 0x800, source.randbytes(320))
    machine.call("conditional_swap", HEAP + 0x800, 0, DATA, 77)
    machine.call("field_multiply", SCRATCH, 0, A, B, OUT)
    machine.call("field_square", SCRATCH, 0, A, OUT)
    machine.call("field_add", A, 0, B, OUT)
    machine.call("field_subtract", A, 0, B, OUT)
    machine.call("field_multiply_add", A, 0, B, OUT)
    machine.call("field_pack", OUT, DATA)
    machine.call("field_unpack", DATA, OUT)


@pytest.mark.parametrize("operation", [_run_aead, _run_hash, _run_ladder_step])
def test_secrets_steer_nothing(machine: Processor, operation: Secrets) -> None:
    """The same instructions run and the same addresses are touched for all keys, messages and points of one length."""
    traces = set()
    for seed in range(8):
        machine.trace = []
        operation(machine, random.Random(seed))
        assert len(machine.trace) > 1000
        traces.add(hashlib.sha256(repr(machine.trace).encode()).digest())
    assert len(traces) == 1


def test_the_trace_would_show_it(machine: Processor) -> None:
    """What may steer branches, a length, changes the trace."""
    traces = []
    for length in (16, 17):
        machine.trace = []
        machine.call("differ", A, 0, B, 0, length)
        traces.append(machine.trace)
    assert traces[0] != traces[1]


def test_generated_source_names() -> None:
    """Each kernel has its plain counterpart, and the other way round."""
    import re

    from lopower_device import kernels_plain

    source = firmware_module("kernels/generate.py").module()
    native = set(re.findall(r"^def (\w+)", source, re.MULTILINE))
    plain = {name for name in dir(kernels_plain) if callable(getattr(kernels_plain, name)) and name[0] != "_"}
    assert native == plain
