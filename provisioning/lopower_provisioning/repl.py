"""A board that runs MicroPython, over its serial port: programs sent to the raw REPL (docs.micropython.org, "REPL").

The line is hostile: what comes back is bounded, and nothing waits for longer than it says.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Protocol

from lopower_provisioning.errors import BoardState, FlashError
from lopower_provisioning.ports import check_right, has_reset_lines, open_line

MAX_OUTPUT: Final = 65_536
OPEN_SECONDS: Final = 10.0
"""A chip's own USB leaves and comes back when it is reset."""

INTERRUPT_SECONDS = 20.0
"""A board checks its files at its start, and formats a file system if it has none."""

BY_HAND_SECONDS: Final = 90.0
"""Time to find the RESET button of a board that is somewhere else."""

_PROMPT: Final = b"raw REPL; CTRL-B to exit\r\n>"
_INTERRUPT, _RAW, _FRIENDLY, _END = b"\x03", b"\x01", b"\x02", b"\x04"
_CHUNK: Final = 128  # the receiver of a UART has 256 bytes; there is no flow control
_CHUNK_SECONDS: Final = 0.01
_BOOT_SECONDS: Final = 2.0


class Line(Protocol):
    """A serial line that is open, as pyserial has it; both methods raise OSError when it is gone."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; what came within a twentieth of a second."""

    def write(self, data: bytes, /) -> object:
        """All of it."""

    def close(self) -> None:
        """Give it back."""


class RunningBoard:
    """The REPL of the board at `port`; a context manager that closes the port.

    Args:
        line: an open one to use, where something else listens at the port besides.

    Raises FlashError if the port does not open within ten seconds.
    """

    def __init__(self, port: str, line: Line | None = None) -> None:
        self.port = port
        self._serial: Line = line or self._open(port)

    @staticmethod
    def _open(port: str) -> Line:
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                check_right(port)
                opened: Line = open_line(port)
                return opened
            except (FlashError, OSError, ValueError) as error:
                if time.monotonic() > deadline or isinstance(error, ValueError):
                    raise FlashError(
                        f"the port {port} does not open any more: {error}",
                        "plug the board in again, and see that no other program uses the port",
                        BoardState.WITHOUT_KEY,
                    ) from None
                time.sleep(0.2)

    def __enter__(self) -> RunningBoard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back; the board runs on."""
        try:
            self._serial.close()
        except OSError:
            return  # it is gone

    def interrupt(self, boot_seconds: float = _BOOT_SECONDS) -> None:
        """End what runs, and get the raw REPL; nothing is reset.

        Args:
            boot_seconds: what boot.py is left to come to an end by itself; 0 for a board that has started.

        Raises FlashError if that does not succeed within INTERRUPT_SECONDS (BY_HAND_SECONDS).
        """
        deadline = time.monotonic() + (INTERRUPT_SECONDS if has_reset_lines(self.port) else BY_HAND_SECONDS)
        seen = self._read_until(b">>> ", boot_seconds)
        while time.monotonic() < deadline:
            # Each on its own: what runs may swallow one, and a board that is still starting loses them all.
            self._write(b"\r" + _INTERRUPT + _INTERRUPT)
            seen = self._read_until(b">>> ", 0.3)
            self._write(b"\r" + _RAW)
            seen = self._read_until(_PROMPT, 1.0)
            if seen.endswith(_PROMPT):
                return
        reason = "it prints something else" if seen.strip() else "it is silent"
        raise FlashError(
            f"MicroPython does not answer at {self.port}: {reason}",
            "press RESET; if it stays like that the image may not be the one for this board",
            BoardState.WITHOUT_KEY,
        )

    def run(self, program: str, seconds: float = 10.0) -> str:
        """Run a program; what it printed.

        Raises FlashError if it raised, with its exception's last line, or did not end within `seconds`.
        """
        self._send(program)
        if self._read_until(b"OK", 5.0)[-2:] != b"OK":
            raise self._broken("it does not take a program")
        printed = self._read_until(_END, seconds)
        failed = self._read_until(_END, 5.0) if printed.endswith(_END) else b""
        if not failed.endswith(_END):
            raise self._broken("a program did not end")
        self._read_until(b">", 5.0)
        if failed[:-1].strip():
            last = failed[:-1].decode(errors="replace").strip().splitlines()[-1]
            raise FlashError(f"the board at {self.port} says: {_printable(last)}", "", BoardState.WITHOUT_KEY)
        return printed[:-1].decode(errors="replace")

    def start(self, program: str) -> None:
        """Start a program that does not end by itself; what it prints is not waited for.

        Raises FlashError if the board does not take it.
        """
        self._send(program)
        if self._read_until(b"OK", 5.0)[-2:] != b"OK":
            raise self._broken("it does not take a program")

    def reset(self) -> None:
        """Start the board anew. Raises FlashError if the port does not take it."""
        self._send("import machine\nmachine.reset()\n")
        time.sleep(0.2)  # the last byte has to leave before the port is closed

    def _send(self, program: str) -> None:
        content = program.encode()
        for at in range(0, len(content), _CHUNK):
            self._write(content[at : at + _CHUNK])
            time.sleep(_CHUNK_SECONDS)
        self._write(_END)

    def _write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except OSError as error:  # pyserial's are such
            raise self._broken(str(error)) from None

    def _read_until(self, ending: bytes, seconds: float) -> bytes:
        """What came, up to and with `ending`, or all that came in `seconds`."""
        deadline = time.monotonic() + seconds
        data = bytearray()
        while not data.endswith(ending) and time.monotonic() < deadline:
            try:
                got = self._serial.read(1)
            except OSError as error:
                raise self._broken(str(error)) from None
            data += got
            if len(data) > MAX_OUTPUT:
                del data[: MAX_OUTPUT // 2]
        return bytes(data)

    def _broken(self, reason: str) -> FlashError:
        return FlashError(
            f"the board at {self.port} is not understood: {reason}",
            "check the cable, and see that no other program uses the port",
            BoardState.WITHOUT_KEY,
        )


def _printable(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable())[:200]
