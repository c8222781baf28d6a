"""The kernels as compiled for boards: right on words of 32 bits, and with one trace whatever the secrets are."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.poly1305 import Poly1305
from nacl.bindings import crypto_scalarmult

from tests.support.kernel_emulators import HEAP, Processor, processor
from tests.support.micropython import firmware_module

PRIME = 2**255 - 19
ARCHITECTURES = ["xtensawin", "rv32imc"]
CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
A, B, X, DATA = HEAP + 0x100, HEAP + 0x200, HEAP + 0x400, HEAP + 0x1000
"""Keys and small things, the kernels' scratch, what they work on."""


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
    _put(machine, X + 64, (*CONSTANTS, *struct.unpack("<8I", key), counter, *struct.unpack("<3I", nonce)))
    machine.write(DATA, data)
    machine.call("chacha20_xor", X, 0, A, DATA, 0, len(data) // 64, -1)
    return machine.read(DATA, len(data))


def _poly1305(machine: Processor, key: bytes, data: bytes, associated: int = 0) -> bytes:
    """The tag of an AEAD; what is written is also what is accepted, and nothing else."""
    machine.write(X + 128, key)
    machine.write(DATA + 16, data + b"\x55" * 32)
    length, end = len(data) - associated, DATA + 16 + len(data)
    assert machine.call("poly1305", X, 0, DATA, length, associated, 1) == 0
    tag = machine.read(end, 16)
    assert machine.call("poly1305", X, 0, DATA, length, associated, 0) == 0
    machine.write(end, tag[:15] + bytes((tag[15] ^ 0x80,)))
    assert machine.call("poly1305", X, 0, DATA, length, associated, 0) != 0
    return tag


def _expected_tag(key: bytes, data: bytes, associated: int = 0) -> bytes:
    lengths = struct.pack("<QQ", associated, len(data) - associated)
    return Poly1305.generate_tag(key, data + bytes(-len(data) % 16) + lengths)


def _element(number: int) -> int:
    return X + 360 + 80 * number


def _field(machine: Processor, program: bytes, scalar: bytes = bytes(32), position: int = 0, steps: int = 1) -> None:
    machine.write(DATA, program)
    machine.write(DATA + 0x100, scalar)
    machine.call("field_run", X, 0, DATA, DATA + 0x100, position, steps)


def _x25519(machine: Processor, scalar: bytes, point: bytes) -> bytes:
    """RFC 7748 section 5 with the device's programs, in slices of seven steps."""
    clamped = bytearray(scalar)
    clamped[0] &= 248
    clamped[31] = clamped[31] & 127 | 64
    machine.write(DATA, point)
    for number in (0, 3):
        machine.call("field_unpack", X, number, DATA)
    for number, value in ((1, 1), (2, 0), (4, 1)):
        _put(machine, _element(number), _limbs(value))
    for position in range(254, -1, -7):
        _field(machine, tables()[1], bytes(clamped), position, min(7, position + 1))
    _field(machine, tables()[2])
    machine.call("field_pack", X, 1, DATA)
    return machine.read(DATA, 32)


def tables() -> tuple[Any, bytes, bytes]:
    """BLAKE2s's, and the programs of X25519."""
    from lopower_device import blake2s, x25519

    return blake2s._TABLE, x25519._LADDER, x25519._INVERT


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
        *((source.randbytes(32), source.randbytes(length)) for length in (0, 1, 15, 16, 17, 112, 639, 1424)),
    ]
    for key, data in cases:
        assert _poly1305(machine, key, data) == _expected_tag(key, data)
    for length in (32, 33, 80):
        key, data = source.randbytes(32), source.randbytes(length)
        assert _poly1305(machine, key, data, 32) == _expected_tag(key, data, 32)
    for below in range(-3, 8):  # r = 1: blocks, lengths and 3 * 2^128 add up to 2^130 - below, around the prime
        total = 2**128 - below - (32 << 64)
        one = 2**128 - 1 - (1 << 70)
        data = one.to_bytes(16, "little") + (total - one).to_bytes(16, "little")
        key = bytes((1,)) + bytes(31)
        assert _poly1305(machine, key, data) == _expected_tag(key, data)


def test_blake2s(machine: Processor) -> None:
    """RFC 7693 appendix B, and one-block messages against hashlib."""
    state, table = HEAP + 0x100, HEAP + 0x200
    words = bytes(tables()[0])
    vector = struct.unpack("<8I", words[:32])
    machine.write(table, words)
    source = random.Random(3)
    for message in (b"abc", b"", source.randbytes(63), source.randbytes(64), b"\xff" * 64):
        _put(machine, state, (vector[0] ^ 0x01010020, *vector[1:]))
        machine.write(DATA, b"?" + message + b"\x55" * 64)
        machine.call("blake2s_compress", HEAP, 0, state, table, DATA, 1, len(message), len(message), -1)
        assert machine.read(state, 32) == hashlib.blake2s(message).digest()


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
        for kind, second, expected in (
            (1, 1, a * b),
            (2, 1, a * a),
            (2, 5, a**32),
            (3, 1, a + b),
            (4, 1, a - b),
            (5, 1, 121665 * a + b),
        ):
            for target in (2, 0, 1):  # an operand may be the result
                _put(machine, _element(0), limbs_a)
                _put(machine, _element(1), limbs_b)
                _field(machine, bytes((kind, 0, second, target, 0)))
                result = _get(machine, _element(target), 20)
                assert _value(result) % PRIME == expected % PRIME, (kind, a, b)
                assert max(result) < 0x2000 + 200
                machine.call("field_pack", X, target, DATA)
                assert int.from_bytes(machine.read(DATA, 32), "little") == expected % PRIME, (kind, a, b)


def test_field_limbs(machine: Processor) -> None:
    """The greatest columns that can be: all limbs at what an operation may leave."""
    for limbs in ([8191, 8191 + 264, *[8191] * 18], [8191] * 20, [0, 8455, *[0] * 17, 8191]):
        value = _value(tuple(limbs))
        _put(machine, _element(0), limbs)
        for kind, expected in ((1, value * value), (2, value * value), (3, 2 * value), (4, 0), (5, 121666 * value)):
            _field(machine, bytes((kind, 0, 1 if kind == 2 else 0, 1, 0)))
            assert _value(_get(machine, _element(1), 20)) % PRIME == expected % PRIME


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
    machine.write(X + 64, struct.pack("<4I", *CONSTANTS))
    machine.write(A, key)
    machine.write(DATA, source.randbytes(16))
    machine.write(DATA + 16, source.choice((bytes(150), source.randbytes(150))))
    machine.call("chacha20_xor", X, 0, A, DATA, 16, 2, 0)
    machine.call("poly1305", X, 0, DATA, 117, 0, 1)
    if source.choice((True, False)):
        machine.write(DATA + 16 + 117, source.randbytes(16))
    machine.call("poly1305", X, 0, DATA, 117, 0, 0)
    machine.call("chacha20_xor", X, 0, A, DATA, 16, 2, 1)
    machine.write(A, source.randbytes(16))
    machine.write(B, source.choice((source.randbytes(16), machine.read(A, 16))))
    machine.call("differ", A, 0, B, 0, 16)


def _run_hash(machine: Processor, source: random.Random) -> None:
    machine.write(HEAP + 0x400, bytes(tables()[0]))
    machine.write(HEAP + 0x100, source.randbytes(32))
    machine.write(DATA, source.randbytes(64))
    machine.call("blake2s_compress", HEAP, 0, HEAP + 0x100, HEAP + 0x400, DATA, 0, 50, 64, 0)


def _run_ladder(machine: Processor, source: random.Random) -> None:
    machine.write(DATA, source.choice((bytes(32), b"\xff" * 32, source.randbytes(32))))
    machine.call("field_unpack", X, 0, DATA)
    edge = source.choice((0, 1, PRIME - 1, PRIME, 2**255 - 1, source.getrandbits(255)))
    _put(machine, _element(1), _limbs(edge))
    for number in (2, 3, 4):
        _put(machine, _element(number), _limbs(source.getrandbits(255)))
    scalar = source.choice((bytes(32), b"\xff" * 32, source.randbytes(32)))
    _field(machine, tables()[1], scalar, 254, 2)
    _field(machine, tables()[1], scalar, 77, 1)
    _field(machine, tables()[2])
    machine.call("field_pack", X, 1, DATA)


@pytest.mark.parametrize("operation", [_run_aead, _run_hash, _run_ladder])
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
