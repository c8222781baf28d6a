"""The bench's parts, each by itself."""

from __future__ import annotations

import os
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lopower_hil.bench import attached, console, recorder
from lopower_hil.bench.benches import Share
from lopower_hil.bench.console import Console
from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.recorder import MAX_ENTRIES, MAX_TEXT, Recorder
from lopower_hil.bench.report import Outcome, page


@contextmanager
def line(heard: list[str]) -> Iterator[tuple[int, Console]]:
    """The board's end of a terminal, and a console at the other one."""
    board, port = os.openpty()
    tty.setraw(port)
    made = Console(os.ttyname(port), heard.append)
    made.open()
    try:
        yield board, made
    finally:
        made.close()
        os.close(board)
        os.close(port)


def test_what_arrives_in_pieces_is_found_and_told_by_lines() -> None:
    heard: list[str] = []
    with line(heard) as (board, made):
        since = made.position
        for piece in (b"one\r\ntw", b"o\r\nthr"):
            os.write(board, piece)
            time.sleep(0.05)
        os.write(board, b"ee")
        assert made.wait_for("three", 10.0, since) == "one\r\ntwo\r\nthree"
        with pytest.raises(BenchError, match="did not print 'one' within"):
            made.wait_for("one", 0.1, made.position)
    assert heard == ["one", "two"]


def test_a_board_that_prints_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, positions stay right, and a line without an end is told in pieces."""
    monkeypatch.setattr(console, "MAX_KEPT", 1000)
    heard: list[str] = []
    with line(heard) as (board, made):
        for _ in range(20):
            os.write(board, b"x" * 500)
            time.sleep(0.005)
        os.write(board, b"the end")
        made.wait_for("the end", 10.0)
        assert made.position == 20 * 500 + len("the end")
        assert made.text(made.position - 3) == "end"
        assert len(made.text()) == 1000
    assert heard
    assert all(len(text) <= console.MAX_LINE + 4096 for text in heard)


def test_the_port_is_somebody_elses_meanwhile() -> None:
    heard: list[str] = []
    with line(heard) as (board, made):
        with made.released():
            other = os.open(made.port, os.O_RDWR | os.O_NOCTTY)
            os.write(board, b"for the other")
            assert os.read(other, 100) == b"for the other"
            os.close(other)
        os.write(board, b"for us\n")
        assert made.wait_for("for us", 10.0) == "for us\n"


def test_a_port_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "OPEN_SECONDS", 0.1)
    with pytest.raises(BenchError, match="does not open"):
        Console(str(tmp_path / "ttyUSB0"), lambda _: None).open()


def test_the_record_is_bounded() -> None:
    made = Recorder()
    for number in range(MAX_ENTRIES + 5):
        made.add("board", f"{number}" + "x" * MAX_TEXT)
    entries = made.entries()
    assert len(entries) == MAX_ENTRIES + 1
    assert entries[-1].text == "5 more lines were not kept"
    assert all(len(entry.text) == MAX_TEXT + 3 for entry in entries[:-1])
    made.begin()
    assert made.entries() == []


def _add(made: Recorder) -> None:
    for number in range(300):
        made.add("board", str(number))


def test_the_record_is_written_by_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_ENTRIES", 1000)
    made = Recorder()
    threads = [threading.Thread(target=_add, args=(made,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = made.entries()
    assert (len(entries), entries[-1].text) == (1001, "200 more lines were not kept")
    assert [entry.seconds for entry in entries] == sorted(entry.seconds for entry in entries)


def test_processes_do_not_share_boards() -> None:
    ports = ["a", "b", "c"]
    assert [Share(number, 2)(ports) for number in range(2)] == [["a", "c"], ["b"]]
    assert Share(0, 1)(ports) == ports
    with pytest.raises(BenchError, match="4 processes share 3 boards: run pytest with -n 3"):
        Share(3, 4)(ports)


def test_the_page_of_nothing_and_of_one_that_was_skipped() -> None:
    assert "no tests" in page([], 0.0)
    skipped = Outcome("test_x.py::test_<b>", "skipped", "no <switch>", {"setup": 0.0})
    text = page([skipped], 0.0)
    assert "1 skipped" in text
    assert "no &lt;switch&gt;" in text
    assert "test &lt;b&gt;" not in text.replace("test_&lt;b&gt;", "")
    assert "<switch>" not in text


def test_a_network_is_named_with_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable's, or the one that `lopower flash` saved; never in a representation."""
    monkeypatch.setenv("LOPOWER_WIFI_PASSWORD", "not to be seen")
    network = attached.network("Home", tmp_path / "wifi.json")
    assert (network.ssid, network.password) == ("Home", "not to be seen")
    assert "not to be seen" not in repr(network)
    monkeypatch.delenv("LOPOWER_WIFI_PASSWORD")
    with pytest.raises(BenchError, match="the Wi-Fi for the boards is not known"):
        attached.network("Home", tmp_path / "wifi.json")
