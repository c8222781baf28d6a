"""Opening transport data (whitepaper section 5.4.6): a turn's datagrams into rows of packets.

The cost that matters is per call. Messages of one session that follow each other, from however many super-datagrams,
are gathered and opened by one `map` of the AEAD over views that were cut beforehand: per slot of the receive buffer
and message size, columns of types, indices and counters, and lists of nonces and bodies. The index column is zeroed
once it has been read, so that bytes 4 to 16 of a message, in place, are the AEAD's nonce: four zero bytes and the
counter.

The replay window is asked, and marked, only for what the AEAD opened. A turn of a few messages is opened one by one,
which says what the batch must do as well.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from itertools import pairwise, repeat
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag

from lopower.wire.buffers import Bytes
from lopower.wire.datagrams import DatagramBatch, Endpoint
from lopower.wire.rows import PacketBatch
from lopower.wire.wireguard import TRANSPORT_HEADER, TRANSPORT_HEADER_SIZE, TRANSPORT_OVERHEAD, TYPE_TRANSPORT
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES
from lopower.wireguard.inner import SourceFilter
from lopower.wireguard.keypair import Keypair

COLUMN_MINIMUM: Final = 6
"""Fewer messages than this cost less one by one (7 us each) than a set-up of columns (38 us)."""

MAX_SLOT_MESSAGES: Final = 64
"""Messages of one slot that are taken as one column: the kernel's limit for UDP GRO. More follow as another column."""

MAX_CACHED_SLICES: Final = 96
"""Slots times message sizes whose views are kept, at 25 KB each; odd sizes push out the least recently used."""

COMMON_AFTER: Final = 512
"""A message size is common, and its views of all rows worth keeping, once so many authentic messages had it."""

MAX_COMMON_SIZES: Final = 6
MAX_COUNTED_SIZES: Final = 64

_NO_ASSOCIATED_DATA: Final = repeat(None)
_INDEX: Final = slice(4, 8)
_ZERO_INDEX: Final = bytes(4)

View: TypeAlias = "memoryview[int]"


class _SlotViews:
    """Up to 64 messages of one size in a slot."""

    __slots__ = ("bodies", "counters", "indices", "nonces", "tags")

    def __init__(self, buffer: Bytes, view: View, offset: int, size: int) -> None:
        count = min(MAX_SLOT_MESSAGES, (len(buffer) - offset) // size)
        stride = (size,)
        self.tags: npt.NDArray[np.uint64] = np.ndarray((count,), "<u8", buffer, offset, stride)
        self.indices: npt.NDArray[np.uint32] = np.ndarray((count,), "<u4", buffer, offset + 4, stride)
        self.counters: npt.NDArray[np.uint64] = np.ndarray((count,), "<u8", buffer, offset + 8, stride)
        self.nonces: list[View] = []
        self.bodies: list[View] = []
        self.extend(view, offset, size, 0)

    def extend(self, view: View, offset: int, size: int, count: int) -> None:
        """Cut views until there are `count`; what a slot never held is never cut."""
        start = offset + len(self.nonces) * size
        stop = offset + count * size
        self.nonces += [view[at + 4 : at + 16] for at in range(start, stop, size)]
        self.bodies += [view[at + TRANSPORT_HEADER_SIZE : at + size] for at in range(start, stop, size)]


class _RowViews:
    """`rows[0:length]` of every row for the lengths that are common; of single rows for the others."""

    __slots__ = ("_common", "_counts", "_stride", "_view")

    def __init__(self, batch: PacketBatch) -> None:
        self._view = batch.rows.view
        self._stride = batch.rows.stride
        self._common: dict[int, list[View]] = {}
        self._counts: Counter[int] = Counter()

    def get(self, first: int, last: int, length: int) -> list[View]:
        views = self._common.get(length)
        if views is not None:
            return views[first:last]
        view, stride = self._view, self._stride
        return [view[at : at + length] for at in range(first * stride, last * stride, stride)]

    def count(self, length: int, messages: int) -> None:
        """So many authentic messages had this length."""
        if length in self._common:
            return
        if length not in self._counts and len(self._counts) >= MAX_COUNTED_SIZES:
            self._counts.clear()
        self._counts[length] += messages
        if self._counts[length] >= COMMON_AFTER:
            del self._counts[length]
            if len(self._common) >= MAX_COMMON_SIZES:
                del self._common[next(iter(self._common))]
            self._common[length] = self.get(0, len(self._view) // self._stride, length)


class Opener:
    """Opens what `add` gathers, at the latest on `flush`, into one PacketBatch.

    `received(keypair, endpoint, messages, size, packets)` is called for each run that had something authentic and
    fresh in it: how many messages, of how many bytes together, and how many of them were not keepalives.
    `divert(offset, size, endpoint)` gets messages of other types that lay among transport data.
    """

    __slots__ = (
        "_bodies",
        "_buffer",
        "_column_size",
        "_counters",
        "_divert",
        "_drops",
        "_endpoint",
        "_filter",
        "_first",
        "_keypair",
        "_keypairs",
        "_nonces",
        "_outputs",
        "_received",
        "_row_views",
        "_slots",
        "_view",
        "packets",
    )

    def __init__(
        self,
        *,
        packets: PacketBatch,
        keypairs: dict[int, Keypair],
        source_filter: SourceFilter,
        received: Callable[[Keypair, Endpoint, int, int, int], None],
        divert: Callable[[int, int, Endpoint], None],
        drops: Counter[str],
    ) -> None:
        self.packets = packets
        self._keypairs = keypairs
        self._filter = source_filter
        self._received = received
        self._divert = divert
        self._drops = drops
        self._counters: npt.NDArray[np.uint64] = np.zeros(packets.rows.count, np.uint64)
        self._row_views = _RowViews(packets)
        self._buffer: Bytes | None = None
        self._view: View = memoryview(b"")
        self._slots: dict[tuple[int, int], _SlotViews] = {}
        self._keypair: Keypair | None = None
        self._endpoint: Endpoint | None = None
        self._first = 0
        self._column_size = 0
        self._nonces: list[View] = []
        self._bodies: list[View] = []
        self._outputs: list[View] = []

    def begin(self, batch: DatagramBatch) -> None:
        """A turn begins: forget the packets of the last one."""
        self.packets.clear()
        self._first = 0
        if batch.buffer is not self._buffer:
            self._buffer = batch.buffer
            self._view = batch.view
            self._slots.clear()

    def add(self, offset: int, size: int, count: int, endpoint: Endpoint, now: float) -> None:
        """Gather `count` messages of `size` bytes each that lie one behind the other from `offset` on."""
        while count > 0:
            some = min(count, MAX_SLOT_MESSAGES)
            if TRANSPORT_OVERHEAD <= size <= TRANSPORT_OVERHEAD + self.packets.rows.stride:
                self._add_columns(offset, size, some, endpoint, now)
            else:
                for at in range(offset, offset + some * size, size):
                    self.add_one(at, size, endpoint, now)
            offset += some * size
            count -= some

    def _add_columns(self, offset: int, size: int, count: int, endpoint: Endpoint, now: float) -> None:
        views = self._slot_views(offset, size, count)
        tags = views.tags[:count]
        tag = tags.item(0)
        if (tags == tag).all():
            bounds = [0, count]
        else:
            bounds = [0, *(np.flatnonzero(tags[1:] != tags[:-1]) + 1).tolist(), count]
        for start, stop in pairwise(bounds):
            tag = tags.item(start)
            run = stop - start
            if tag & 0xFF != TYPE_TRANSPORT:
                for at in range(offset + start * size, offset + stop * size, size):
                    self._divert(at, size, endpoint)
                continue
            keypair = self._lookup(tag, run, now)
            if keypair is None:
                continue
            first = self.packets.count
            if run < COLUMN_MINIMUM or first + run > self.packets.rows.count:
                for at in range(offset + start * size, offset + stop * size, size):
                    self.add_one(at, size, endpoint, now)
                continue
            if keypair is not self._keypair or endpoint != self._endpoint:
                self._open_run(keypair, endpoint, now)
            last = self.packets.count = first + run
            length = size - TRANSPORT_OVERHEAD
            self._counters[first:last] = views.counters[start:stop]
            views.indices[start:stop] = 0
            self.packets.lengths[first:last] = length
            self._nonces += views.nonces[start:stop]
            self._bodies += views.bodies[start:stop]
            self._outputs += self._row_views.get(first, last, length)
            self._column_size = length

    def add_one(self, offset: int, size: int, endpoint: Endpoint, now: float) -> None:
        """Gather one transport message."""
        keypair = self._keypair_of(offset, size, now)
        if keypair is None:
            return
        packets = self.packets
        row, stride, length = packets.count, packets.rows.stride, size - TRANSPORT_OVERHEAD
        if length > stride or row >= packets.rows.count:
            self.flush()
            self._open_large(keypair, offset, size, endpoint)
            return
        if keypair is not self._keypair or endpoint != self._endpoint:
            self._open_run(keypair, endpoint, now)
        view = self._view
        self._counters[row] = TRANSPORT_HEADER.unpack_from(view, offset)[2]
        view[offset + 4 : offset + 8] = _ZERO_INDEX
        packets.lengths[row] = length
        packets.count = row + 1
        self._nonces.append(view[offset + 4 : offset + 16])
        self._bodies.append(view[offset + TRANSPORT_HEADER_SIZE : offset + size])
        self._outputs.append(packets.rows.view[row * stride : row * stride + length])

    def open_one(self, offset: int, size: int, endpoint: Endpoint, now: float) -> None:
        """Open one transport message at once: all that is done for a batch, for one message."""
        keypair = self._keypair_of(offset, size, now)
        if keypair is None:
            return
        packets = self.packets
        row, stride, length = packets.count, packets.rows.stride, size - TRANSPORT_OVERHEAD
        if length > stride or row >= packets.rows.count:
            self._open_large(keypair, offset, size, endpoint)
            return
        output = packets.rows.view[row * stride : row * stride + length]
        if not self._open_message(keypair, offset, size, output):
            return
        peer = keypair.peer
        self._received(keypair, endpoint, 1, size, 1 if length else 0)
        if not length or not self._filter.check(peer, output):
            return
        packets.lengths[row] = length
        packets.count = row + 1
        self._append_run(peer, row, row + 1)

    def message(self, offset: int, size: int) -> bytes:
        """A copy of a message that is not for us to open."""
        return bytes(self._view[offset : offset + size])

    def flush(self) -> None:
        """Open what was gathered."""
        self._open_run(None, None, 0.0)

    # ------------------------------------------------------------------ sessions

    def _keypair_of(self, offset: int, size: int, now: float) -> Keypair | None:
        if size < TRANSPORT_OVERHEAD:
            self._drops["malformed"] += 1
            return None
        return self._lookup(int.from_bytes(self._view[offset : offset + 8], "little"), 1, now)

    def _lookup(self, tag: int, messages: int, now: float) -> Keypair | None:
        """The session of `messages` messages that begin with these eight bytes; None: counted as drops."""
        if tag & 0xFFFFFFFF != TYPE_TRANSPORT:
            self._drops["malformed"] += messages
            return None
        keypair = self._keypairs.get(tag >> 32)
        if keypair is None:
            self._drops["unknown_index"] += messages
        elif keypair.is_expired(now):
            keypair.peer.counters["session_expired"] += messages
            return None
        return keypair

    # ------------------------------------------------------------------ one message

    def _open_message(self, keypair: Keypair, offset: int, size: int, output: bytearray | View) -> bool:
        """Whether the message was authentic and fresh; it is in `output` then."""
        view = self._view
        counter = TRANSPORT_HEADER.unpack_from(view, offset)[2]
        view[offset + 4 : offset + 8] = _ZERO_INDEX
        nonce = view[offset + 4 : offset + 16]
        return self._open_body(keypair, counter, nonce, view[offset + TRANSPORT_HEADER_SIZE : offset + size], output)

    @staticmethod
    def _open_body(keypair: Keypair, counter: int, nonce: View, body: View, output: bytearray | View) -> bool:
        if counter >= REJECT_AFTER_MESSAGES:
            keypair.peer.counters["session_expired"] += 1
            return False
        try:
            keypair.decrypt_into(nonce, body, None, output)
        except InvalidTag:
            keypair.peer.counters["not_authentic"] += 1
            return False
        if not keypair.replay.accept(counter):
            keypair.peer.counters["replayed"] += 1
            return False
        return True

    def _open_large(self, keypair: Keypair, offset: int, size: int, endpoint: Endpoint) -> None:
        """A message for which there is no row, or whose packet does not fit one."""
        length = size - TRANSPORT_OVERHEAD
        output = bytearray(length)
        if not self._open_message(keypair, offset, size, output):
            return
        self._received(keypair, endpoint, 1, size, 1 if length else 0)
        if length:
            packet = memoryview(output)
            total = self._filter.check(keypair.peer, packet)
            if total:
                self.packets.large.append((keypair.peer, bytes(packet[:total])))

    # ------------------------------------------------------------------ a run of one session

    def _open_run(self, following: Keypair | None, endpoint: Endpoint | None, now: float) -> None:
        """Open the run that was gathered, and begin one of `following`."""
        keypair, source, first, last = self._keypair, self._endpoint, self._first, self.packets.count
        self._keypair, self._endpoint, self._first = following, endpoint, last
        if keypair is None or source is None or first == last:
            return
        nonces, bodies, outputs = self._nonces, self._bodies, self._outputs
        self._nonces, self._bodies, self._outputs = [], [], []
        lengths = self.packets.lengths[first:last]
        counters = self._counters[first:last]
        if last - first < COLUMN_MINIMUM:
            self._open_singly(keypair, source, first, nonces, bodies, outputs)
        else:
            try:
                deque(map(keypair.decrypt_into, nonces, bodies, _NO_ASSOCIATED_DATA, outputs), 0)
            except InvalidTag:
                self._open_singly(keypair, source, first, nonces, bodies, outputs)
            else:
                self._accept_columns(keypair, source, first, lengths, counters)
        self._append_run(keypair.peer, first, last)

    def _accept_columns(
        self,
        keypair: Keypair,
        source: Endpoint,
        first: int,
        lengths: npt.NDArray[np.int32],
        counters: npt.NDArray[np.uint64],
    ) -> None:
        """All of a run is authentic: is it fresh, and may it come from where it says."""
        peer = keypair.peer
        last = first + len(lengths)
        if counters.max() >= REJECT_AFTER_MESSAGES:
            expired = np.flatnonzero(counters >= REJECT_AFTER_MESSAGES).tolist()
            peer.counters["session_expired"] += len(expired)
            fresh = np.flatnonzero(counters < REJECT_AFTER_MESSAGES)
            replayed = fresh[list(keypair.replay.accept_many(counters[fresh]))].tolist() if len(fresh) else []
        else:
            expired = []
            replayed = list(keypair.replay.accept_many(counters))
        if replayed:
            peer.counters["replayed"] += len(replayed)
        messages = len(lengths) - len(expired) - len(replayed)
        if messages != len(lengths):
            lengths[expired + replayed] = 0
            if not messages:
                return
        packets = int(np.count_nonzero(lengths))
        size = int(lengths.sum()) + messages * TRANSPORT_OVERHEAD
        self._received(keypair, source, messages, size, packets)
        if packets:
            self._filter.check_rows(peer, self.packets, first, last)
            self._row_views.count(self._column_size, messages)

    def _open_singly(
        self,
        keypair: Keypair,
        source: Endpoint,
        first: int,
        nonces: list[View],
        bodies: list[View],
        outputs: list[View],
    ) -> None:
        """A short run, or one in which something was not authentic: message by message."""
        lengths = self.packets.lengths
        messages = size = packets = 0
        counters = self._counters[first : first + len(outputs)].tolist()
        for row, counter, nonce, body, output in zip(
            range(first, first + len(outputs)), counters, nonces, bodies, outputs, strict=True
        ):
            if not self._open_body(keypair, counter, nonce, body, output):
                lengths[row] = 0
                continue
            messages += 1
            size += len(output) + TRANSPORT_OVERHEAD
            if len(output):
                packets += 1
        if not messages:
            return
        self._received(keypair, source, messages, size, packets)
        if len(outputs) >= COLUMN_MINIMUM:
            self._filter.check_rows(keypair.peer, self.packets, first, first + len(outputs))
            return
        for row, output in enumerate(outputs, first):
            if lengths.item(row) and not self._filter.check(keypair.peer, output):
                lengths[row] = 0

    def _append_run(self, peer: Any, first: int, last: int) -> None:
        runs = self.packets.runs
        if runs and runs[-1][0] is peer and runs[-1][2] == first:
            runs[-1] = (peer, runs[-1][1], last)
        else:
            runs.append((peer, first, last))

    # ------------------------------------------------------------------ views

    def _slot_views(self, offset: int, size: int, count: int) -> _SlotViews:
        key = (offset, size)
        views = self._slots.pop(key, None)
        if views is None:
            if len(self._slots) >= MAX_CACHED_SLICES:
                del self._slots[next(iter(self._slots))]
            assert self._buffer is not None
            views = _SlotViews(self._buffer, self._view, offset, size)
        self._slots[key] = views  # most recently used: last
        if len(views.nonces) < count:
            views.extend(self._view, offset, size, count)
        return views
