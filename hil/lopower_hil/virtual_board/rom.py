"""The bootloader in a chip's ROM, and the flasher stub that esptool loads over it, as a core without I/O.

Espressif's serial protocol (esptool's documentation, "Serial Protocol"): SLIP frames with a command of 8 bytes header,
answered by frames with its value and status. Registers (chip detection, MAC address, crystal, SPI peripheral) are those
of esp32-mock-bootloader, which takes them from esptool's own chip definitions.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

from esp32_mock_bootloader import protocol, server
from esptool.targets import CHIP_DEFS

from lopower_hil.virtual_board.flash_memory import SECTOR_SIZE, FlashMemory

MAX_FRAME: Final = 1 << 17
"""Garbage has no end of frame; esptool's largest command has 16 KB, doubled at most by escapes."""

MAX_REGISTERS: Final = 4096
"""Registers that a client may have written to; more are forgotten."""

MAX_READ_PACKET: Final = 1 << 16
MAX_READ_IN_FLIGHT: Final = 1 << 20

_END: Final = b"\xc0"
_SYNC_PAYLOAD: Final = b"\x07\x07\x12\x20" + b"\x55" * 32
SYNC_FRAME: Final = b"\xc0\x00\x08\x24\x00\x00\x00\x00\x00" + _SYNC_PAYLOAD + b"\xc0"
"""What esptool sends to find a bootloader, to the byte."""

_COMMANDS: Final[dict[str, int]] = protocol.CMD


class RomBootloader:
    """One stay in download mode, from reset to reset.

    Attributes:
        leaving: whether the host has asked to run what is in flash.
    """

    def __init__(self, chip: str, mac: bytes, flash: FlashMemory) -> None:
        """Args:
        chip: esptool's name for it ("esp32s3").
        mac: its base MAC address, 6 bytes.
        """
        self.leaving = False
        self._flash = flash
        self._buffer = bytearray()
        self._session: Any = server.ChipSession(chip)
        self._session.spi = _SpiPeripheral(flash.size)
        self._session.spi.configure_for_chip(chip)
        self._session.registers.update(_mac_registers(chip, mac))
        self._write = _Write(flash)
        self._read: _Read | None = None
        self._handlers: dict[int, Callable[[bytes], bytes]] = {
            _COMMANDS["SYNC"]: self._sync,
            _COMMANDS["READ_REG"]: lambda data: bytes(server.handle_read_reg(data, self._session)),
            _COMMANDS["WRITE_REG"]: self._write_register,
            _COMMANDS["GET_SECURITY_INFO"]: lambda _: bytes(server.handle_get_security_info(self._session)),
            _COMMANDS["MEM_BEGIN"]: lambda _: self._done("MEM_BEGIN"),
            _COMMANDS["MEM_DATA"]: lambda _: self._done("MEM_DATA"),
            _COMMANDS["MEM_END"]: self._memory_end,
            _COMMANDS["SPI_SET_PARAMS"]: lambda _: self._done("SPI_SET_PARAMS"),
            _COMMANDS["SPI_ATTACH"]: lambda _: self._done("SPI_ATTACH"),
            _COMMANDS["CHANGE_BAUDRATE"]: lambda _: self._done("CHANGE_BAUDRATE"),
            _COMMANDS["FLASH_BEGIN"]: lambda data: self._begin("FLASH_BEGIN", data, compressed=False),
            _COMMANDS["FLASH_DATA"]: lambda data: self._block("FLASH_DATA", data),
            _COMMANDS["FLASH_END"]: lambda data: self._finish("FLASH_END", data),
            _COMMANDS["FLASH_DEFL_BEGIN"]: lambda data: self._begin("FLASH_DEFL_BEGIN", data, compressed=True),
            _COMMANDS["FLASH_DEFL_DATA"]: lambda data: self._block("FLASH_DEFL_DATA", data),
            _COMMANDS["FLASH_DEFL_END"]: lambda data: self._finish("FLASH_DEFL_END", data),
            _COMMANDS["SPI_FLASH_MD5"]: self._md5,
            _COMMANDS["READ_FLASH_SLOW"]: self._read_slow,
        }
        self._stub_handlers: dict[int, Callable[[bytes], bytes]] = {
            _COMMANDS["ERASE_FLASH"]: self._erase_flash,
            _COMMANDS["ERASE_REGION"]: self._erase_region,
            _COMMANDS["READ_FLASH"]: self._read_begin,
            _COMMANDS["RUN_USER_CODE"]: self._run_user_code,
        }

    def receive(self, data: bytes) -> bytes:
        """What the host sent; what it is answered. Whatever is no command is ignored.

        Raises PowerCutError if the power went while the flash was written.
        """
        self._buffer += data
        answer = bytearray()
        while (end := self._buffer.find(_END)) >= 0:
            frame = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if frame:
                answer += self._frame(_unescape(frame))
        if len(self._buffer) > MAX_FRAME:
            self._buffer.clear()
        return bytes(answer)

    def _frame(self, frame: bytes) -> bytes:
        if self._read is not None:
            answer = self._read.acknowledge(frame)
            if self._read.done:
                self._read = None
            return answer
        if len(frame) < 8 or frame[0] != 0:
            return b""
        command = frame[1]
        size, checksum = struct.unpack_from("<HI", frame, 2)
        data = frame[8 : 8 + size]
        handler = self._handlers.get(command)
        if self._session.stub_active:
            handler = self._stub_handlers.get(command, handler)
        if handler is None or len(data) < size:
            return self._refuse(command)
        if not server.checksum_valid(command, checksum, data):
            return self._answer(
                command, status=1, error=0xC1 if self._session.stub_active else protocol.ROM_CHECKSUM_ERROR
            )
        try:
            return handler(data)
        except (struct.error, ValueError, zlib.error):  # too short, outside of the flash, not compressed
            return self._refuse(command)

    def _answer(self, command: int, *, value: int = 0, status: int = 0, error: int = 0) -> bytes:
        return bytes(server.make_response(command, value, status, error, stub=self._session.stub_active))

    def _done(self, name: str) -> bytes:
        return self._answer(_COMMANDS[name])

    def _refuse(self, command: int) -> bytes:
        error = protocol.STUB_UNIMPLEMENTED if self._session.stub_active else protocol.ROM_INVALID_MESSAGE
        return self._answer(command, status=1, error=error)

    def _sync(self, data: bytes) -> bytes:
        return bytes(server.make_sync_response(stub=self._session.stub_active)) * 8

    def _write_register(self, data: bytes) -> bytes:
        if len(self._session.registers) >= MAX_REGISTERS:
            raise ValueError("too many registers")
        return bytes(server.handle_write_reg(data, self._session))

    def _memory_end(self, data: bytes) -> bytes:
        stay, entry = struct.unpack_from("<II", data)
        answer = self._done("MEM_END")
        if not stay and entry:
            self._session.stub_active = True
            answer += _END + b"OHAI" + _END
        return answer

    def _begin(self, name: str, data: bytes, *, compressed: bool) -> bytes:
        size, _blocks, _block_size, offset = struct.unpack_from("<IIII", data)
        self._write.begin(offset, size, compressed=compressed)
        return self._done(name)

    def _block(self, name: str, data: bytes) -> bytes:
        self._write.block(bytes(protocol.data_command_payload(data)))
        return self._done(name)

    def _finish(self, name: str, data: bytes) -> bytes:
        (stay,) = struct.unpack_from("<I", data)
        if not stay:
            self.leaving = True
        return self._done(name)

    def _run_user_code(self, data: bytes) -> bytes:
        self.leaving = True
        return b""

    def _md5(self, data: bytes) -> bytes:
        offset, size = struct.unpack_from("<II", data)
        self._within(offset, size)
        digest = hashlib.md5(self._flash.read(offset, size), usedforsecurity=False)
        if self._session.stub_active:
            body = digest.digest() + bytes(2)
        else:
            body = digest.hexdigest().encode() + bytes(4)
        return _response(_COMMANDS["SPI_FLASH_MD5"], body)

    def _read_slow(self, data: bytes) -> bytes:
        offset, length = struct.unpack_from("<II", data)
        if self._session.stub_active or length > protocol.READ_FLASH_SLOW_BLOCK_LEN:
            raise ValueError("not in the stub")
        block = self._flash.read(offset, length).ljust(protocol.READ_FLASH_SLOW_BLOCK_LEN, b"\xff")
        return _response(_COMMANDS["READ_FLASH_SLOW"], block + bytes(4))

    def _erase_flash(self, data: bytes) -> bytes:
        self._flash.erase(0, self._flash.size)
        return self._done("ERASE_FLASH")

    def _erase_region(self, data: bytes) -> bytes:
        offset, size = struct.unpack_from("<II", data)
        self._within(offset, size)
        self._flash.erase(offset, size)
        return self._done("ERASE_REGION")

    def _read_begin(self, data: bytes) -> bytes:
        offset, size, packet, in_flight = struct.unpack_from("<IIII", data)
        self._within(offset, size)
        if not 0 < packet <= MAX_READ_PACKET or not 0 < in_flight * packet <= MAX_READ_IN_FLIGHT or not size:
            raise ValueError("packets of no such size")
        self._read = _Read(self._flash, offset, size, packet, in_flight)
        return self._done("READ_FLASH") + self._read.send()

    def _within(self, offset: int, size: int) -> None:
        if offset + size > self._flash.size:
            raise ValueError("outside of the flash")


class _Write:
    """Blocks as they come: each sector is erased when the first byte of it is written, as the stub does it."""

    def __init__(self, flash: FlashMemory) -> None:
        self._flash = flash
        self._offset = self._erased = self._end = 0
        self._stream: Any = None

    def begin(self, offset: int, size: int, *, compressed: bool) -> None:
        if offset + size > self._flash.size:
            raise ValueError("outside of the flash")
        self._offset = offset
        self._erased = offset // SECTOR_SIZE * SECTOR_SIZE
        self._end = -(-(offset + size) // SECTOR_SIZE) * SECTOR_SIZE
        self._stream = zlib.decompressobj() if compressed else None

    def block(self, data: bytes) -> None:
        if self._stream is not None:
            data = self._stream.decompress(data, self._end - self._offset + 1)
        elif len(data) > self._end - self._offset:  # the last block is padded
            padding = data[self._end - self._offset :]
            if padding.strip(b"\xff"):
                raise ValueError("more than was announced")
            data = data[: self._end - self._offset]
        if len(data) > self._end - self._offset:
            raise ValueError("more than was announced")
        view = memoryview(data)
        while view:
            if self._offset >= self._erased:
                self._flash.erase(self._erased, SECTOR_SIZE)
                self._erased += SECTOR_SIZE
            part = view[: self._erased - self._offset]
            self._flash.program(self._offset, bytes(part))
            self._offset += len(part)
            view = view[len(part) :]


class _Read:
    """The stub's READ_FLASH: packets in flight, each acknowledged by the number of bytes received, then the MD5."""

    def __init__(self, flash: FlashMemory, offset: int, size: int, packet: int, in_flight: int) -> None:
        self.done = False
        self._flash = flash
        self._offset = offset
        self._size = size
        self._packet = packet
        self._in_flight = in_flight
        self._sent = self._acknowledged = 0
        self._digest = hashlib.md5(usedforsecurity=False)

    def send(self) -> bytes:
        answer = bytearray()
        while self._sent < self._size and self._sent - self._acknowledged < self._in_flight * self._packet:
            part = self._flash.read(self._offset + self._sent, min(self._packet, self._size - self._sent))
            self._digest.update(part)
            self._sent += len(part)
            answer += server.slip_encode(part)
        return bytes(answer)

    def acknowledge(self, frame: bytes) -> bytes:
        """Anything that is no acknowledgement ends it: the host has given up."""
        received = int.from_bytes(frame, "little")
        if len(frame) != 4 or not self._acknowledged <= received <= self._sent:
            self.done = True
            return b""
        self._acknowledged = received
        if received == self._size:
            self.done = True
            return bytes(server.slip_encode(self._digest.digest()))
        return self.send()


class _SpiPeripheral(server.SpiPeripheralMock):  # type: ignore[misc]
    """The mock's flash always has 4 MB; this one says its own size (JEDEC: the third byte is its binary logarithm)."""

    def __init__(self, flash_size: int) -> None:
        super().__init__(None)
        self._identifier = (flash_size.bit_length() - 1) << 16 | 0x4020

    def read_reg(self, addr: int) -> int:
        value: int = super().read_reg(addr)
        return self._identifier if value == protocol.MOCK_FLASH_ID else value


def _mac_registers(chip: str, mac: bytes) -> dict[int, int]:
    """Where esptool's `read_mac` looks for it."""
    rom: Any = CHIP_DEFS[chip]
    low, high = int.from_bytes(mac[2:], "big"), int.from_bytes(mac[:2], "big")
    if chip == "esp32":
        return {rom.EFUSE_RD_REG_BASE + 4: low, rom.EFUSE_RD_REG_BASE + 8: high}
    return {rom.MAC_EFUSE_REG: low, rom.MAC_EFUSE_REG + 4: high}


def _response(command: int, body: bytes) -> bytes:
    return bytes(server.slip_encode(struct.pack("<BBHI", 1, command, len(body), 0) + body))


def _unescape(frame: bytes) -> bytes:
    return frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
