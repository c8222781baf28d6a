"""The compiled kernels of the firmware on 32-bit processors that are not there: Xtensa (ESP32, S2, S3), RV32IMC (C3).

Xtensa code is translated block by block to Python: of its instructions, those that mpy-cross emits. RV32IMC runs on
Unicorn. Both count instructions, and record, on request, which ones run and which addresses they touch: what must not
depend on secrets.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from tests.support.micropython import built, firmware_module
from tests.support.requirements import require_module

WORD: Final = 0xFFFFFFFF
DATA: Final = 0x3FFB0000
"""Where an ESP32 has its data RAM. The first KB holds what the interpreter would pass."""
DATA_SIZE: Final = 1 << 16
CODE: Final = 0x40080000
STUBS: Final = 0x50000000
HEAP: Final = DATA + 0x1000
_ARGUMENTS: Final = DATA + 0x400
_STACK: Final = DATA + 0xF000
_CONVERSIONS: Final = (3, 4)
"""Entries of MicroPython's table of functions that turn objects to words and back: here all are words already."""


class MpyError(Exception):
    """Not a .mpy file as expected."""


def functions(architecture: str) -> dict[str, bytes]:
    """Machine code of the kernels by name, out of `kernels.mpy`."""
    code = _native_code((built(architecture) / "lopower" / "kernels.mpy").read_bytes())
    source = firmware_module("kernels/generate.py").module()
    names = re.findall(r"^def (\w+)", source, re.MULTILINE)
    if len(names) != len(code):
        raise MpyError(f"{len(code)} functions instead of {len(names)}")
    return dict(zip(names, code, strict=True))


def _native_code(data: bytes) -> list[bytes]:
    """The Viper functions of a .mpy file, in their order (format of MicroPython 1.23 and later)."""
    position = 4

    def number() -> int:
        nonlocal position
        value = 0
        while True:
            byte = data[position]
            position += 1
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                return value

    if data[2] & 0x40:
        number()
    names, objects = number(), number()
    for _ in range(names):
        length = number()
        if not length & 1:
            position += (length >> 1) + 1
    for _ in range(objects):
        kind = data[position]
        position += 1
        if kind > 4:
            position += number() + (1 if kind in (5, 6) else 0)
    found: list[bytes] = []

    def raw_code() -> None:
        nonlocal position
        header = number()
        kind, length = header & 3, header >> 3
        code = data[position : position + length]
        position += length
        if kind:
            number()
        if kind == 2:
            found.append(code)
        if header & 4:
            for _ in range(number()):
                raw_code()

    raw_code()
    return found


class Processor(Protocol):
    """One processor with the kernels in it. Words and bytes of memory are read and written by address."""

    instructions: int
    cycles: int
    trace: list[int] | None

    def call(self, name: str, *arguments: int) -> int: ...

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> None: ...


def processor(architecture: str) -> Processor:
    """`xtensawin` or `rv32imc`."""
    return Xtensa() if architecture == "xtensawin" else RiscV()


def _interpreter_tables() -> bytes:
    """The function object, its context and the table of functions, as a kernel's first instructions follow them."""
    memory = bytearray(0x400)
    struct.pack_into("<I", memory, 4, DATA + 0x40)
    struct.pack_into("<II", memory, 0x48, DATA + 0x80, DATA + 0x80)
    struct.pack_into("<16I", memory, 0x80, *[DATA + 0x100] * 16)
    struct.pack_into("<100I", memory, 0x100, *[STUBS + 4 * i for i in range(100)])
    return bytes(memory)


# ---------------------------------------------------------------------- Xtensa


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


Instruction = tuple[Any, ...]

_RRR: Final = {1: "and", 2: "or", 3: "xor", 8: "add", 9: "addx2", 10: "addx4", 12: "sub"}
_COMPARE: Final = {1: "eq", 2: "lt", 3: "ltu", 9: "ne", 10: "ge", 11: "geu"}


def decode(code: bytes, pc: int) -> tuple[int, Instruction]:
    """(length, instruction) at `pc` (Xtensa ISA reference manual, chapter 7). Raises NotImplementedError."""
    word = int.from_bytes(code[pc : pc + 3], "little")
    op0, t, s, r = word & 15, word >> 4 & 15, word >> 8 & 15, word >> 12 & 15
    if op0 == 8:
        return 2, ("l32i", t, s, r * 4)
    if op0 == 9:
        return 2, ("s32i", t, s, r * 4)
    if op0 == 10:
        return 2, ("add", r, s, t)
    if op0 == 12:
        if t & 8:
            return 2, ("beqz" if not t & 4 else "bnez", s, pc + 4 + ((t & 3) << 4 | r))
        value = (t & 7) << 4 | r
        return 2, ("movi", s, value - 128 if value >= 96 else value)
    if op0 == 13 and r == 0:
        return 2, ("mov", t, s)
    if op0 == 13 and r == 15 and t == 1:
        return 2, ("retw",)
    if op0 == 0:
        op1, op2 = word >> 16 & 15, word >> 20 & 15
        if op1 == 0 and op2 == 0 and t >> 2 == 3:
            return 3, ("callx", s)
        if op1 == 0 and op2 in _RRR:
            return 3, (_RRR[op2], r, s, t)
        if op1 == 0 and op2 == 4 and r in (0, 1):
            return 3, ("ssr" if r == 0 else "ssl", s)
        if op1 == 0 and op2 == 6 and s == 0:
            return 3, ("neg", r, t)
        if op1 == 1 and op2 in (9, 11):
            return 3, ("srl" if op2 == 9 else "sra", r, t)
        if op1 == 1 and op2 == 10:
            return 3, ("sll", r, s)
        if op1 == 1 and op2 in (0, 1):
            return 3, ("slli", r, s, 32 - (op2 << 4 | t))
        if op1 == 1 and op2 in (2, 3):
            return 3, ("srai", r, t, (op2 & 1) << 4 | s)
        if op1 == 1 and op2 == 4:
            return 3, ("srli", r, t, s)
        if op1 == 2 and op2 == 8:
            return 3, ("mull", r, s, t)
        if op1 == 3 and op2 in (8, 9):
            return 3, ("moveqz" if op2 == 8 else "movnez", r, s, t)
    if op0 == 1:
        at = (pc + 3 & ~3) + _signed(word >> 8 | 0x10000, 17) * 4
        return 3, ("l32r", t, struct.unpack_from("<I", code, at)[0])
    byte = word >> 16 & 0xFF
    if op0 == 2:
        if r in (0, 1, 2):
            return 3, (("l8ui", "l16ui", "l32i")[r], t, s, byte << r)
        if r in (4, 5, 6):
            return 3, (("s8i", "s16i", "s32i")[r - 4], t, s, byte << (r - 4))
        if r == 10:
            return 3, ("movi", t, _signed(s << 8 | byte, 12))
        if r == 12:
            return 3, ("addi", t, s, _signed(byte, 8))
        if r == 13:
            return 3, ("addi", t, s, _signed(byte, 8) << 8)
    if op0 == 6:
        n, m = word >> 4 & 3, word >> 6 & 3
        if n == 0:
            return 3, ("j", pc + 4 + _signed(word >> 6, 18))
        if n == 1:
            return 3, (("beqz", "bnez", "bltz", "bgez")[m], s, pc + 4 + _signed(word >> 12, 12))
        if n == 3 and m == 0:
            return 3, ("entry", s, (word >> 12) * 8)
    if op0 == 7 and r in _COMPARE:
        return 3, ("b" + _COMPARE[r], s, t, pc + 4 + _signed(byte, 8))
    if op0 == 7 and r & 7 in (6, 7):
        return 3, ("bbci" if r < 8 else "bbsi", s, (r & 1) << 4 | t, pc + 4 + _signed(byte, 8))
    raise NotImplementedError(f"Xtensa instruction {word:06x} at {pc:#x}")


_LOADS: Final = {"l32i": ("M32", 2), "l16ui": ("M16", 1), "l8ui": ("M8", 0)}
_STORES: Final = {"s32i": ("M32", 2, WORD), "s16i": ("M16", 1, 0xFFFF), "s8i": ("M8", 0, 0xFF)}
_BINARY: Final = {"add": "+", "sub": "-", "mull": "*", "and": "&", "or": "|", "xor": "^"}
_ORDER: Final = {"eq": "==", "ne": "!=", "lt": "<", "ge": ">=", "ltu": "<", "geu": ">="}

Block = Callable[..., int]


class Xtensa:
    """Cycles by a model of the LX6's pipeline of five stages: one per instruction, one more if a load's or a product's
    result is used at once, two more for what jumps."""

    def __init__(self) -> None:
        self._memory = bytearray(DATA_SIZE)
        self._memory[:0x400] = _interpreter_tables()
        view = memoryview(self._memory)
        self._views = (view, view.cast("H"), view.cast("I"))
        self._code = functions("xtensawin")
        self._blocks: dict[tuple[str, int, bool], tuple[Block, int, int]] = {}
        self.instructions = self.cycles = 0
        self.trace: list[int] | None = None

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._memory[address - DATA : address - DATA + length])

    def write(self, address: int, data: bytes) -> None:
        self._memory[address - DATA : address - DATA + len(data)] = data

    def call(self, name: str, *arguments: int) -> int:
        """Run a kernel; what it returns. Counts are added up."""
        self.write(_ARGUMENTS, struct.pack(f"<{len(arguments)}I", *(value & WORD for value in arguments)))
        registers = [0] * 16
        registers[1:6] = _STACK, DATA, len(arguments), 0, _ARGUMENTS
        shifts = [0, 0]
        trace = self.trace
        pc = 0
        while pc >= 0:
            block = self._blocks.get((name, pc, trace is not None))
            if block is None:
                block = self._translate(self._code[name], pc, trace is not None)
                self._blocks[name, pc, trace is not None] = block
            self.instructions += block[1]
            self.cycles += block[2]
            if trace is not None:
                trace.append(pc)
            pc = block[0](registers, *self._views, shifts, trace)
        return registers[2]

    def _translate(self, code: bytes, pc: int, traced: bool) -> tuple[Block, int, int]:
        lines = ["def block(R, M8, M16, M32, S, T):"]
        count = cycles = 0
        pending: Any = None  # the register whose value comes a cycle late
        while True:
            length, instruction = decode(code, pc)
            operation, *operands = instruction
            following = pc + length
            count += 1
            cycles += 1
            sources = operands if operation[0] in "bs" else operands[1:]
            if pending is not None and pending in sources:
                cycles += 1
            pending = operands[0] if operation in _LOADS or operation in ("l32r", "mull") else None
            text, jumps = self._statement(operation, operands, following, traced)
            lines += [" " + line for line in text]
            if jumps:
                cycles += 2
                break
            if operation == "callx":
                cycles += 30
            pc = following
        names: dict[str, Any] = {"conversion": _conversion}
        exec("\n".join(lines), names)
        return names["block"], count, cycles

    def _statement(self, operation: str, o: list[Any], following: int, traced: bool) -> tuple[list[str], bool]:
        """Python for one instruction, and whether it ends the block."""
        if operation in _LOADS or operation in _STORES:
            lines = [f"q = R[{o[1]}] + {o[2] - DATA}"]
            if traced:
                lines.append("T.append(q)")
            if operation in _LOADS:
                view, shift = _LOADS[operation]
                place = f"R[{o[0]}] = {view}[q >> {shift}]"
            else:
                view, shift, mask = _STORES[operation]
                place = f"{view}[q >> {shift}] = R[{o[0]}] & {mask}"
            if shift:  # an unaligned access would raise an exception
                lines.append(f"assert not q & {(1 << shift) - 1}")
            return [*lines, place], False
        simple = {
            "l32r": "R[{0}] = {1}", "mov": "R[{0}] = R[{1}]", "addi": "R[{0}] = (R[{1}] + {2}) & 0xffffffff",
            "neg": "R[{0}] = -R[{1}] & 0xffffffff", "ssl": "S[0] = R[{0}] & 31", "ssr": "S[1] = R[{0}] & 31",
            "sll": "R[{0}] = R[{1}] << S[0] & 0xffffffff", "srl": "R[{0}] = R[{1}] >> S[1]",
            "sra": "R[{0}] = (R[{1}] - ((R[{1}] >> 31) << 32)) >> S[1] & 0xffffffff",
            "slli": "R[{0}] = R[{1}] << {2} & 0xffffffff", "srli": "R[{0}] = R[{1}] >> {2}",
            "srai": "R[{0}] = (R[{1}] - ((R[{1}] >> 31) << 32)) >> {2} & 0xffffffff",
            "addx2": "R[{0}] = (R[{1}] * 2 + R[{2}]) & 0xffffffff",
            "addx4": "R[{0}] = (R[{1}] * 4 + R[{2}]) & 0xffffffff",
            "moveqz": "R[{0}] = R[{1}] if R[{2}] == 0 else R[{0}]", "movnez": "R[{0}] = R[{1}] if R[{2}] else R[{0}]",
            "entry": "R[1] -= {1}", "callx": "conversion(R[{0}])",
        }  # fmt: skip
        if operation in simple:
            return [simple[operation].format(*o)], False
        if operation == "movi":
            return [f"R[{o[0]}] = {o[1] & WORD}"], False
        if operation in _BINARY:
            return [f"R[{o[0]}] = (R[{o[1]}] {_BINARY[operation]} R[{o[2]}]) & 0xffffffff"], False
        if operation == "retw":
            return ["return -1"], True
        if operation == "j":
            return [f"return {o[0]}"], True
        if operation in ("beqz", "bnez"):
            return [f"return {o[1]} if R[{o[0]}] {'==' if operation == 'beqz' else '!='} 0 else {following}"], True
        if operation in ("bltz", "bgez"):
            return [f"return {o[1]} if R[{o[0]}] >> 31 == {int(operation == 'bltz')} else {following}"], True
        if operation in ("bbci", "bbsi"):
            return [f"return {o[2]} if R[{o[0]}] >> {o[1]} & 1 == {int(operation == 'bbsi')} else {following}"], True
        one, other = f"R[{o[0]}]", f"R[{o[1]}]"
        if operation in ("blt", "bge"):
            one, other = f"({one} ^ 0x80000000)", f"({other} ^ 0x80000000)"
        return [f"return {o[2]} if {one} {_ORDER[operation[1:]]} {other} else {following}"], True


def _conversion(target: int) -> None:
    if (target - STUBS) // 4 not in _CONVERSIONS:
        raise NotImplementedError(f"call of entry {(target - STUBS) // 4} of the function table")


# ---------------------------------------------------------------------- RV32IMC


class RiscV:
    """Cycles: one per instruction, as a C3's core takes for most."""

    def __init__(self) -> None:
        unicorn = require_module("unicorn")
        self._constants = require_module("unicorn.riscv_const")
        self._machine = machine = unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV32)
        machine.mem_map(DATA, DATA_SIZE)
        machine.mem_map(CODE, 1 << 17)
        machine.mem_map(STUBS, 0x1000)
        machine.mem_write(STUBS, b"\x82\x80" * 0x800)  # every entry returns its argument
        machine.mem_write(DATA, _interpreter_tables())
        self._entries: dict[str, int] = {}
        address = CODE
        for name, code in functions("rv32imc").items():
            machine.mem_write(address, code)
            self._entries[name] = address
            address += len(code) + 15 & ~15
        self._lengths: dict[int, int] = {}
        machine.hook_add(unicorn.UC_HOOK_BLOCK, self._block)
        self._memory_hook = unicorn.UC_HOOK_MEM_READ | unicorn.UC_HOOK_MEM_WRITE
        self._hooked = False
        self.instructions = self.cycles = 0
        self.trace: list[int] | None = None

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._machine.mem_read(address, length))

    def write(self, address: int, data: bytes) -> None:
        self._machine.mem_write(address, bytes(data))

    def call(self, name: str, *arguments: int) -> int:
        """Run a kernel; what it returns. Counts are added up."""
        if self.trace is not None and not self._hooked:
            self._machine.hook_add(self._memory_hook, self._access)
            self._hooked = True
        self.write(_ARGUMENTS, struct.pack(f"<{len(arguments)}I", *(value & WORD for value in arguments)))
        end = STUBS + 0xF00
        c = self._constants
        for register, value in (
            (c.UC_RISCV_REG_SP, _STACK), (c.UC_RISCV_REG_RA, end), (c.UC_RISCV_REG_A0, DATA),
            (c.UC_RISCV_REG_A1, len(arguments)), (c.UC_RISCV_REG_A2, 0), (c.UC_RISCV_REG_A3, _ARGUMENTS),
        ):  # fmt: skip
            self._machine.reg_write(register, value)
        self._machine.emu_start(self._entries[name], end)
        self.cycles = self.instructions
        result: int = self._machine.reg_read(c.UC_RISCV_REG_A0) & WORD
        return result

    def _block(self, machine: Any, address: int, size: int, _: object) -> None:
        count = self._lengths.get(address)
        if count is None:
            code = bytes(machine.mem_read(address, size))
            count = at = 0
            while at < size:
                at += 4 if code[at] & 3 == 3 else 2
                count += 1
            self._lengths[address] = count
        self.instructions += count
        if self.trace is not None:
            self.trace.append(address)

    def _access(self, machine: Any, kind: int, address: int, size: int, value: int, _: object) -> None:
        if self.trace is not None:
            self.trace.append(address)
