"""Datagrams between the kernel's queue and the cores: whose are processed next.

The kernel's queue is first come, first served: behind a few megabytes of one device's bulk, another's single packet
waits for as long as those take to be opened. Taking them out of the kernel costs little, so the socket takes what is
there before each round, and here senders part: who moves little (a question, a keystroke, a handshake) is served at
once, who moves much waits in a queue of its own, and these queues take turns. A sender's own datagrams stay in order.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from lopower.wire import buffers
from lopower.wire.datagrams import DatagramBatch, Endpoint

SLOT: Final = 65_536
# Slots hold super-datagrams that were taken from the kernel; what does not fit stays there, in order of arrival.
# Many devices that send a few packets each fill many, with little in them: the more of one device come together, the
# less each costs. The lowest are used first, so that memory which was never needed is never touched.
SLOTS: Final = 256
# What is opened at once while busy senders are alone: it stays inside the second-level cache, and the fixed costs of a
# batch are small. Nothing more is taken from the kernel either, so that few slots are in use.
PIECE_BYTES: Final = 1 << 20
# The same, about 1 ms of work, while quiet senders share the socket with them.
SHARED_PIECE_BYTES: Final = 256 << 10
# What one busy sender may have of a piece while other busy ones wait too.
QUANTUM_BYTES: Final = 128 << 10
# Who sends and gets so much within one period (13 MB/s) is busy until the end of the next.
BUSY_BYTES: Final = 64 << 10
PERIOD: Final = 0.005  # seconds
SHARED_SECONDS: Final = 0.1  # since a quiet sender was heard beside busy ones

_Datagrams = tuple[int, int, int, Endpoint]  # offset, length, segment size, endpoint


class Arrivals:
    """What the socket has taken and nobody has processed.

    Attributes:
        batch: what `take` put there, until `release`.
        free: slots that may be received into, as indices.
        waiting_bytes: of busy senders.
        is_shared: quiet senders were heard of late, beside busy ones.
    """

    __slots__ = (
        "_busy",
        "_endpoint_bytes",
        "_period_end",
        "_prompt",
        "_queues",
        "_quiet_heard",
        "_shared_until",
        "batch",
        "free",
        "is_shared",
        "waiting_bytes",
    )

    def __init__(self) -> None:
        self.batch = DatagramBatch(buffers.zeroed(SLOTS * SLOT))
        self.free = list(range(SLOTS - 1, -1, -1))
        self.waiting_bytes = 0
        self._prompt: list[_Datagrams] = []
        self._queues: dict[Endpoint, deque[_Datagrams]] = {}
        self._busy: set[Endpoint] = set()
        self._endpoint_bytes: dict[Endpoint, int] = {}
        self._period_end = 0.0
        self.is_shared = False
        self._quiet_heard = False
        self._shared_until = 0.0

    def begin_turn(self, now: float) -> None:
        """Time passes: who was busy long ago is so no more."""
        if now >= self._period_end:
            self._period_end = now + PERIOD
            self._busy = {sender for sender, size in self._endpoint_bytes.items() if size >= BUSY_BYTES}
            self._endpoint_bytes.clear()
        if self._quiet_heard:
            self._quiet_heard = False
            self._shared_until = now + SHARED_SECONDS
        self.is_shared = now < self._shared_until

    def count(self, endpoint: Endpoint, size: int) -> bool:
        """So many bytes came from or went to an endpoint; whether it is busy."""
        total = self._endpoint_bytes.get(endpoint, 0) + size
        self._endpoint_bytes[endpoint] = total
        return total >= BUSY_BYTES or endpoint in self._busy

    def add(self, length: int, segment_size: int, endpoint: Endpoint) -> None:
        """A super-datagram lies in the last free slot."""
        datagrams = self.free.pop() * SLOT, length, segment_size, endpoint
        queue = self._queues.get(endpoint)
        if not self.count(endpoint, length) and queue is None:
            self._prompt.append(datagrams)
            if self._busy:
                self._quiet_heard = True
            return
        if queue is None:
            queue = self._queues[endpoint] = deque()
        queue.append(datagrams)
        self.waiting_bytes += length

    @property
    def wanted_bytes(self) -> int:
        """How much may be taken from the kernel now: alone, busy senders wait there as well as here."""
        return PIECE_BYTES if self.is_shared else PIECE_BYTES - self.waiting_bytes

    @property
    def has_more(self) -> bool:
        """Whether something is left for the next `take`."""
        return bool(self._queues)

    def release(self) -> DatagramBatch:
        """The batch was processed, and its slots are free."""
        batch = self.batch
        if batch.offsets:
            self.free += [offset // SLOT for offset in batch.offsets]
            self.free.sort(reverse=True)
            batch.clear()
        return batch

    def discard(self) -> None:
        """Give up the memory of what was processed, unless something waits; not within a turn."""
        self.release()
        if len(self.free) == SLOTS:
            buffers.discard(self.batch.buffer)

    def take(self, prompt_only: bool) -> None:
        """Put into the batch, which is empty, what is to be processed next.

        Args:
            prompt_only: leave busy senders' where they are.
        """
        batch = self.batch
        if self._prompt:
            for datagrams in self._prompt:
                batch.append(*datagrams)
            self._prompt.clear()
        elif self._queues and not prompt_only:
            self._take_piece(batch)

    def _take_piece(self, batch: DatagramBatch) -> None:
        queues = self._queues
        room = SHARED_PIECE_BYTES if self.is_shared else PIECE_BYTES
        while room > 0 and queues:
            endpoint = next(iter(queues))
            queue = queues.pop(endpoint)
            share = min(QUANTUM_BYTES, room) if queues else room
            while queue and share > 0:
                datagrams = queue.popleft()
                batch.append(*datagrams)
                share -= datagrams[1]
                room -= datagrams[1]
                self.waiting_bytes -= datagrams[1]
            if queue:
                queues[endpoint] = queue  # last in the round
