"""`lopower update --all` of a hundred boards, by a real daemon through tunnels: where it stops, what it reports."""

from __future__ import annotations

import asyncio
import csv
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lopower.control.client import ControlClient
from tests.support.loopback_daemon import LoopbackDaemon
from tests.support.standin_boards import IMAGE, OLD, StandInBoard, standin_boards

COUNT, PARALLEL, CANARY = 100, 4, 3
NAMES = [f"board-{number:03}" for number in range(COUNT)]


class Fleet:
    """All boards, and the command."""

    def __init__(self, daemon: LoopbackDaemon, boards: dict[str, StandInBoard], directory: Path) -> None:
        self.boards = boards
        self._daemon = daemon
        self._directory = directory

    async def update(self, **faults: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, str]]]:
        """Update all; the boards `b000=` and so on fail. What was said, and the report."""
        for name, board in self.boards.items():
            board.fault, board.begun = faults.get(f"b{name[-3:]}"), 0
        report = self._directory / "report.csv"
        words = ["--all", "--canary", str(CANARY), "--parallel", str(PARALLEL), "--csv", str(report)]
        done = await asyncio.to_thread(self._daemon.lopower, "update", *words)
        with report.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == NAMES
        assert [name for name, board in self.boards.items() if board.begun] == [
            row["name"] for row in rows if row["state"] != "skipped"
        ]
        return done, rows


@pytest.fixture
async def fleet(daemon: LoopbackDaemon, tmp_path: Path) -> AsyncIterator[Fleet]:
    client = ControlClient([daemon.state_dir / "lopower.sock"])
    body = {"devices": [{"name": name} for name in NAMES], "format": "conf", "qr": False}
    added = (await asyncio.to_thread(client.request, "POST", ["devices"], body))["devices"]
    async with AsyncExitStack() as stack:
        boards = await standin_boards(stack, {device["name"]: device["text"] for device in added})
        yield Fleet(daemon, boards, tmp_path)


async def test_where_it_stops(fleet: Fleet) -> None:
    """By one of the first few; not by one of a hundred, by two; and the same command then does the rest."""
    done, rows = await fleet.update(b001="full")
    assert done.returncode == 1
    states = [row["state"] for row in rows]
    assert states[:CANARY] == ["updated", "failed", "updated"]
    assert set(states[CANARY:]) == {"skipped"}
    assert "board-001, one of the first 3, failed" in done.stderr
    assert "the flash is full" in rows[1]["error"]

    done, rows = await fleet.update(b010="hash", b050="back")
    assert done.returncode == 1
    failed = {row["name"]: row for row in rows if row["state"] not in ("updated", "skipped")}
    assert {name: row["state"] for name, row in failed.items()} == {"board-010": "failed", "board-050": "went back"}
    assert "no handshake within 120 s" in failed["board-050"]["error"]
    skipped = [row for row in rows if row["state"] == "skipped"]
    assert [row["name"] for row in skipped] == NAMES[COUNT - len(skipped) :]
    # One of a hundred is not too many: those after it were begun. After the second, no more than were under way then.
    assert COUNT - 51 - PARALLEL <= len(skipped) <= COUNT - 51
    reason = "2 of 100 failed: 2 % are too many"
    assert f"the update was stopped: {reason}" in done.stderr
    for row in skipped:
        assert (row["error"], row["before"], row["after"], row["image"]) == (reason, OLD, "", IMAGE)
    assert fleet.boards[skipped[0]["name"]].version == 1

    done, rows = await fleet.update()
    assert done.returncode == 0, done.stderr
    assert {row["state"] for row in rows} == {"updated"}
    assert {board.package for board in fleet.boards.values()} == {rows[0]["after"]} != {OLD}
