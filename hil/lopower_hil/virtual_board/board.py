"""A board without hardware: power, reset, ROM, program, radio, in a thread of its own.

    with Board(BoardConfig(chip="ESP32", directory=Path("board"))) as board:
        print(board.port)            # for esptool, mpremote, lopower flash
        board.cut_power(); board.power_on()
        board.radio(on=False)

All methods may be called from any thread, and return when what they ask for is done.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar

from lopower_hil.virtual_board import boot_check, firmware
from lopower_hil.virtual_board.flash_memory import FlashMemory
from lopower_hil.virtual_board.line import Line, PtyLine, Rfc2217Line
from lopower_hil.virtual_board.machine import Machine, State
from lopower_hil.virtual_board.radio import AccessPoint, describe
from lopower_hil.virtual_board.reset_lines import AutoReset, UsbSerialJtag
from lopower_hil.virtual_board.wires import Wires
from lopower_provisioning import chips

DEFAULT_HEAP: Final = 384 << 10
"""Bytes. Stock MicroPython on an ESP32 has about 160 KB; objects take twice that on a 64-bit machine, and the board's
own modules, which lie in the real board's firmware, about 60 KB."""

CALL_SECONDS: Final = 120.0
"""The first start of a board with lopower on it compiles the kernels for this machine, which may be busy."""

_log: Final = logging.getLogger("lopower.virtual_board")
T = TypeVar("T")


class BoardError(Exception):
    """The board cannot be made, or used so. The text says why."""


@dataclass(frozen=True, slots=True)
class BoardConfig:
    """What board it is.

    Attributes:
        directory: where its flash (flash.bin) and its serial log (serial.log) are; made if missing.
        chip: "ESP32", "ESP32-S2", "ESP32-S3", "ESP32-C3" or "ESP32-C6".
        flash_size: bytes.
        mac: None for one that is made from the directory's path.
        rfc2217: True for a TCP port with DTR and RTS, else a pty.
        tcp_port: for RFC 2217; 0 for a free one.
        usb: the control lines are those of the chip's own USB port, and not of an auto-reset circuit.
        heap: bytes for the program.
        access_points: what the radio hears at first.
        join_ms: milliseconds from connecting to an address.
    """

    directory: Path
    chip: str = "ESP32"
    flash_size: int = 4 << 20
    mac: bytes | None = None
    rfc2217: bool = False
    tcp_port: int = 0
    usb: bool = False
    heap: int = DEFAULT_HEAP
    access_points: Sequence[AccessPoint] = field(default=(AccessPoint("virtual"),))
    join_ms: int = 200


class Board:
    """One board; a context manager that starts and stops it, with its power on.

    Attributes:
        port: what esptool, mpremote and `lopower flash` connect to.
        mac: its base MAC address.
        flash_file, serial_log: paths.

    Raises BoardError if it cannot be made.
    """

    port: str

    def __init__(self, config: BoardConfig) -> None:
        chip = chips.by_name(config.chip)
        if chip is None or chip.name not in boot_check.ROM_NAMES:
            raise BoardError(f"there is no virtual board with the chip {config.chip}")
        self.config = config
        self.chip = chip
        self.flash_file = config.directory / "flash.bin"
        self.serial_log = config.directory / "serial.log"
        self.mac = config.mac or _mac_of(config.directory)
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._access_points = tuple(config.access_points)
        self._thread: threading.Thread | None = None
        self._stopping = False

    def __enter__(self) -> Board:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the port, and switch the power on. Raises BoardError."""
        if self._thread is not None:
            raise BoardError("the board has been started")
        if firmware.library() is None:
            raise BoardError("MicroPython is not installed: pip install 'lopower[hil]'")
        with ExitStack() as stack:
            try:
                self._make(stack)
            except (ValueError, OSError) as error:
                raise BoardError(f"the board cannot be made: {error}") from None
            self._parts = stack.pop_all()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"board {self.port}", daemon=True)
        self._thread.start()
        self.power_on()

    def _make(self, stack: ExitStack) -> None:
        """Everything that `stop` closes, in the reverse order."""
        config = self.config
        config.directory.mkdir(parents=True, exist_ok=True)
        self._wires = stack.enter_context(closing(Wires()))
        flash = stack.enter_context(
            closing(FlashMemory(self.flash_file, config.flash_size, allowance=self._wires.spend))
        )
        self._wires.field.chip = self.chip.image_id
        self._wires.field.mac[:] = list(self.mac)
        self._wires.field.flash_size = config.flash_size
        self._wires.field.radio = 1
        self._wires.set_radio(describe(self._access_points, config.join_ms))
        selector = self._selector = stack.enter_context(closing(selectors.DefaultSelector()))
        self._wake, woken = socket.socketpair()
        for end in (self._wake, woken):
            end.setblocking(False)
            stack.enter_context(end)
        selector.register(woken, selectors.EVENT_READ, lambda _: woken.recv(4096))
        self._machine = Machine(
            chip=self.chip,
            mac=self.mac,
            flash=flash,
            wires=self._wires,
            heap=config.heap,
            log=self.serial_log,
            selector=selector,
            reset_lines=UsbSerialJtag() if config.usb else AutoReset(),
            has_control_lines=config.rfc2217,
        )
        stack.enter_context(closing(self._machine))
        line: Line = (
            Rfc2217Line(self._machine, selector, port=config.tcp_port)
            if config.rfc2217
            else PtyLine(self._machine, selector)
        )
        self._machine.line = stack.enter_context(closing(line))
        self.port = line.url

    def stop(self) -> None:
        """End the program and take the port away; again is harmless."""
        if self._thread is None:
            return
        self._stopping = True
        self._interrupt()
        self._thread.join()
        self._thread = None
        self._parts.close()

    @property
    def state(self) -> State:
        """What the board is doing."""
        return self._machine.state

    def power_on(self) -> None:
        """Give it power; it starts as from cold. Without effect if it has."""
        self._call(self._machine.power_on)

    def cut_power(self, after_flash_bytes: int | None = None) -> None:
        """Take the power away: now, or while the flash is written, after so many more bytes are erased or written."""
        if after_flash_bytes is None:
            self._call(self._machine.power_off)
        else:
            self._call(lambda: self._machine.cut_after(after_flash_bytes))

    power_off = cut_power

    def press_reset(self) -> None:
        """Press and release EN."""
        self._call(self._machine.press_reset)

    def hold_boot(self, held: bool = True) -> None:
        """Hold or release BOOT: a reset while it is held leads into the ROM's bootloader."""
        self._call(lambda: self._machine.hold_boot(held))

    def radio(self, on: bool) -> None:
        """Switch the radio's surroundings off and on: as if the board stood in a metal box, or not."""
        self._call(lambda: setattr(self._wires.field, "radio", int(on)))

    def slow_radio(self, *, delay: float = 0.0, bytes_per_second: int = 0, loss: float = 0.0) -> None:
        """How the air is; without arguments as good as the host's network.

        Args:
            delay: seconds that each packet takes, 0 to 60.
            bytes_per_second: 0 for no limit.
            loss: part of the datagrams that is lost, 0 to 1.

        Raises ValueError.
        """
        if not (0 <= delay <= 60 and 0 <= bytes_per_second < 1 << 32 and 0 <= loss <= 1):
            raise ValueError("delay: 0 to 60 s; loss: 0 to 1")

        def change() -> None:
            wires = self._wires.field
            wires.delay, wires.rate, wires.loss = round(delay * 1e6), bytes_per_second, round(loss * 1e6)

        self._call(change)

    @property
    def access_points(self) -> tuple[AccessPoint, ...]:
        """The networks in reach."""
        return self._access_points

    def set_access_points(self, points: Sequence[AccessPoint]) -> None:
        """Change the networks in reach; a board that had joined another one loses it. Raises ValueError."""
        description = describe(points, self.config.join_ms)
        self._call(lambda: self._wires.set_radio(description))
        self._access_points = tuple(points)

    def serial_text(self) -> str:
        """All that the board has printed since the log was begun."""
        try:
            return self.serial_log.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for(self, text: str, timeout: float = 30.0, *, since: int = 0) -> str:
        """Wait until the board has printed `text`; all that it printed.

        Args:
            timeout: seconds.
            since: how many characters of the log were there before.

        Raises BoardError with the end of the log if it does not.
        """
        deadline = time.monotonic() + timeout
        while text not in (printed := self.serial_text()[since:]):
            if time.monotonic() > deadline:
                raise BoardError(f"the board did not print {text!r} within {timeout:g} s, but: {printed[-2000:]!r}")
            time.sleep(0.02)
        return printed

    def _call(self, action: Callable[[], T]) -> T:
        """Run it in the board's thread."""
        if self._thread is None:
            raise BoardError("the board has not been started")
        if threading.current_thread() is self._thread:
            return action()
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except Exception as error:
                future.set_exception(error)

        self._calls.put(run)
        self._interrupt()
        return future.result(CALL_SECONDS)

    def _interrupt(self) -> None:
        try:
            self._wake.send(b"\0")
        except BlockingIOError:  # it is awake
            pass

    def _run(self) -> None:
        while not self._stopping:
            timer = self._machine.next_timer()
            wait = None if timer is None else max(0.0, timer - time.monotonic())
            for key, events in self._selector.select(wait):
                self._guarded(partial(key.data, events))
            while not self._calls.empty():
                self._calls.get()()
            self._guarded(lambda: self._machine.handle_timer(time.monotonic()))

    def _guarded(self, action: Callable[[], None]) -> None:
        """A fault of ours ends no board: the user would have to guess why the port is silent."""
        try:
            action()
        except Exception:
            _log.exception("a fault of the virtual board at %s", self.port)


def _mac_of(directory: Path) -> bytes:
    """The same for a board in the same place; the first three bytes are Espressif's."""
    return b"\x24\x0a\xc4" + hashlib.sha256(str(directory.resolve()).encode()).digest()[:3]


__all__ = ["AccessPoint", "Board", "BoardConfig", "BoardError", "State"]
