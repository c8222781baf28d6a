"""Group commits off the loop, and a disk that fails for a while."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from lopower.daemon.write_behind import COMPLAINT_INTERVAL, WriteBehind


class Table:
    def __init__(self) -> None:
        self.commits: list[list[tuple[str, int]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def write(self, pairs: list[tuple[str, int]]) -> None:
        assert threading.current_thread() is not threading.main_thread()
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.commits.append(pairs)


async def test_what_comes_during_a_commit_goes_into_the_next_one_together() -> None:
    table = Table()
    behind = WriteBehind(asyncio.get_running_loop(), "stamps", table.write, lambda: 0.0)
    done: list[str] = []
    table.gate.clear()
    behind.put([("a", 1)], lambda: done.append("first"))
    behind.put([("a", 2)], lambda: done.append("second"))
    behind.put([("b", 3)], lambda: done.append("third"))
    await asyncio.sleep(0.01)
    assert done == []
    table.gate.set()
    await behind.close()
    assert table.commits == [[("a", 1)], [("a", 2), ("b", 3)]]
    assert done == ["first", "second", "third"]


async def test_a_failing_disk_is_told_once_and_nothing_is_lost_when_it_recovers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = Table()
    now = [0.0]
    behind = WriteBehind(asyncio.get_running_loop(), "stamps", table.write, lambda: now[0])
    done: list[int] = []

    async def put(key: str, value: int) -> None:
        arrived = asyncio.Event()
        behind.put([(key, value)], arrived.set)
        await arrived.wait()
        done.append(value)

    table.error = OSError("no space left on device")
    await put("a", 1)
    await put("b", 2)
    await put("a", 3)
    assert done == [1, 2, 3], "callers go on"
    assert behind.failing == "no space left on device"
    assert len(caplog.records) == 1
    now[0] += COMPLAINT_INTERVAL
    await put("a", 4)
    assert len(caplog.records) == 2
    table.error = None
    with caplog.at_level(logging.WARNING):
        await put("c", 5)
    assert behind.failing is None
    assert dict(table.commits[-1]) == {"a": 4, "b": 2, "c": 5}
    await behind.close()
