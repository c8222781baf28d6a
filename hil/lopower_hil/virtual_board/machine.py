"""What a board does: off, in the ROM's bootloader, running its program, asleep, or without a program to run.

    OFF --power--> reset --BOOT held, or control lines, or esptool's sync--> DOWNLOAD
                     |--flash holds a program for this chip--> RUNNING --deep sleep--> ASLEEP
                     '--otherwise--> NO_PROGRAM

It lives in the board's thread: the selector calls it, and nobody else does.
"""

from __future__ import annotations

import selectors
import time
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Final

from lopower_hil.virtual_board import boot_check, native_kernels
from lopower_hil.virtual_board.firmware import Firmware
from lopower_hil.virtual_board.flash_memory import FlashMemory, PowerCutError
from lopower_hil.virtual_board.line import Line
from lopower_hil.virtual_board.reset_lines import ResetLines
from lopower_hil.virtual_board.rom import SYNC_FRAME, RomBootloader
from lopower_hil.virtual_board.wires import ResetCause, Wires
from lopower_provisioning.chips import Chip

MAX_LOG: Final = 64 << 20
"""A program that prints without end must not fill the disk."""

MAX_COMPLAINTS: Final = 10
"""A real board without a program resets and complains for ever."""

_COMPLAIN_AGAIN: Final = 1.0
_LOOK_AGAIN: Final = 0.02
_WATCHDOG_LOOK: Final = 0.05
_FREQUENCY: Final = 160_000_000


class State(Enum):
    """What the board is doing."""

    OFF = "powered off"
    RESET = "held in reset"
    DOWNLOAD = "in the ROM's bootloader"
    RUNNING = "running its program"
    ASLEEP = "in deep sleep"
    NO_PROGRAM = "without a program"


class Machine:
    """One board between its line, its flash and its program."""

    line: Line

    def __init__(
        self,
        *,
        chip: Chip,
        mac: bytes,
        flash: FlashMemory,
        wires: Wires,
        heap: int,
        log: Path,
        selector: selectors.BaseSelector,
        reset_lines: ResetLines,
        has_control_lines: bool,
    ) -> None:
        self.state = State.OFF
        self._chip = chip
        self._mac = mac
        self._flash = flash
        self._wires = wires
        self._heap = heap
        self._selector = selector
        self._lines = reset_lines
        self._has_control_lines = has_control_lines
        self._boot_held = False
        self._rom: RomBootloader | None = None
        self._firmware: Firmware | None = None
        self._seen = b""
        self._complaints = 0
        self._log: BinaryIO = log.open("ab")
        self._logged = 0
        self._due: float | None = None
        self._watchdog: tuple[int, float] | None = None
        self._paused = False

    def close(self) -> None:
        """End the program."""
        self._stop(State.OFF)
        self._log.close()

    # What the user does.

    def power_on(self) -> None:
        """From cold: neither RTC memory nor clock have survived."""
        if self.state is State.OFF:
            self._wires.forget()
            self._wires.field.cut_after = -1
            self._reset_clock()
            self._begin(ResetCause.POWER_ON, download=self._boot_held)

    def power_off(self) -> None:
        """At once, whatever it is doing."""
        self._wires.forget()
        self._stop(State.OFF)

    def cut_after(self, flash_bytes: int) -> None:
        """Cut the power once so many more bytes of flash are erased or written."""
        if flash_bytes < 0:
            raise ValueError("a negative number of bytes")
        self._wires.field.cut_after = flash_bytes

    def press_reset(self) -> None:
        """EN low and high again."""
        if self.state is not State.OFF:
            self._enable(self._boot_held)

    def hold_boot(self, held: bool) -> None:
        """The BOOT button."""
        self._boot_held = held

    # What the line tells.

    def received(self, data: bytes) -> None:
        """Bytes from the host."""
        if self.state in (State.OFF, State.RESET):
            return
        if self._rom is not None:
            self._feed_rom(data)
            return
        if not self._has_control_lines:
            # A pty has no control lines: esptool's first command says what it would have done with them.
            self._seen = (self._seen + data)[-len(SYNC_FRAME) - len(data) :]
            at = self._seen.find(SYNC_FRAME)
            if at >= 0:
                rest = self._seen[at:]
                self._begin(ResetCause.POWER_ON, download=True)
                self._feed_rom(rest)
                return
            self._seen = self._seen[-len(SYNC_FRAME) :]
        if self._firmware is not None:
            self._firmware.write(data)

    def controlled(self, dtr: bool, rts: bool) -> None:
        """DTR and RTS."""
        started = self._lines.set(dtr, rts, time.monotonic())
        if self.state is State.OFF:
            return
        if self._lines.in_reset and self.state is not State.RESET:
            self._stop(State.RESET)
        if started is not None:
            self._enable(started or self._boot_held)

    def hung_up(self) -> None:
        """The host has closed the port. On a pty that is how esptool's reset at the end is seen."""
        if self.state is State.DOWNLOAD and not self._has_control_lines and not self._boot_held:
            self._enable(False)

    # What time brings.

    def next_timer(self) -> float | None:
        """When `handle_timer` has something to do."""
        timers = [self._due, self._lines.next_timer()]
        if self._firmware is not None:
            now = time.monotonic()
            if self._firmware.busy or self._paused:
                timers.append(now + _LOOK_AGAIN)
            timers.append(now + _WATCHDOG_LOOK)
        return min((timer for timer in timers if timer is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Whatever is due."""
        started = self._lines.handle_timer(now)
        if started is not None and self.state is State.RESET:
            self._enable(started or self._boot_held)
        if self._due is not None and now >= self._due:
            self._due = None
            if self.state is State.ASLEEP:
                self._begin(ResetCause.DEEP_SLEEP, download=False)
            elif self.state is State.NO_PROGRAM:
                self._complain()
        if self._firmware is not None:
            self._firmware.flush()
            if self._paused and not self.line.congested:
                self._paused = False
                self._selector.register(self._firmware.channel, selectors.EVENT_READ, self._printed)
            self._look_at_watchdog(now)

    # Inside.

    def _reset_clock(self) -> None:
        self._wires.field.origin = time.time_ns()
        self._wires.field.frequency = _FREQUENCY

    def _enable(self, download: bool) -> None:
        """EN rises. The ESP32 cannot tell it from power."""
        self._wires.forget()
        self._reset_clock()
        self._begin(ResetCause.POWER_ON, download=download)

    def _begin(self, cause: int, *, download: bool) -> None:
        """The chip starts."""
        self._stop(State.RESET)
        self._wires.field.reset_cause = cause
        self._wires.field.watchdog = 0
        self._seen = b""
        self._print(boot_check.banner(self._chip, cause, download=download))
        if download:
            self._rom = RomBootloader(_esptool_name(self._chip), self._mac, self._flash)
            self.state = State.DOWNLOAD
            native_kernels.prepare()
            return
        self._complaints = 0
        self._start(raw=False)

    def _start(self, *, raw: bool) -> None:
        """What the flash holds, if it holds something."""
        verdict = boot_check.check(self._flash, self._chip)
        if verdict.files is None:
            self.state = State.NO_PROGRAM
            self._complain_with(verdict.printed)
            return
        self._wires.field.files_offset = verdict.files.offset
        self._wires.field.files_size = verdict.files.size
        native = native_kernels.directory() if native_kernels.are_in(self._flash, verdict.files) else None
        self._firmware = Firmware(self._wires, self._flash.path, heap=self._heap, raw=raw, native=native)
        self._selector.register(self._firmware.channel, selectors.EVENT_READ, self._printed)
        self.state = State.RUNNING

    def _complain_with(self, text: bytes) -> None:
        self._print(text)
        self._complaint = text
        self._complaints += 1
        self._due = time.monotonic() + _COMPLAIN_AGAIN if self._complaints < MAX_COMPLAINTS else None

    def _complain(self) -> None:
        self._print(boot_check.banner(self._chip, ResetCause.WATCHDOG, download=False))
        self._complain_with(self._complaint)

    def _stop(self, state: State) -> None:
        """Nothing runs any more."""
        self._end_firmware()
        self._rom = None
        self._due = None
        self.state = state

    def _end_firmware(self) -> None:
        if self._firmware is not None:
            if not self._paused:
                self._selector.unregister(self._firmware.channel)
            self._paused = False
            self._firmware.kill()
            self._firmware = None
        self._watchdog = None

    def _feed_rom(self, data: bytes) -> None:
        rom = self._rom
        assert rom is not None
        try:
            self.line.write(rom.receive(data))
        except PowerCutError:
            self.power_off()
            return
        if self._rom is rom and rom.leaving:  # else what was written has reset the board
            self._enable(False)

    def _printed(self, events: int) -> None:
        """The program has printed, asked for something, or ended."""
        firmware = self._firmware
        assert firmware is not None
        data = firmware.read()
        if data is None:
            self._soft_reset(firmware)
            return
        if data:
            self._print(data)
        for request in firmware.requests:
            self._asked(request)
            return
        if self.line.congested:
            self._selector.unregister(firmware.channel)
            self._paused = True

    def _asked(self, request: str) -> None:
        if request == "reset":
            self._begin(ResetCause.HARD, download=False)
        elif request == "bootloader":
            self._begin(ResetCause.HARD, download=True)
        elif request == "soft reset" and self._firmware is not None:
            self._soft_reset(self._firmware)
        elif request == "cut":
            self.power_off()
        elif request == "sleep":
            milliseconds: int = self._wires.field.sleep
            self._stop(State.ASLEEP)
            if milliseconds >= 0:
                self._due = time.monotonic() + milliseconds / 1000

    def _soft_reset(self, firmware: Firmware) -> None:
        raw = firmware.raw
        self._end_firmware()
        self._print(b"MPY: soft reboot\r\n")
        self._wires.field.reset_cause = ResetCause.SOFT
        self._start(raw=raw)

    def _look_at_watchdog(self, now: float) -> None:
        wires: Any = self._wires.field
        if not wires.watchdog:
            self._watchdog = None
        elif self._watchdog is None or self._watchdog[0] != wires.watchdog_feeds:
            self._watchdog = (wires.watchdog_feeds, now)
        elif now - self._watchdog[1] > wires.watchdog / 1000:
            self._begin(ResetCause.WATCHDOG, download=False)

    def _print(self, data: bytes) -> None:
        self.line.write(data)
        if self._logged < MAX_LOG:
            self._logged += len(data)
            self._log.write(data)
            self._log.flush()


def _esptool_name(chip: Chip) -> str:
    return chip.name.lower().replace("-", "")
