"""Deadlines of all connections in one heap.

A connection has one entry at most that counts. Deadlines mostly move into the future (every ACK pushes the
retransmission timer on), so an entry is not moved then: when it comes up, the connection says what its deadline really
is.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lopower.netstack.tcp.connection import Connection

_COMPACT_FROM: Final = 64  # dead entries, and more dead than living


class TimerQueue:
    """Wakes connections at `wake_at` or a little before their deadline."""

    __slots__ = ("_dead", "_heap", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Connection]] = []
        self._number = 0  # breaks ties: connections have no order
        self._dead = 0

    def __len__(self) -> int:
        """How many connections wait."""
        return len(self._heap) - self._dead

    def schedule(self, connection: Connection, deadline: float) -> None:
        """Wake `connection` no later than at `deadline`."""
        if connection.wake_at is not None:
            if connection.wake_at <= deadline:
                return
            self._dead += 1
        connection.wake_at = deadline
        self._number += 1
        heapq.heappush(self._heap, (deadline, self._number, connection))
        self._compact()

    def cancel(self, connection: Connection) -> None:
        """Never wake it again."""
        if connection.wake_at is not None:
            connection.wake_at = None
            self._dead += 1
            self._compact()

    def next(self) -> float | None:
        """The first entry's time."""
        heap = self._heap
        while heap and heap[0][2].wake_at != heap[0][0]:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[Connection]:
        """Take out those whose entry has come."""
        woken: list[Connection] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, connection = heapq.heappop(heap)
            if connection.wake_at == at:
                connection.wake_at = None
                woken.append(connection)
            else:
                self._dead -= 1
        return woken

    def _compact(self) -> None:
        if self._dead > _COMPACT_FROM and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].wake_at == entry[0]]
            heapq.heapify(self._heap)
            self._dead = 0
