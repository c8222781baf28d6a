"""What is left of a flow that its owner is done with: TIME-WAIT, and a refusal that waits for one more SYN.

These records are small and all of one kind live equally long, so a queue in order of expiry is all they need.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.sequence import MASK, difference, expand
from lopower.wire.tcp import ACK, SYN, TcpHeader, TcpOptions

# A device that opens and closes flows without pause fills this. The oldest record makes room: a late segment of a flow
# so long gone meets a RST.
MAX_RECORDS: Final = 16384


class TimeWait:
    """A closed flow whose last ACK may have to be repeated (RFC 9293 section 3.6.1)."""

    __slots__ = (
        "builder",
        "deadline",
        "echo_offset",
        "key",
        "peer",
        "rcv_nxt",
        "snd_nxt",
        "timestamps",
        "ts_recent",
        "window",
    )

    def __init__(
        self,
        peer: Hashable,
        key: bytes,
        deadline: float,
        *,
        builder: SegmentBuilder,
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
        self.builder = builder
        self.snd_nxt = snd_nxt
        self.rcv_nxt = rcv_nxt
        self.window = window
        self.timestamps = timestamps
        self.ts_recent = ts_recent
        self.echo_offset = echo_offset

    def reopens(self, header: TcpHeader) -> bool:
        """A SYN that is newer than all the flow said (RFC 6191 section 2, RFC 9293 section 3.6.1)."""
        if header.flags & (SYN | ACK) != SYN:
            return False
        newer = expand(header.sequence, self.rcv_nxt) > self.rcv_nxt
        timestamp = header.options.timestamp
        if not self.timestamps or timestamp is None or timestamp == self.ts_recent:
            return newer
        return difference(timestamp, self.ts_recent) > 0

    def last_ack(self, now: float) -> bytes:
        """The ACK of the peer's FIN, once more."""
        options = b""
        if self.timestamps:
            stamp = int(now * 1000) + self.echo_offset & MASK
            options = TcpOptions(timestamp=stamp, timestamp_echo=self.ts_recent).to_bytes()
        return self.builder.build(self.snd_nxt, self.rcv_nxt, ACK, self.window, options)


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

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: OrderedDict[TimeWait | Refused, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, record: TimeWait | Refused) -> TimeWait | Refused | None:
        """Keep a record; returns the one that has to go for it, if the table is full."""
        self._queue[record] = None
        return self._queue.popitem(last=False)[0] if len(self._queue) > MAX_RECORDS else None

    def remove(self, record: TimeWait | Refused) -> None:
        """It does not count any more."""
        self._queue.pop(record, None)

    def next(self) -> float | None:
        """The first deadline."""
        return next(iter(self._queue)).deadline if self._queue else None

    def expired(self, now: float) -> list[TimeWait | Refused]:
        """Take out those whose time has come."""
        gone: list[TimeWait | Refused] = []
        while self._queue and next(iter(self._queue)).deadline <= now:
            gone.append(self._queue.popitem(last=False)[0])
        return gone
