"""The program of a board: MicroPython's unix port in a process of its own, and its bytes on the serial line."""

from __future__ import annotations

import importlib.util
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

from lopower_hil.virtual_board.wires import Phase, Wires

MARK: Final = b"\x1e\x1fVB"
"""What begins a message of the shims among what a program prints: kind (1 byte), length (2 bytes), content."""

INTERRUPT: Final = bytes(12)
"""A pulse, as the launcher has it, that is Ctrl-C."""

_SHIMS: Final = Path(__file__).parent / "shims"
_LAUNCHER: Final = Path(__file__).parent / "launcher.py"
_RAW_BANNER: Final = b"raw REPL; CTRL-B to exit"
_FRIENDLY_BANNER: Final = b'Type "help()"'
_AGES: Final = struct.pack("ll", 1 << 24, 0)
"""Seconds and microseconds of a time-out that is never over: with one, a signal ends a read (see the launcher)."""

_MAX_HELD: Final = 1 << 16


class Firmware:
    """One run of the interpreter, from boot to soft reset.

    Attributes:
        channel: its standard input and output; readable when it has printed something.
        requests: what the program asked of the board, in order: "reset", "soft reset", "sleep", "bootloader", "cut".
        raw: whether it was in the raw REPL last.
    """

    def __init__(self, wires: Wires, flash: Path, *, heap: int, raw: bool, native: Path | None) -> None:
        """Args:
        heap: bytes.
        raw: a soft reset in the raw REPL led here: main.py does not run, and the raw REPL goes on.
        native: where lopower's kernels lie as compiled for this processor.
        """
        self.requests: list[str] = []
        self.raw = raw
        self._wires = wires
        self._interrupted = False
        self._output = Output(swallow_banner=raw)
        wires.field.phase = Phase.LAUNCHING
        wires.field.raw = raw
        self.channel, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _AGES)
        self._printed, printed = socket.socketpair()
        for end in (self._printed, printed):
            end.setblocking(False)
        pulses, pulse = os.pipe()
        self._pulses = os.fdopen(pulse, "wb", buffering=0)
        descriptor = os.open(flash, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    sys.executable, "-I", "-S", str(_LAUNCHER), str(library()), str(wires.descriptor), str(descriptor),
                    str(heap), str(_SHIMS), str(pulses),
                ],
                stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=theirs.fileno(),
                pass_fds=(wires.descriptor, descriptor, pulses, pulse, printed.fileno()),
                env={
                    "TZ": "UTC", "BOARD_NATIVE": str(native or ""), "BOARD_PULSES": str(pulse),
                    "BOARD_PRINTED": str(printed.fileno()),
                },
                cwd="/", start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(descriptor)
            os.close(pulses)
            printed.close()
            theirs.close()
        self.channel.setblocking(False)
        self._input = bytearray(b"\x01" if raw else b"")
        self.flush()

    def write(self, data: bytes) -> None:
        """What came on the serial line. More than a UART's buffers hold is lost."""
        while (at := data.find(b"\x03")) >= 0:
            self._put(data[:at])
            data = data[at + 1 :]
            self._interrupt()
        self._put(data)

    def flush(self) -> None:
        """Pass on what the program has not read yet, and an interrupt that came before it ran."""
        if self._interrupted and self._wires.field.phase != Phase.LAUNCHING:
            self._interrupted = False
            self._interrupt()
        if self._input:
            try:
                sent = self.channel.send(self._input)
                del self._input[:sent]
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass

    @property
    def busy(self) -> bool:
        """Whether `flush` should be called again soon."""
        return bool(self._interrupted or self._input)

    def read(self) -> bytes | None:
        """What it printed, for the serial line; None if it has ended."""
        try:
            data = self.channel.recv(1 << 16)
        except BlockingIOError:
            return b""
        except ConnectionResetError:
            data = b""
        if not data:
            return None
        printed = self._output.feed(data)
        self.requests += self._output.requests
        self._output.requests.clear()
        if self._output.is_duplicated:
            try:
                self._printed.send(printed)
            except (BlockingIOError, BrokenPipeError, ConnectionResetError):
                pass  # a stream that takes nothing misses what is printed
        for typed in self._output.typed:
            self.write(typed)
        self._output.typed.clear()
        if self._output.raw is not None:
            self.raw = self._output.raw
        return printed

    def kill(self) -> None:
        """End it at once, wherever it is; again is harmless."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self.channel.close()
        self._printed.close()
        self._pulses.close()

    def _put(self, data: bytes) -> None:
        self._input += data[: max(0, _MAX_HELD - len(self._input))]
        self.flush()

    def _interrupt(self) -> None:
        """Ctrl-C: KeyboardInterrupt while a program runs, a character for the REPL."""
        if self._wires.field.phase == Phase.LAUNCHING:
            self._interrupted = True
        elif self._catches_interrupt():
            self._pulse(INTERRUPT)
        else:
            self._put(b"\x03")

    def _pulse(self, pulse: bytes) -> None:
        """To the launcher. It reads at once; if it does not it has no use for more."""
        if select.select([], [self._pulses], [], 0)[1]:
            try:
                self._pulses.write(pulse)
            except BrokenPipeError:  # it has ended
                pass

    def _catches_interrupt(self) -> bool:
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:  # it has ended
            return False
        caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
        return bool(int(caught, 16) >> (signal.SIGINT - 1) & 1)


class Output:
    """Takes the shims' messages out of what is printed, and ends lines as a serial line has them.

    Attributes:
        requests: what ends the program, as in `Firmware`.
        typed: what came to the REPL by `os.dupterm`.
        is_duplicated: whether what is printed goes there, too.
        raw: which REPL has said last that it is there; None: none.
    """

    def __init__(self, *, swallow_banner: bool) -> None:
        self.requests: list[str] = []
        self.typed: list[bytes] = []
        self.is_duplicated = False
        self.raw: bool | None = None
        self._swallow = swallow_banner
        self._swallowing = False
        self._pending = b""
        self._tail = b""
        self._last = 0

    def feed(self, data: bytes) -> bytes:
        """What of it goes to the serial line."""
        data = self._pending + data
        out = bytearray()
        while (at := data.find(MARK)) >= 0:
            out += self._printed(data[:at])
            header = at + len(MARK) + 3
            length = int.from_bytes(data[header - 2 : header], "little")
            if len(data) < header or len(data) < header + length:
                self._pending = data[at:]
                return bytes(out)
            self._message(chr(data[header - 3]), data[header : header + length], out)
            data = data[header + length :]
        keep = next((n for n in range(len(MARK) - 1, 0, -1) if data.endswith(MARK[:n])), 0)
        self._pending = data[len(data) - keep :]
        out += self._printed(data[: len(data) - keep])
        return bytes(out)

    def _message(self, kind: str, content: bytes, out: bytearray) -> None:
        if kind == "B":  # sys.stdout.buffer: as it is
            out += content
            self._last = 0
        elif kind == "R":
            self.requests.append(content.decode("ascii", "replace"))
        elif kind == "D":
            self.is_duplicated = bool(content[0])
        elif kind == "K":
            self.typed.append(content)
        elif kind == "E":  # boot.py and main.py have ended; the REPL begins
            self._swallowing = self._swallow

    def _printed(self, data: bytes) -> bytes:
        if self._swallowing:
            self._tail += data
            at = self._tail.find(_RAW_BANNER)
            if at < 0:
                self._tail = self._tail[-len(_RAW_BANNER) :]
                return b""
            data, self._tail, self._swallowing = self._tail[at:], b"", False
        seen = self._tail + data
        raw, friendly = seen.rfind(_RAW_BANNER), seen.rfind(_FRIENDLY_BANNER)
        if max(raw, friendly) >= 0:
            self.raw = raw > friendly
        self._tail = seen[-len(_RAW_BANNER) :]
        if b"\n" not in data:
            self._last = data[-1] if data else self._last
            return data
        out = bytearray()
        for byte in data:
            if byte == 0x0A and self._last != 0x0D:
                out.append(0x0D)
            out.append(byte)
            self._last = byte
        return bytes(out)


def library() -> Path | None:
    """The file with MicroPython's unix port; None if it is not installed."""
    found = importlib.util.find_spec("micropython_run")
    return None if found is None or found.origin is None else Path(found.origin)
