"""Outer UDP datagrams as they pass between the daemon's socket and `wireguard`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from lopower.wire import buffers


class Endpoint(NamedTuple):
    """A peer's outer UDP address, and the address of ours that it talked to.

    Attributes:
        host: the peer's address in text, IPv4 never in its IPv6-mapped form.
        port: its UDP port.
        scope_id: the interface of a link-local IPv6 address, else 0.
        local: our address that the peer used, packed (4 or 16 bytes); empty: the kernel chooses.
    """

    host: str
    port: int
    scope_id: int = 0
    local: bytes = b""


class DatagramBatch:
    """Super-datagrams of one turn. Owner: the socket; valid until it receives again; the reader may write to it.

    Super-datagram `i` is `buffer[offsets[i] : offsets[i] + lengths[i]]` and holds datagrams of `segment_sizes[i]` bytes
    each (UDP GRO), the last one possibly shorter, all from `endpoints[i]`. Without GRO each holds one datagram. Offsets
    are multiples of 65,536, so that views of a slot can be cut once and kept.
    """

    __slots__ = ("buffer", "endpoints", "lengths", "offsets", "segment_sizes", "view")

    def __init__(self, buffer: buffers.Bytes) -> None:
        self.buffer = buffer
        self.view = memoryview(buffer)
        self.offsets: list[int] = []
        self.lengths: list[int] = []
        self.segment_sizes: list[int] = []
        self.endpoints: list[Endpoint] = []

    def append(self, offset: int, length: int, segment_size: int, endpoint: Endpoint) -> None:
        """Add one super-datagram that lies in the buffer already."""
        self.offsets.append(offset)
        self.lengths.append(length)
        self.segment_sizes.append(segment_size)
        self.endpoints.append(endpoint)

    def clear(self) -> None:
        """Forget all datagrams; the buffer stays."""
        self.offsets.clear()
        self.lengths.clear()
        self.segment_sizes.clear()
        self.endpoints.clear()


class Transmit(Protocol):
    """How `wireguard` hands datagrams to the socket."""

    def __call__(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint, /) -> None:
        """Send `datagrams`, cut every `segment_size` bytes, to `endpoint`; the buffer is the caller's again on return.

        Never raises for what the network does: a datagram that cannot leave is counted and dropped.
        """
