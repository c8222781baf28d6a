"""The board under this interpreter: the page of memory shared with it, its flash, and how to ask it for something.

The layout is that of lopower_hil.virtual_board.wires.
"""

import json
import os
import sys
import time as _time

import uctypes

RTC_MEMORY_OFFSET = 256
RTC_MEMORY_SIZE = 2048
RADIO_OFFSET = 4096
EPOCH = 946_684_800
"""Seconds from 1970 to 2000."""

_address = int(os.getenv("BOARD_WIRES"))
wires = uctypes.struct(
    _address,
    {
        "origin": 0 | uctypes.UINT64,
        "cut_after": 8 | uctypes.INT64,
        "sleep": 16 | uctypes.INT64,
        "flash_size": 24 | uctypes.UINT32,
        "files_offset": 28 | uctypes.UINT32,
        "files_size": 32 | uctypes.UINT32,
        "frequency": 36 | uctypes.UINT32,
        "watchdog": 40 | uctypes.UINT32,
        "watchdog_feeds": 44 | uctypes.UINT32,
        "radio_generation": 48 | uctypes.UINT32,
        "radio_length": 52 | uctypes.UINT32,
        "delay": 56 | uctypes.UINT32,
        "rate": 60 | uctypes.UINT32,
        "loss": 64 | uctypes.UINT32,
        "phase": 68 | uctypes.UINT8,
        "reset_cause": 69 | uctypes.UINT8,
        "raw": 70 | uctypes.UINT8,
        "radio": 71 | uctypes.UINT8,
        "rtc_length": 72 | uctypes.UINT16,
        "chip": 74 | uctypes.UINT16,
    },
    uctypes.LITTLE_ENDIAN,
)
mac = uctypes.bytes_at(_address + 76, 6)
rtc_memory = uctypes.bytearray_at(_address + RTC_MEMORY_OFFSET, RTC_MEMORY_SIZE)
stdout = sys.stdout.buffer
_flash = open(int(os.getenv("BOARD_FLASH")), "r+b")
pulses = open(int(os.getenv("BOARD_PULSES")), "wb")
_host_time_ns = _time.time_ns

BLOCK_SIZE = 4096


def message(kind, content):
    """To the board, among what is printed."""
    stdout.write(b"\x1e\x1fVB" + kind + len(content).to_bytes(2, "little") + content)


def ask(request):
    """What ends this program: the board does it. Does not return."""
    message(b"R", request)
    while True:
        try:
            _time.sleep(1)
        except KeyboardInterrupt:
            pass


def radio():
    """What the radio sees, as the board describes it."""
    return json.loads(uctypes.bytes_at(_address + RADIO_OFFSET, wires.radio_length))


def clock_ns():
    """Nanoseconds since 2000-01-01 by the board's clock."""
    return _host_time_ns() - wires.origin


def set_clock_ns(value):
    """Set the board's clock."""
    wires.origin = _host_time_ns() - value


def flash_read(offset, buffer):
    """Fill `buffer` from the flash."""
    _flash.seek(offset)
    _flash.readinto(buffer)


def flash_write(offset, data):
    """Write to flash that is erased, up to where the power goes."""
    left = wires.cut_after
    if 0 <= left < len(data):
        _write(offset, memoryview(data)[:left])
        wires.cut_after = 0
        ask(b"cut")
    if left > 0:
        wires.cut_after = left - len(data)
    _write(offset, data)


def flash_erase(offset):
    """Erase one block."""
    flash_write(offset, b"\xff" * BLOCK_SIZE)


def _write(offset, data):
    _flash.seek(offset)
    _flash.write(data)


class Region:
    """A part of the flash as a block device."""

    def __init__(self, offset, size):
        self._offset = offset
        self._blocks = size // BLOCK_SIZE

    def readblocks(self, number, buffer, offset=0):
        flash_read(self._offset + number * BLOCK_SIZE + offset, buffer)

    def writeblocks(self, number, buffer, offset=None):
        if offset is None:
            for block in range(len(buffer) // BLOCK_SIZE):
                flash_erase(self._offset + (number + block) * BLOCK_SIZE)
            offset = 0
        flash_write(self._offset + number * BLOCK_SIZE + offset, buffer)

    def ioctl(self, operation, argument):
        if operation == 4:
            return self._blocks
        if operation == 5:
            return BLOCK_SIZE
        if operation == 6:
            flash_erase(self._offset + argument * BLOCK_SIZE)
        return 0
