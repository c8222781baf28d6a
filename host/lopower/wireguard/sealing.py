"""Sealing packets (whitepaper section 5.4.6): many messages into one buffer, which leaves by one call of `transmit`.

Messages of one size lie one behind the other, as UDP GSO wants them; the last of a buffer may be shorter. Headers are
written as columns: first with an index of zero, so that bytes 4 to 16 of each message, in place, are the AEAD's
nonce, and the index once the messages are sealed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from lopower.wire.datagrams import Endpoint, Transmit
from lopower.wire.rows import PacketRows
from lopower.wire.wireguard import (
    PADDING_MULTIPLE,
    TRANSPORT_HEADER,
    TRANSPORT_HEADER_SIZE,
    TRANSPORT_OVERHEAD,
    TYPE_TRANSPORT,
)
from lopower.wireguard.keypair import Keypair

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_BUFFER: Final = 65_507
"""Largest UDP payload over IPv4, which bounds one GSO send."""

MAX_SEGMENTS: Final = 64
"""Linux's UDP_MAX_SEGMENTS before 6.9."""

COLUMN_MINIMUM: Final = 4
"""Fewer messages than this cost less one by one than by columns."""

MAX_CACHED_SIZES: Final = 24
"""Message sizes whose views of the buffer are kept, at 25 KB each; odd ones push out the least recently used."""

_NO_ASSOCIATED_DATA: Final = repeat(None)
_COUNTING: Final[npt.NDArray[np.uint64]] = np.arange(MAX_SEGMENTS, dtype=np.uint64)
_PADDING: Final = bytes(PADDING_MULTIPLE)

View: TypeAlias = "memoryview[int]"
Plaintext: TypeAlias = "bytes | bytearray | memoryview[int]"


def padded_length(length: int, mtu: int) -> int:
    """`length` rounded up to a multiple of 16, but not beyond the MTU (whitepaper 5.4.6)."""
    padded = -(-length // PADDING_MULTIPLE) * PADDING_MULTIPLE
    return padded if padded <= mtu else max(length, mtu)


class _Layout:
    """The buffer cut into messages of one size."""

    __slots__ = ("bodies", "capacity", "counters", "headers", "nonces", "size")

    def __init__(self, buffer: bytearray, size: int) -> None:
        self.size = size
        self.capacity = max(1, min(MAX_SEGMENTS, MAX_BUFFER // size))
        shape = (self.capacity,)
        self.headers: npt.NDArray[np.uint64] = np.ndarray(shape, "<u8", buffer, 0, (size,))
        self.counters: npt.NDArray[np.uint64] = np.ndarray(shape, "<u8", buffer, 8, (size,))
        self.nonces: list[View] = []
        self.bodies: list[View] = []

    def extend(self, view: View, count: int) -> None:
        size = self.size
        for at in range(len(self.nonces) * size, count * size, size):
            self.nonces.append(view[at + 4 : at + 16])
            self.bodies.append(view[at + TRANSPORT_HEADER_SIZE : at + size])


class Sealer:
    """Seals and transmits. Whether a session may be used is the caller's to know, and who counts."""

    __slots__ = ("_buffer", "_layouts", "_transmit", "_view")

    def __init__(self, transmit: Transmit) -> None:
        self._transmit = transmit
        self._buffer = bytearray(MAX_BUFFER + TRANSPORT_OVERHEAD)
        self._view = memoryview(self._buffer)
        self._layouts: dict[int, _Layout] = {}

    def seal_packets(self, keypair: Keypair, endpoint: Endpoint, packets: Sequence[Buffer], mtu: int) -> int:
        """Seal and send packets of any sizes, in order. Returns the bytes of all messages."""
        sent = 0
        run: list[Plaintext] = []
        size = 0
        for packet in packets:
            plaintext: Plaintext = memoryview(packet)
            length = len(plaintext)
            padded = padded_length(length, mtu)
            if padded != length:
                plaintext = b"".join((plaintext, _PADDING[: padded - length]))
            if run and padded == size:
                run.append(plaintext)
            elif run and padded < size:  # the shorter last one of a run
                run.append(plaintext)
                sent += self._seal_run(keypair, endpoint, run, size, padded)
                run = []
            else:
                if run:
                    sent += self._seal_run(keypair, endpoint, run, size, size)
                run = [plaintext]
                size = padded
        if run:
            sent += self._seal_run(keypair, endpoint, run, size, size)
        return sent

    def seal_rows(
        self,
        keypair: Keypair,
        endpoint: Endpoint,
        rows: PacketRows,
        first: int,
        count: int,
        packet_length: int,
        last_length: int,
        mtu: int,
    ) -> int:
        """Seal and send rows `[first, first + count)`, all `packet_length` bytes long, the last one `last_length`.

        The padding behind a packet, in its row, is zeroed. Returns the bytes of all messages.
        """
        size = padded_length(packet_length, mtu)
        last_size = padded_length(last_length, mtu)
        last = first + count - 1
        view, stride = rows.view, rows.stride
        if size != packet_length:
            padding = _PADDING[: size - packet_length]
            for at in range(first * stride + packet_length, last * stride, stride):
                view[at : at + len(padding)] = padding
        if last_size != last_length:
            at = last * stride + last_length
            view[at : at + last_size - last_length] = _PADDING[: last_size - last_length]
        if count < COLUMN_MINIMUM:
            plaintexts: list[Plaintext] = [rows.packet(row, size) for row in range(first, last)]
            plaintexts.append(rows.packet(last, last_size))
        else:
            plaintexts = list(rows.slices(0, size)[first : last + 1])
            if last_size != size:
                plaintexts[-1] = rows.packet(last, last_size)
        return self._seal_run(keypair, endpoint, plaintexts, size, last_size)

    def _seal_run(
        self, keypair: Keypair, endpoint: Endpoint, plaintexts: Sequence[Plaintext], size: int, last_size: int
    ) -> int:
        """Padded plaintexts of `size` bytes each, the last one `last_size`, which is not more."""
        message_size = size + TRANSPORT_OVERHEAD
        count = len(plaintexts)
        short = size - last_size
        if count < COLUMN_MINIMUM and count * message_size <= MAX_BUFFER:
            self._seal_few(keypair, plaintexts, message_size, short)
            end = count * message_size - short
            self._transmit(self._view[:end], message_size, endpoint)
            return end
        layout = self._layout(message_size)
        total = count * message_size - short
        for start in range(0, count, layout.capacity):
            some = min(layout.capacity, count - start)
            missing = short if start + some == count else 0
            self._seal_many(keypair, layout, plaintexts[start : start + some], missing)
            self._transmit(self._view[: some * message_size - missing], message_size, endpoint)
        return total

    def _seal_few(self, keypair: Keypair, plaintexts: Sequence[Plaintext], message_size: int, short: int) -> None:
        view, encrypt_into = self._view, keypair.encrypt_into
        counter = keypair.send_counter
        last = len(plaintexts) - 1
        keypair.send_counter = counter + last + 1
        for i, plaintext in enumerate(plaintexts):
            at = i * message_size
            end = at + message_size - (short if i == last else 0)
            TRANSPORT_HEADER.pack_into(view, at, TYPE_TRANSPORT, 0, counter + i)
            encrypt_into(view[at + 4 : at + 16], plaintext, None, view[at + TRANSPORT_HEADER_SIZE : end])
            view[at + 4 : at + 8] = keypair.remote_index.to_bytes(4, "little")

    def _seal_many(self, keypair: Keypair, layout: _Layout, plaintexts: Sequence[Plaintext], short: int) -> None:
        count = len(plaintexts)
        if len(layout.nonces) < count:
            layout.extend(self._view, count)
        bodies = layout.bodies
        if short:
            bodies = bodies[:count]
            bodies[-1] = bodies[-1][:-short]
        counter = keypair.send_counter
        keypair.send_counter = counter + count
        layout.headers[:count] = TYPE_TRANSPORT
        np.add(_COUNTING[:count], np.uint64(counter), out=layout.counters[:count])
        deque(map(keypair.encrypt_into, layout.nonces, plaintexts, _NO_ASSOCIATED_DATA, bodies), 0)
        layout.headers[:count] = keypair.remote_index << 32 | TYPE_TRANSPORT

    def _layout(self, message_size: int) -> _Layout:
        layout = self._layouts.pop(message_size, None)
        if layout is None:
            if len(self._layouts) >= MAX_CACHED_SIZES:
                del self._layouts[next(iter(self._layouts))]
            layout = _Layout(self._buffer, message_size)
        self._layouts[message_size] = layout  # most recently used: last
        return layout
