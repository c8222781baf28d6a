"""A link that delays, loses, reorders, repeats and throttles, the same way for the same seed.

`Link` is one direction and does no I/O: what is offered to it comes out again when it is due. `tests.support.udp_link`
puts two of them between a WireGuard device and its endpoint, `tests.support.tun` between a stack and the kernel.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkConditions:
    """What a link does to what crosses it. Probabilities are from 0 to 1, times in seconds.

    Attributes:
        delay: of everything.
        jitter: up to so much more; order is kept.
        loss, duplication: probabilities.
        reordering: probability of being held back for `reordering_delay`, so that later ones overtake.
        rate: bytes per second; None: no limit.
        queue: bytes that wait for the link's turn at most; more is lost.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    reordering_delay: float = 0.01
    rate: float | None = None
    queue: int = 1 << 20


class Link:
    """One direction.

    Attributes:
        conditions: may be replaced at any time.
        counters: offered, lost, overflowed, duplicated, reordered, delivered.
    """

    def __init__(self, conditions: LinkConditions, seed: int) -> None:
        self.conditions = conditions
        self.counters: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, bytes]] = []
        self._order = 0
        self._idle_at = 0.0
        self._last_due = 0.0

    def offer(self, packet: bytes, now: float) -> None:
        """A packet enters."""
        conditions, draw, counters = self.conditions, self._random.random, self.counters
        counters["offered"] += 1
        if draw() < conditions.loss:
            counters["lost"] += 1
            return
        due = now
        if conditions.rate is not None:
            start = max(self._idle_at, now)
            if (start - now) * conditions.rate + len(packet) > conditions.queue:
                counters["overflowed"] += 1
                return
            due = self._idle_at = start + len(packet) / conditions.rate
        due = max(due + conditions.delay + draw() * conditions.jitter, self._last_due)
        if draw() < conditions.reordering:
            counters["reordered"] += 1
            due += conditions.reordering_delay
        else:
            self._last_due = due
        self._push(due, packet)
        if draw() < conditions.duplication:
            counters["duplicated"] += 1
            self._push(due, packet)

    def due(self, now: float) -> list[bytes]:
        """What leaves by `now`, in order."""
        leaving = []
        while self._heap and self._heap[0][0] <= now:
            leaving.append(heapq.heappop(self._heap)[2])
        self.counters["delivered"] += len(leaving)
        return leaving

    def next_due(self) -> float | None:
        """When something leaves next."""
        return self._heap[0][0] if self._heap else None

    def _push(self, due: float, packet: bytes) -> None:
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, packet))
