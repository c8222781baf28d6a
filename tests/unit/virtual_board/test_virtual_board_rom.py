"""The bootloader's core: whatever the line brings."""

import hashlib
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.requirements import require_module

require_module("esp32_mock_bootloader")
from esptool.loader import ESPLoader  # noqa: E402

from lopower_hil.virtual_board.flash_memory import FlashMemory  # noqa: E402
from lopower_hil.virtual_board.rom import MAX_FRAME, SYNC_FRAME, RomBootloader  # noqa: E402

MAC = bytes.fromhex("240ac4010203")
COMMANDS = sorted(set(ESPLoader.ESP_CMDS.values()))


@pytest.fixture(scope="module")
def flash() -> Iterator[FlashMemory]:
    with tempfile.TemporaryDirectory() as directory:
        memory = FlashMemory(Path(directory, "flash"), 1 << 20)
        yield memory
        memory.close()


def frame(name: str, data: bytes = b"", checksum: int = 0) -> bytes:
    body = struct.pack("<BBHI", 0, ESPLoader.ESP_CMDS[name], len(data), checksum) + data
    return b"\xc0" + body.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def block(data: bytes, number: int = 0) -> tuple[bytes, int]:
    return struct.pack("<IIII", len(data), number, 0, 0) + data, ESPLoader.checksum(data)


def with_stub(flash: FlashMemory) -> RomBootloader:
    rom = RomBootloader("esp32", MAC, flash)
    assert rom.receive(frame("MEM_END", struct.pack("<II", 0, 0x40080000))).endswith(b"\xc0OHAI\xc0")
    return rom


def status(answer: bytes) -> int:
    """Of the first frame, as the stub writes it."""
    body = answer.split(b"\xc0")[1]
    return body[-2]


def test_sync_is_what_esptool_sends(flash: FlashMemory) -> None:
    assert frame("SYNC", b"\x07\x07\x12\x20" + 32 * b"\x55") == SYNC_FRAME
    rom = RomBootloader("esp32", MAC, flash)
    answers = [rom.receive(bytes([byte])) for byte in SYNC_FRAME]  # one byte at a time
    assert not any(answers[:-1])
    assert answers[-1].count(b"\x01\x08\x04\x00") == 8


@given(data=st.binary(max_size=300))
def test_any_bytes(flash: FlashMemory, data: bytes) -> None:
    rom = RomBootloader("esp32c3", MAC, flash)
    rom.receive(data)
    assert b"\x01\x08" in rom.receive(b"\xc0" + SYNC_FRAME)


@given(
    stub=st.booleans(),
    command=st.sampled_from(COMMANDS),
    data=st.one_of(
        st.binary(max_size=64),
        st.lists(st.sampled_from((0, 1, 64, 4096, 0x100000, 0xFFFFFFFF)), max_size=6).map(
            lambda words: b"".join(struct.pack("<I", word) for word in words)
        ),
    ),
    checksum=st.integers(0, 255),
)
def test_any_command(flash: FlashMemory, stub: bool, command: int, data: bytes, checksum: int) -> None:
    """It is answered, or ignored, and the next one is served; nothing outside of the flash is touched."""
    rom = with_stub(flash) if stub else RomBootloader("esp32s3", MAC, flash)
    body = struct.pack("<BBHI", 0, command, len(data), checksum) + data
    rom.receive(b"\xc0" + body.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0")
    rom.receive(b"\xc0garbage\xc0")  # ends a read of the flash, if it was that
    assert b"\x01\x08" in rom.receive(SYNC_FRAME)
    assert flash.path.stat().st_size == 1 << 20


def test_a_frame_without_end_is_forgotten(flash: FlashMemory) -> None:
    rom = RomBootloader("esp32", MAC, flash)
    for _ in range(MAX_FRAME // 4096 + 2):
        rom.receive(b"x" * 4096)
    assert b"\x01\x08" in rom.receive(b"\xc0" + SYNC_FRAME)


def test_more_than_was_announced_is_refused(flash: FlashMemory) -> None:
    """Also when it is compressed: a few bytes can mean megabytes."""
    rom = with_stub(flash)
    flash.erase(0x10000, 0x20000)
    bomb = zlib.compress(bytes(1 << 22), 9)
    rom.receive(frame("FLASH_DEFL_BEGIN", struct.pack("<IIII", 100, 1, 0x4000, 0x10000)))
    assert status(rom.receive(frame("FLASH_DEFL_DATA", *block(bomb)))) == 1
    assert flash.read(0x10000, 0x20000) == b"\xff" * 0x20000


def test_a_damaged_block_is_refused(flash: FlashMemory) -> None:
    rom = with_stub(flash)
    rom.receive(frame("FLASH_BEGIN", struct.pack("<IIII", 16, 1, 16, 0x30000)))
    data, checksum = block(b"sixteen bytes...")
    assert status(rom.receive(frame("FLASH_DATA", data, checksum ^ 1))) == 1
    assert flash.read(0x30000, 1) == b"\xff"
    assert status(rom.receive(frame("FLASH_DATA", data, checksum))) == 0
    assert flash.read(0x30000, 16) == b"sixteen bytes..."


def test_read_flash_waits_for_acknowledgements(flash: FlashMemory) -> None:
    rom = with_stub(flash)
    flash.erase(0x40000, 4096)
    flash.program(0x40000, bytes(range(1, 101)))
    answer = rom.receive(frame("READ_FLASH", struct.pack("<IIII", 0x40000, 100, 40, 1)))
    assert answer.endswith(b"\xc0" + bytes(range(1, 41)) + b"\xc0")
    assert rom.receive(b"\xc0" + struct.pack("<I", 40) + b"\xc0") == b"\xc0" + bytes(range(41, 81)) + b"\xc0"
    assert rom.receive(b"\xc0" + struct.pack("<I", 80) + b"\xc0") == b"\xc0" + bytes(range(81, 101)) + b"\xc0"
    digest = hashlib.md5(bytes(range(1, 101)), usedforsecurity=False).digest()
    end = rom.receive(b"\xc0" + struct.pack("<I", 100) + b"\xc0")
    assert end[1:-1].replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb") == digest


@pytest.mark.parametrize(("stay", "leaves"), [(0, True), (1, False)])
def test_end_of_writing_says_whether_to_start(flash: FlashMemory, stay: int, leaves: bool) -> None:
    rom = with_stub(flash)
    rom.receive(frame("FLASH_DEFL_END", struct.pack("<I", stay)))
    assert rom.leaving is leaves
