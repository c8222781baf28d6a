"""Control lines, the page of memory, what is printed, the radio's description, and the control socket's answers."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower_hil.virtual_board import launcher, wires
from lopower_hil.virtual_board.firmware import INTERRUPT, MARK, Output
from lopower_hil.virtual_board.radio import MAX_ACCESS_POINTS, AccessPoint, describe
from lopower_hil.virtual_board.reset_lines import RISE, AutoReset, UsbSerialJtag
from tests.support.requirements import require_module

SHIMS = Path(wires.__file__).parent / "shims"


def starts(lines: Any, *states: tuple[bool, bool]) -> list[bool | None]:
    return [lines.set(dtr, rts, 0.0) for dtr, rts in states]


def test_classic_reset_into_download_mode() -> None:
    """esptool's ClassicReset, one line at a time as over RFC 2217."""
    lines = AutoReset()
    assert starts(lines, (False, False), (False, True)) == [None, None]
    assert lines.in_reset
    assert starts(lines, (True, True)) == [None]  # EN rises, and IO0 is not low yet
    assert lines.next_timer() == RISE
    assert starts(lines, (True, False), (False, False)) == [True, None]
    assert not lines.in_reset
    assert lines.next_timer() is None


def test_hard_reset_runs_the_program() -> None:
    assert starts(AutoReset(), (False, True), (False, False)) == [None, False]


def test_en_rises_by_itself() -> None:
    lines = AutoReset()
    starts(lines, (False, True), (True, True))
    assert lines.handle_timer(RISE / 2) is None
    assert lines.handle_timer(RISE) is False


def test_opening_a_port_resets_nothing() -> None:
    """pyserial asserts both, one after the other."""
    assert starts(AutoReset(), (True, False), (True, True), (False, True))[:2] == [None, None]
    assert starts(UsbSerialJtag(), (True, False), (True, True)) == [None, None]


def test_usb_reset_into_download_mode_and_out() -> None:
    """esptool's USBJTAGSerialReset, then HardReset."""
    lines = UsbSerialJtag()
    assert starts(lines, (False, False), (True, False), (True, True), (False, True), (False, True), (False, False)) == [
        None,
        None,
        None,
        None,
        None,
        True,
    ]
    assert starts(lines, (False, True), (False, False)) == [None, False]


def test_both_sides_have_the_same_layout() -> None:
    """wires.py for CPython, _board.py for MicroPython."""
    text = (SHIMS / "_board.py").read_text()
    there = {(int(offset), name, kind) for name, offset, kind in re.findall(r'"(\w+)": (\d+) \| uctypes\.(\w+)', text)}
    assert there == set(wires.FIELDS[:-1])
    assert wires.FIELDS[-1][1] == "mac"
    page = wires.Wires()
    try:
        for offset, name, _ in wires.FIELDS:
            assert getattr(type(page.field), name).offset == offset
    finally:
        page.close()
    assert f"_address + {wires.FIELDS[-1][0]}, 6" in text
    for name in ("RTC_MEMORY_OFFSET", "RTC_MEMORY_SIZE", "RADIO_OFFSET"):
        assert re.search(rf"^{name} = {getattr(wires, name)}$", text, re.MULTILINE), name
    launcher = (SHIMS.parent / "launcher.py").read_text()
    assert "WIRES_SIZE = 1 << 16" in launcher
    assert wires.SIZE == 1 << 16


def test_ctrl_c_is_a_pulse_as_the_launcher_has_it() -> None:
    function, _ = launcher.PULSE.unpack(INTERRUPT)
    assert function == launcher.INTERRUPT
    timers = (SHIMS / "board_machine.py").read_text()
    assert f'struct.pack_into("{launcher.PULSE.format}", self._pulse' in timers
    assert f"bytearray({launcher.PULSE.size})" in timers
    assert f"_NEVER = 0x{launcher.NEVER:X}" in timers


def message(kind: bytes, content: bytes) -> bytes:
    return MARK + kind + len(content).to_bytes(2, "little") + content


@given(
    parts=st.lists(st.one_of(st.binary(max_size=20), st.just(MARK[:2]), st.just(b"\n")), max_size=8),
    cuts=st.lists(st.integers(0, 200), max_size=6),
)
def test_output_is_the_same_however_it_is_cut(parts: list[bytes], cuts: list[int]) -> None:
    """Text has CR LF, binary is as it was, requests are taken out."""
    stream = bytearray()
    expected = bytearray()
    last = 0
    for number, part in enumerate(parts):
        if number % 2:
            stream += message(b"B", part)
            expected += part
            last = 0
        else:
            stream += part
            for byte in part:
                expected += b"\r\n" if byte == 0x0A and last != 0x0D else bytes([byte])
                last = byte
    if MARK in b"".join(parts[::2]):  # a program that prints the mark itself
        return
    stream += message(b"R", b"reset") + b"end"
    output = Output(swallow_banner=False)
    found = bytearray()
    at = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]:
        found += output.feed(bytes(stream[at:cut]))
        at = cut
    assert bytes(found) == bytes(expected) + b"end"
    assert output.requests == ["reset"]


def test_banner_before_the_raw_repl_is_swallowed() -> None:
    output = Output(swallow_banner=True)
    found = output.feed(b"from boot.py\n" + message(b"E", b"") + b'MicroPython v1\r\nType "help()"\r\n>>> \r\nraw RE')
    found += output.feed(b"PL; CTRL-B to exit\r\n>")
    assert found == b"from boot.py\r\nraw REPL; CTRL-B to exit\r\n>"
    assert output.raw is True


def test_access_points() -> None:
    with pytest.raises(ValueError, match="1 to 32 bytes"):
        AccessPoint("x" * 33)
    with pytest.raises(ValueError, match="8 to 63"):
        AccessPoint("Home", "short")
    with pytest.raises(ValueError, match="at most"):
        describe([AccessPoint(f"n{n}") for n in range(MAX_ACCESS_POINTS + 1)], 100)
    page = wires.Wires()
    points = [AccessPoint("\0" * 32, "\0" * 64) for _ in range(MAX_ACCESS_POINTS)]
    page.set_radio(describe(points, 100))  # as much as JSON can make of it fits
    page.close()


class _Board:
    """Remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda **arguments: self.asked.append((name, arguments))

    def set_access_points(self, points: list[AccessPoint]) -> None:
        self.asked.append(points)


def test_control_answers() -> None:
    require_module("esp32_mock_bootloader")
    from lopower_hil.virtual_board import control

    board: Any = _Board()
    assert control.answer(board, b'{"do": "cut_power", "after_flash_bytes": 7}\n') == {"ok": True}
    points = {"do": "access_points", "access_points": [{"ssid": "Home", "rssi": -60}]}
    assert control.answer(board, json.dumps(points).encode()) == {"ok": True}
    assert board.asked == [("cut_power", {"after_flash_bytes": 7}), [AccessPoint("Home", rssi=-60)]]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\xff\n", b"[]\n", b"{}\n", b'{"do": "stop"}\n', b'{"do": "_call"}\n', b'{"do": ["status"]}\n',
        b'{"do": "access_points"}\n', b'{"do": "access_points", "access_points": [{"nonsense": 1}]}\n',
        b'{"do": "access_points", "access_points": 3}\n', b"[" * 60_000,
    ],
)  # fmt: skip
def test_control_refuses(line: bytes) -> None:
    require_module("esp32_mock_bootloader")
    from lopower_hil.virtual_board import control

    board: Any = _Board()
    answer = control.answer(board, line)
    assert answer["ok"] is False
    assert answer["error"]
    assert board.asked == []
