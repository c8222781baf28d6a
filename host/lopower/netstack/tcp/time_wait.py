"""What is left of a flow that its owner is done with: TIME-WAIT, and a refusal that waits for one more SYN.

These records are small and all of one kind live equally long, so a queue in order of expiry is all they need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

# A device that opens and closes flows without pause fills this; the oldest record makes room (RFC 1337 notwithstanding, a
# segment of a flow so long gone meets a RST).
MAX_RECORDS: Final = 16384


class TimeWait:
    """A closed flow whose last ACK may have to be repeated (RFC 9293 section 3.6.1)."""

    __slots__ = ("deadline", "echo_offset", "key", "peer", "rcv_nxt", "snd_nxt", "timestamps", "ts_recent", "window")

    def __init__(
        self,
        peer: Hashable,
        key: bytes,
        deadline: float,
        *,
        snd_nxt: int,
        rcv_nxt: int,
        window: int,
        timestamps: bool,
        ts_recent: int,
        echo_offset: int,
    ) -> None:
        self.peer = peer
        self.key = key
        self.deadline = deadline
        self.snd_nxt = snd_nxt
        self.rcv_nxt = rcv_nxt
        self.window = window
        self.timestamps = timestamps
        self.ts_recent = ts_recent
        self.echo_offset = echo_offset


class Refused:
    """A SYN that was answered by an ICMP error; its retransmission is answered by a RST, for those who ignore ICMP."""

    __slots__ = ("deadline", "irs", "key", "peer")

    def __init__(self, peer: Hashable, key: bytes, deadline: float, irs: int) -> None:
        self.peer = peer
        self.key = key
        self.deadline = deadline
        self.irs = irs


class Records:
    """Records of one kind in order of their deadlines."""

    __slots__ = ("_queue", "_removed")

    def __init__(self) -> None:
        self._queue: deque[TimeWait | Refused] = deque()
        self._removed: set[int] = set()  # ids of records in the queue that no longer count

    def __len__(self) -> int:
        return len(self._queue) - len(self._removed)

    def add(self, record: TimeWait | Refused) -> TimeWait | Refused | None:
        """Keep a record; returns the one that has to go for it, if the table is full."""
        self._queue.append(record)
        return self._pop() if len(self) > MAX_RECORDS else None

    def remove(self, record: TimeWait | Refused) -> None:
        """It does not count any more."""
        self._removed.add(id(record))
        self._skip()

    def next(self) -> float | None:
        """The first deadline."""
        return self._queue[0].deadline if self._queue else None

    def expired(self, now: float) -> list[TimeWait | Refused]:
        """Take out those whose time has come."""
        gone: list[TimeWait | Refused] = []
        while self._queue and self._queue[0].deadline <= now:
            gone.append(self._pop())
        return gone

    def _pop(self) -> TimeWait | Refused:
        record = self._queue.popleft()
        self._skip()
        return record

    def _skip(self) -> None:
        queue, removed = self._queue, self._removed
        while queue and id(queue[0]) in removed:
            removed.discard(id(queue.popleft()))
