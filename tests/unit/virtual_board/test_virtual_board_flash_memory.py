"""NOR flash in a file."""

from pathlib import Path

import pytest

from lopower_hil.virtual_board.flash_memory import SECTOR_SIZE, FlashMemory, PowerCutError

MB = 1 << 20


def test_new_flash_is_erased_and_bits_only_fall(tmp_path: Path) -> None:
    flash = FlashMemory(tmp_path / "flash", MB)
    assert flash.read(0, MB) == b"\xff" * MB
    flash.program(100, b"\xf0\x0f")
    flash.program(100, b"\x3c\xff")
    assert flash.read(99, 4) == b"\xff\x30\x0f\xff"
    flash.erase(101, 1)
    assert flash.read(0, SECTOR_SIZE) == b"\xff" * SECTOR_SIZE
    flash.close()
    assert (tmp_path / "flash").stat().st_size == MB


def test_it_stays_and_belongs_to_one_board(tmp_path: Path) -> None:
    flash = FlashMemory(tmp_path / "flash", MB)
    flash.program(5000, b"kept")
    with pytest.raises(ValueError, match="board that runs"):
        FlashMemory(tmp_path / "flash", MB)
    flash.close()
    again = FlashMemory(tmp_path / "flash", MB)
    assert again.read(5000, 4) == b"kept"
    again.close()


def test_sizes_and_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no flash has 3000000 bytes"):
        FlashMemory(tmp_path / "flash", 3_000_000)
    assert not (tmp_path / "flash").exists()
    flash = FlashMemory(tmp_path / "flash", MB)
    assert flash.read(MB - 3, 100) == b"\xff" * 3
    assert flash.read(MB + 5, 100) == b""
    with pytest.raises(ValueError, match="outside"):
        flash.program(MB - 1, b"ab")
    with pytest.raises(ValueError, match="outside"):
        flash.erase(MB, 1)
    flash.close()
    with pytest.raises(ValueError, match="has 1048576 bytes, and the flash 2097152"):
        FlashMemory(tmp_path / "flash", 2 * MB)


@pytest.mark.parametrize("allowed", [0, 1, 4095, 4096, 5000])
def test_power_goes_while_it_is_written(tmp_path: Path, allowed: int) -> None:
    """What was written before is there, the rest is as it was."""
    left = [1 << 30]

    def spend(wanted: int) -> int:
        granted = min(left[0], wanted)
        left[0] -= granted
        return granted

    flash = FlashMemory(tmp_path / "flash", MB, allowance=spend)
    flash.program(0, b"\x55" * 8192)
    left[0] = allowed
    with pytest.raises(PowerCutError):
        flash.erase(0, 8192)
    erased = min(allowed, 8192)
    assert flash.read(0, 8192) == b"\xff" * erased + b"\x55" * (8192 - erased)
    left[0] = allowed
    with pytest.raises(PowerCutError):
        flash.program(16384, b"\x11" * 6000)
    assert flash.read(16384, 6000) == b"\x11" * allowed + b"\xff" * (6000 - allowed)
    flash.close()
