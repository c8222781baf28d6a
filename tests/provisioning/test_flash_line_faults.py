"""The line fails at each command of the flasher: what it says of the board is true, and the next try succeeds."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lopower_hil.virtual_board.board import Board
from lopower_provisioning import chips, contents, filesystem, flasher, images
from lopower_provisioning.errors import BoardState, FlashError
from tests.provisioning.conftest import BoardMaker
from tests.support.faulty_line import Fault, faulty_line
from tests.support.stock_images import stock_image

IMAGE = images.parse(stock_image(chips.CHIPS[0], size=40_000))
FLASH_DATA = 0x11
AT_ONCE = 8


def flash(port: str) -> BoardState:
    """All that `lopower flash` does with the bootloader; what state it says the board is in."""
    state = BoardState.UNTOUCHED
    try:
        with flasher.connect(port) as board:
            try:
                contents.identify(board)
                region = IMAGE.filesystem(board.flash_size)
                files = filesystem.pieces(filesystem.littlefs({"main.py": b"pass\n"}, region.size), region)
                board.write([(0x1000, IMAGE.content), *files])
                board.restart()
            finally:
                state = board.state
    except FlashError as error:
        if error.state is not state or not error.hint:
            raise  # nothing else is a fault told well
    return state


def holds(board: Board) -> bool:
    content = board.flash_file.read_bytes()
    return content[0x1000:].startswith(IMAGE.content) and b"littlefs" in content[0x200000:0x200100]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the bootloader does not answer at once it will not answer."""
    from esptool import loader

    for name in ("DEFAULT_TIMEOUT", "MD5_TIMEOUT_PER_MB", "ERASE_WRITE_TIMEOUT_PER_MB"):
        monkeypatch.setattr(loader, name, 0.7)
    for function in vars(loader.ESPLoader).values():
        if getattr(function, "__defaults__", None):
            short = tuple(
                0.7 if value == 3 and isinstance(value, int | float) else value for value in function.__defaults__
            )
            monkeypatch.setattr(function, "__defaults__", short)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("fault", [Fault.CUT, Fault.SILENCE, Fault.REFUSAL, Fault.WRONG])
def test_each_command(make_board: BoardMaker, tmp_path: Path, fault: Fault) -> None:
    board = make_board("known")
    with faulty_line(board.port, Fault.NONE) as line:
        assert flash(line.port) is BoardState.WRITTEN
        sent = line.commands
    assert holds(board)
    assert {0x08, 0x0A, 0x05, 0x07, 0x06, 0x0F, 0xD2, 0x10, FLASH_DATA, 0x13} <= set(sent)
    places = [(command, 0) for command in sorted(set(sent))]
    places += [(FLASH_DATA, sent.count(FLASH_DATA) // 2), (0x13, sent.count(0x13) - 1)]
    boards = [make_board(f"{fault.value}-{number}") for number in range(len(places))]

    def strike(number: int) -> tuple[BoardState, bool]:
        command, occurrence = places[number]
        blank = hashlib.sha256(boards[number].flash_file.read_bytes()).digest()
        with faulty_line(boards[number].port, fault, command, occurrence) as line:
            state = flash(line.port)
        after = hashlib.sha256(boards[number].flash_file.read_bytes()).digest()
        return state, after == blank

    with ThreadPoolExecutor(AT_ONCE) as pool:
        struck = list(pool.map(strike, range(len(places))))
        for place, (state, untouched), made in zip(places, struck, boards, strict=True):
            if state is BoardState.UNTOUCHED:
                assert untouched, place
            elif state is BoardState.WRITTEN:
                assert holds(made), place
        assert {state for state, _ in struck} >= {BoardState.UNTOUCHED, BoardState.INCOMPLETE}
        for made in boards:
            made.cut_power()
            made.power_on()
        again = list(pool.map(lambda made: flash(made.port), boards))
    assert again == [BoardState.WRITTEN] * len(boards)
    assert all(map(holds, boards))
