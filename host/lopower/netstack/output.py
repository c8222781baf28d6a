"""Where packets leave: the interface the stack needs below it, and the queue of one turn in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lopower.netstack.fragments import split
from lopower.wire.ip import ip_header

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from lopower.wire.rows import PacketRows


class PacketOutput(Protocol):
    """What seals packets and sends them to a peer (`wireguard.Interface`). Never raises for what the network does."""

    def send_packets(self, peer: Any, packets: Sequence[Buffer], now: float) -> None:
        """Send whole IP packets, in order; they are the caller's again on return."""

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        """Send rows `[first, first + count)`: `packet_length` bytes each, the last one `last_length`."""


class IpOutput:
    """Puts IP headers in front of what UDP and ICMP send, in fragments where it must be, and queues the turn's packets.

    What one turn sends to one peer leaves in one call, since sealing and sending cost mostly per call.

    Attributes:
        mtu_for: the MTU towards a peer, in bytes.
    """

    __slots__ = ("_entropy", "_identifications", "_output", "_queues", "mtu_for")

    def __init__(self, *, output: PacketOutput, entropy: Callable[[int], bytes], mtu_for: Callable[[Any], int]) -> None:
        self.mtu_for = mtu_for
        self._output = output
        self._entropy = entropy
        self._queues: dict[Any, list[Buffer]] = {}
        self._identifications: dict[Any, int] = {}

    def queue(self, peer: Any) -> list[Buffer]:
        """The packets that leave for `peer` with the next `flush`; append whole ones that fit its MTU."""
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = []
        return queue

    def send(
        self, peer: Any, source: bytes, destination: bytes, protocol: int, payload: Buffer, mtu: int | None = None
    ) -> None:
        """Queue one IP packet, or its fragments if it exceeds `mtu` (default: the peer's).

        Args:
            payload: upper-layer header and data, checksum included; at most 65,515 bytes over IPv4, 65,535 over IPv6.
        """
        if mtu is None:
            mtu = self.mtu_for(peer)
        view = memoryview(payload)
        if len(view) + (20 if len(source) == 4 else 40) <= mtu:
            self.queue(peer).append(ip_header(source, destination, protocol, len(view)) + view)
        else:
            identification = self._next_identification(peer)
            self.queue(peer).extend(split(source, destination, protocol, view, mtu, identification))

    def flush(self, now: float) -> None:
        """Hand on what is queued."""
        if self._queues:
            queues, self._queues = self._queues, {}
            for peer, packets in queues.items():
                self._output.send_packets(peer, packets, now)

    def forget_peer(self, peer: Any) -> None:
        """Drop what is queued for a peer and what is known of it."""
        self._queues.pop(peer, None)
        self._identifications.pop(peer, None)

    def _next_identification(self, peer: Any) -> int:
        """A counter per destination that starts at random: unique there, unknown elsewhere (RFC 7739 section 5.1)."""
        last = self._identifications.get(peer)
        if last is None:
            last = int.from_bytes(self._entropy(4), "big")
        value = self._identifications[peer] = (last + 1) & 0xFFFFFFFF
        return value
