"""What a board holds, whatever that is."""

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower_provisioning import chips, contents, filesystem
from lopower_provisioning.contents import Contents, Kind
from lopower_provisioning.partitions import Region
from tests.support.stock_images import stock_image

ESP32 = chips.CHIPS[0]
REGION = Region(0x200000, 0x200000)
IMAGE = stock_image(ESP32, size=20_000)


@dataclass
class Flash:
    """What `identify` needs of a board."""

    content: bytearray
    chip: chips.Chip = ESP32
    flash_size: int = 4 << 20
    reads: int = 0

    def read(self, offset: int, size: int) -> bytes:
        self.reads += 1
        assert offset + size <= self.flash_size
        return bytes(self.content[offset : offset + size])


def flash(*parts: tuple[int, bytes]) -> Flash:
    content = bytearray(b"\xff" * (4 << 20))
    for offset, part in parts:
        content[offset : offset + len(part)] = part
    return Flash(content)


def identify(board: Flash) -> Contents:
    return contents.identify(board)  # type: ignore[arg-type]


def files(more: dict[str, bytes]) -> tuple[int, bytes]:
    return REGION.offset, filesystem.littlefs(more, REGION.size)


def test_each_kind() -> None:
    assert identify(flash()) == Contents(Kind.BLANK)
    assert identify(flash((0x1000, IMAGE))) == Contents(Kind.MICROPYTHON, "micropython v1.28.0")
    assert identify(flash((0x1000, b"\xe9 something else"))) == Contents(Kind.UNKNOWN)
    assert identify(flash((0x1000, IMAGE), files({"main.py": b"mine"}))).kind is Kind.MICROPYTHON
    ours = files({"boot.py": b"", "lopower.json": b'{"hostname": "Kitchen"}', "lopower_a/x": b"y"})
    assert identify(flash((0x1000, IMAGE), ours)) == Contents(Kind.LOPOWER, "micropython v1.28.0", "kitchen")


def test_settings_that_say_nothing_usable() -> None:
    for settings_file in (b"", b"[]", b'{"hostname": 7}', b'{"hostname": "a\\u001bb"}', b"[" * 5000, b"x" * 100_000):
        found = identify(flash((0x1000, IMAGE), files({"lopower.json": settings_file})))
        assert (found.kind, found.name) == (Kind.LOPOWER, None)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 30), damages=st.integers(1, 200))
def test_any_damage_ends_in_an_answer(seed: int, damages: int) -> None:
    board = flash((0x1000, IMAGE), files({f"file{number}": bytes(5000) for number in range(20)}))
    source = random.Random(seed)
    for _ in range(damages):
        place = source.choice((source.randrange(0x1000, 0x11000), source.randrange(0x200000, 0x204000)))
        board.content[place] = source.randrange(256)
    identify(board)
    assert board.reads < 100
