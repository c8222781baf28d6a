"""What the board and the MicroPython that runs on it have in common: a page of memory, mapped by both.

The interpreter reads it on each packet and each write to flash, so it is memory and no message. The layout is repeated
in shims/_board.py, which runs on MicroPython; a test holds the two together.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
from typing import Any, Final

SIZE: Final = 1 << 16
RTC_MEMORY_SIZE: Final = 2048
"""Bytes of `machine.RTC().memory()`, as on the ESP32."""

RTC_MEMORY_OFFSET: Final = 256
RADIO_OFFSET: Final = 4096
"""JSON: what the radio sees; `radio_length` bytes, whose every change counts `radio_generation` up."""

FIELDS: Final = (
    # offset, name, what uctypes calls the type
    (0, "origin", "UINT64"),  # nanoseconds of the host's clock at which the board's said 2000-01-01
    (8, "cut_after", "INT64"),  # bytes of flash that may still be erased or written before the power goes; -1: all
    (16, "sleep", "INT64"),  # milliseconds of deep sleep; -1: until a reset
    (24, "flash_size", "UINT32"),
    (28, "files_offset", "UINT32"),  # the region of the file system
    (32, "files_size", "UINT32"),
    (36, "frequency", "UINT32"),  # Hz
    (40, "watchdog", "UINT32"),  # milliseconds; 0: none is armed
    (44, "watchdog_feeds", "UINT32"),
    (48, "radio_generation", "UINT32"),
    (52, "radio_length", "UINT32"),
    (56, "delay", "UINT32"),  # microseconds that a packet takes on the air
    (60, "rate", "UINT32"),  # bytes per second on the air; 0: not limited
    (64, "loss", "UINT32"),  # packets out of a million that are lost
    (68, "phase", "UINT8"),  # of the program: see Phase
    (69, "reset_cause", "UINT8"),
    (70, "raw", "UINT8"),  # 1: a soft reset in the raw REPL, after which main.py does not run
    (71, "radio", "UINT8"),  # 0: off
    (72, "rtc_length", "UINT16"),
    (74, "chip", "UINT16"),  # the identifier in an image's header
    (76, "mac", "UINT8 * 6"),
)
_TYPES: Final[dict[str, Any]] = {
    "UINT64": ctypes.c_uint64,
    "INT64": ctypes.c_int64,
    "UINT32": ctypes.c_uint32,
    "UINT16": ctypes.c_uint16,
    "UINT8": ctypes.c_uint8,
    "UINT8 * 6": ctypes.c_uint8 * 6,
}


class Phase:
    """How far the interpreter has come."""

    LAUNCHING = 0
    RUNNING = 1
    """boot.py or main.py runs."""
    REPL = 2


class ResetCause:
    """As `machine.reset_cause()` says it."""

    POWER_ON = 1
    HARD = 2
    WATCHDOG = 3
    DEEP_SLEEP = 4
    SOFT = 5


class Wires:
    """The page, and its fields as attributes of `field`. `descriptor` is what the interpreter maps."""

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("virtual-board", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, SIZE)
        self._memory = mmap.mmap(self.descriptor, SIZE)
        self.field: Any = _Fields.from_buffer(self._memory)
        self.field.cut_after = -1

    def set_radio(self, description: dict[str, Any]) -> None:
        """Tell the interpreter what the radio sees. Raises ValueError if it is more than fits."""
        text = json.dumps(description).encode()
        if len(text) > SIZE - RADIO_OFFSET:
            raise ValueError("the radio cannot see so many access points")
        self._memory[RADIO_OFFSET : RADIO_OFFSET + len(text)] = text
        self.field.radio_length = len(text)
        self.field.radio_generation += 1

    def forget(self) -> None:
        """The power was cut: memory of the RTC and its clock are gone."""
        self._memory[RTC_MEMORY_OFFSET : RTC_MEMORY_OFFSET + RTC_MEMORY_SIZE] = bytes(RTC_MEMORY_SIZE)
        self.field.rtc_length = 0

    def spend(self, wanted: int) -> int:
        """How many of `wanted` bytes of flash are still erased or written before the power goes."""
        left: int = self.field.cut_after
        if left < 0:
            return wanted
        self.field.cut_after = max(0, left - wanted)
        return min(left, wanted)

    def close(self) -> None:
        """Give it back; again is harmless."""
        if self.descriptor >= 0:
            self.field = None
            self._memory.close()
            os.close(self.descriptor)
            self.descriptor = -1


class _Fields(ctypes.LittleEndianStructure):
    _pack_ = 1
    _fields_ = [(name, _TYPES[kind]) for _, name, kind in FIELDS]
