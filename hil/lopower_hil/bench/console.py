"""A board's serial console: one reader for all that it prints, with a log that tests look into.

The port is held open as long as the console is, so that nothing which the board prints is missed. Who needs the port
alone, as esptool does, has it `released`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.recorder import Heard
from lopower_provisioning.ports import open_line

MAX_KEPT: Final = 4 << 20
"""Bytes of the log in memory; of a board that prints more the oldest are forgotten."""

OPEN_SECONDS: Final = 10.0
"""A chip's own USB leaves and comes back when the board is reset."""

MAX_LINE: Final = 4096
"""Bytes after which a line is told although it has not ended."""

_POLL: Final = 0.05
_RETRY: Final = 0.2


class Console:
    """The console at a port.

    Args:
        port: as pyserial takes it: a device, or an rfc2217:// or socket:// address.
        heard: is told each line.
    """

    def __init__(self, port: str, heard: Heard) -> None:
        self.port = port
        self._heard = heard
        self._changed = threading.Condition()
        self._kept = bytearray()
        self._forgotten = 0
        self._line = b""
        self._serial: Any = None
        self._thread: threading.Thread | None = None
        self._closing = False

    def open(self) -> None:
        """Begin to listen. Raises BenchError if the port does not open within ten seconds."""
        if self._thread is not None:
            return
        self._closing = False
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                self._serial = open_line(self.port)
                break
            except (OSError, ValueError) as error:  # pyserial's are OSErrors
                if isinstance(error, ValueError) or time.monotonic() > deadline:
                    raise BenchError(f"the port {self.port} does not open: {error}") from None
                time.sleep(_RETRY)
        self._thread = threading.Thread(target=self._listen, name=f"console {self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give the port back; the board runs on. What was heard stays."""
        if self._thread is None:
            return
        self._closing = True
        self._thread.join()
        self._thread = None
        self._shut()

    @contextmanager
    def released(self) -> Iterator[None]:
        """The port is somebody else's meanwhile."""
        self.close()
        try:
            yield
        finally:
            self.open()

    @property
    def position(self) -> int:
        """How many bytes have been heard."""
        with self._changed:
            return self._forgotten + len(self._kept)

    def text(self, since: int = 0) -> str:
        """What was heard from a position on."""
        return self._bytes(since).decode(errors="replace")

    def wait_for(self, text: str, timeout: float, since: int = 0) -> str:
        """Wait until `text` has been printed; all from `since` on.

        Raises BenchError, with the end of what was printed instead, after `timeout` seconds.
        """
        wanted = text.encode()
        deadline = time.monotonic() + timeout
        with self._changed:
            while wanted not in self._kept[max(0, since - self._forgotten) :]:
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            else:
                return self.text(since)
        raise BenchError(
            f"the board at {self.port} did not print {text!r} within {timeout:g} s, but: {self.text(since)[-2000:]!r}"
        )

    def tap(self, since: int) -> Tap:
        """The line for somebody who speaks to the board, and reads what it printed from a position on."""
        return Tap(self, since)

    def write(self, data: bytes) -> None:
        """Send. Raises OSError while the port is gone."""
        port = self._serial
        if port is None:
            raise OSError(f"{self.port} is not there now")
        port.write(data)

    def read_from(self, position: int, size: int) -> bytes:
        """Up to `size` bytes that lie at a position, or that come there within a moment."""
        with self._changed:
            if position >= self._forgotten + len(self._kept):
                self._changed.wait(_POLL)
            start = max(0, position - self._forgotten)
            return bytes(self._kept[start : start + size])

    def _bytes(self, since: int) -> bytes:
        with self._changed:
            return bytes(self._kept[max(0, since - self._forgotten) :])

    def _listen(self) -> None:
        """Runs in the thread: read, and wait for a port that went away with the board's power."""
        while not self._closing:
            try:
                if self._serial is None:
                    self._serial = open_line(self.port)
                data = self._serial.read(max(1, self._serial.in_waiting))
            except (OSError, TypeError, ValueError):  # the last two: pyserial, of a port closed under its feet
                self._shut()
                time.sleep(_RETRY)
                continue
            if data:
                self._take(data)

    def _take(self, data: bytes) -> None:
        with self._changed:
            self._kept += data
            surplus = len(self._kept) - MAX_KEPT
            if surplus > 0:
                del self._kept[:surplus]
                self._forgotten += surplus
            self._changed.notify_all()
        *lines, self._line = (self._line + data).split(b"\n")
        if len(self._line) > MAX_LINE:
            lines.append(self._line)
            self._line = b""
        for line in lines:
            self._heard(line.decode(errors="replace").rstrip("\r"))

    def _shut(self) -> None:
        port, self._serial = self._serial, None
        try:
            if port is not None:
                port.close()
        except OSError:  # it is gone: there is nothing to give back
            pass


class Tap:
    """A console's line, as lopower_provisioning.repl.Line has it."""

    def __init__(self, console: Console, since: int) -> None:
        self._console = console
        self._position = since

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes."""
        data = self._console.read_from(self._position, size)
        self._position += len(data)
        return data

    def write(self, data: bytes, /) -> None:
        """All of it. Raises OSError while the port is gone."""
        self._console.write(data)

    def close(self) -> None:
        """The console stays open."""
