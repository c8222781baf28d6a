"""The heap of deadlines: lazily moved, compacted, and empty in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lopower.netstack.tcp.timers import TimerQueue


@dataclass(eq=False)
class Waiter:
    """As much of a connection as the queue looks at."""

    wake_at: float | None = None


def due(queue: TimerQueue, now: float) -> list[Any]:
    """Whom the queue wakes."""
    return list(queue.due(now))


def test_deadlines_come_in_order_before_at_and_after() -> None:
    queue, first, second = TimerQueue(), Waiter(), Waiter()
    schedule: Any = queue.schedule
    schedule(second, 2.0)
    schedule(first, 1.0)
    assert queue.next() == 1.0
    assert due(queue, 0.999) == []
    assert due(queue, 1.0) == [first]
    assert due(queue, 5.0) == [second]
    assert queue.next() is None
    assert len(queue) == 0


def test_a_later_deadline_leaves_the_entry_an_earlier_one_moves_it() -> None:
    queue, waiter = TimerQueue(), Waiter()
    schedule: Any = queue.schedule
    schedule(waiter, 5.0)
    schedule(waiter, 9.0)
    assert queue.next() == 5.0
    schedule(waiter, 3.0)
    assert len(queue) == 1
    assert due(queue, 4.0) == [waiter]
    assert due(queue, 10.0) == []


def test_cancelled_entries_do_not_pile_up() -> None:
    queue = TimerQueue()
    schedule: Any = queue.schedule
    cancel: Any = queue.cancel
    for number in range(10_000):
        waiter = Waiter()
        schedule(waiter, 7200.0 + number)
        cancel(waiter)
    assert len(queue) == 0
    assert len(queue._heap) < 200
    assert queue.next() is None
