"""What the firmware's cryptography costs on a board, from instruction counts on the emulators.

    python -m tests.bench.bench_firmware

Xtensa cycles by the model of `tests.support.kernel_emulators` (1 per instruction, 1 more where a load's or product's
result is used at once, 2 more per jump, 30 per call into the interpreter); RV32IMC: 1 per instruction. An ESP32 runs
at 240 MHz, a C3 or C6 at 160. What the interpreter spends between the kernels is estimated with 4 us per call of one.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tests.support.kernel_emulators import HEAP, Processor, processor
from tests.support.micropython import FIRMWARE, built

sys.path.insert(0, str(FIRMWARE))
from lopower_device import blake2s, tunnel
from lopower_device import x25519 as x25519s
from lopower_device.peer import PROGRAM

CLOCKS = {"xtensawin": 240e6, "rv32imc": 160e6}
CALL_SECONDS = 4e-6
PACKET_SECONDS = 0.5e-3
"""Assumed for what the interpreter does per full packet, with the stack: about 1,000 bytecodes."""
FILE_SECONDS, KILOBYTE_SECONDS = 8e-3, 1.5e-3
"""Assumed for a module that is loaded: four look-ups in littlefs, and reading and linking it."""
PAYLOAD = 1424
LADDER = 255


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation: instructions and cycles in kernels, and how many kernels it calls."""

    instructions: int
    cycles: int
    calls: int

    def times(self, count: int) -> Cost:
        return Cost(self.instructions * count, self.cycles * count, self.calls * count)

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.instructions + other.instructions, self.cycles + other.cycles, self.calls + other.calls)

    def kernel_seconds(self, architecture: str) -> float:
        return self.cycles / CLOCKS[architecture]

    def seconds(self, architecture: str) -> float:
        return self.kernel_seconds(architecture) + self.calls * CALL_SECONDS


def measured(machine: Processor, name: str, *arguments: int) -> Cost:
    """One call."""
    instructions, cycles = machine.instructions, machine.cycles
    machine.call(name, *arguments)
    return Cost(machine.instructions - instructions, machine.cycles - cycles, 1)


def aead(machine: Processor, length: int) -> Cost:
    """`Cipher.seal` of `length` bytes."""
    x, key, packet = HEAP, HEAP + 0x200, HEAP + 0x1000
    return measured(machine, "chacha20_xor", x, 0, key, packet, 16, (length + 63) // 64, 0) + measured(
        machine, "poly1305", x, 0, packet, length, 0, 1
    )


def opened(machine: Processor, length: int) -> Cost:
    """`Cipher.open` of `length` bytes."""
    x, key, packet = HEAP, HEAP + 0x200, HEAP + 0x1000
    return (
        measured(machine, "chacha20_xor", x, 0, key, packet, 16, 0, 0)
        + measured(machine, "poly1305", x, 0, packet, length, 0, 0)
        + measured(machine, "chacha20_xor", x, 0, key, packet, 16, (length + 63) // 64, 1)
    )


def ladder(machine: Processor, steps: int) -> Cost:
    """One slice of X25519."""
    return _field_run(machine, x25519s._LADDER, steps - 1, steps)


def inversion(machine: Processor) -> Cost:
    """X25519's last slice."""
    return _field_run(machine, x25519s._INVERT, 0, 1) + measured(machine, "field_pack", HEAP, 1, HEAP + 0x700)


def _field_run(machine: Processor, program: bytes, position: int, steps: int) -> Cost:
    machine.write(HEAP + 0x400, program)
    return measured(machine, "field_run", HEAP, 0, HEAP + 0x400, HEAP + 0x600, position, steps)


def x25519(machine: Processor) -> Cost:
    """One multiplication: 255 steps of the ladder and one inversion."""
    slices = [x25519s.STEPS] * (LADDER // x25519s.STEPS) + [LADDER % x25519s.STEPS]
    total = inversion(machine) + measured(machine, "field_unpack", HEAP, 0, HEAP + 0x600).times(2)
    for steps in slices:
        total += ladder(machine, steps)
    return total


def blake2s_block(machine: Processor) -> Cost:
    """One block of 64 bytes."""
    work, state, table, data = HEAP, HEAP + 0x100, HEAP + 0x200, HEAP + 0x400
    machine.write(table, bytes(blake2s._TABLE))
    return measured(machine, "blake2s_compress", work, 0, state, table, data, 0, 64, 64, 0)


def initiator_handshake(machine: Processor) -> Cost:
    """create_initiation (2 multiplications) and consume_response (2), without what `prepare` does once per start.

    Compressions: 6 hashes of 1 to 3 blocks and 9 HMACs of 4 or 5 each; the AEADs are small.
    """
    return x25519(machine).times(4) + blake2s_block(machine).times(75) + aead(machine, 32).times(3)


def longest_turn(machine: Processor, architecture: str) -> tuple[float, float]:
    """(seconds of the longest slice of X25519, of the longest turn).

    A turn takes a datagram, and a connection's timers, until `tunnel.TURN` is over: the last one may begin a clock tick
    later, and brings a full packet to which two are sent; then the timers of one connection send two. A slice in which
    a file of a handshake is loaded may last for as long: then no datagram is taken.
    """
    slices = max(ladder(machine, x25519s.STEPS), inversion(machine), key=lambda cost: cost.cycles)
    received = opened(machine, PAYLOAD).seconds(architecture) + PACKET_SECONDS
    sent = aead(machine, PAYLOAD).seconds(architecture) + PACKET_SECONDS
    loading = FILE_SECONDS + largest_file(architecture) / 1024 * KILOBYTE_SECONDS
    return slices.seconds(architecture), max((tunnel.TURN + 1) / 1e3 + received + 4 * sent, loading + 2 * sent)


def largest_file(architecture: str) -> int:
    """Bytes of the largest of the modules that are loaded for a handshake."""
    names = (*PROGRAM, "stamps", "initiate", "complete", "respond", "cookie")
    return max((built(architecture) / "lopower" / f"{name}.mpy").stat().st_size for name in names)


def report() -> list[str]:
    """Lines to print."""
    lines = []
    for architecture, clock in CLOCKS.items():
        machine = processor(architecture)
        sealed = aead(machine, PAYLOAD)
        product = x25519(machine)
        handshake = initiator_handshake(machine)
        longest_slice, turn = longest_turn(machine, architecture)
        size = sum(path.stat().st_size for path in built(architecture).rglob("*") if path.is_file())
        lines += [
            f"{architecture} at {clock / 1e6:.0f} MHz",
            f"  AEAD, {PAYLOAD} bytes      {sealed.instructions:>11,} instructions {sealed.cycles:>11,} cycles"
            f"   {PAYLOAD / sealed.kernel_seconds(architecture) / 1e6:.2f} MB/s in kernels,"
            f" {PAYLOAD / sealed.seconds(architecture) / 1e6:.2f} with the calls",
            f"  X25519                {product.instructions:>11,} instructions {product.cycles:>11,} cycles"
            f"   {product.kernel_seconds(architecture) * 1e3:.0f} ms in kernels,"
            f" {product.seconds(architecture) * 1e3:.0f} with the calls",
            f"  initiator's handshake {handshake.instructions:>11,} instructions {handshake.cycles:>11,} cycles"
            f"   {handshake.kernel_seconds(architecture) * 1e3:.0f} ms in kernels,"
            f" {handshake.seconds(architecture) * 1e3:.0f} with the calls",
            f"  longest slice of X25519 {longest_slice * 1e3:.1f} ms, longest turn {turn * 1e3:.1f} ms by its bounds,"
            f" with {PACKET_SECONDS * 1e3} ms of interpreter per packet",
            f"  largest file of a handshake {largest_file(architecture):>5,} bytes",
            f"  one set of files      {size:>11,} bytes",
        ]
    return lines


if __name__ == "__main__":
    print("\n".join(report()))
