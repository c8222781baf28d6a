"""Two whole stacks over a seeded link that loses, repeats and reorders: a device's and the gateway's, by one clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from lopower.netstack.config import StackConfig
from lopower.netstack.stack import Stack
from lopower.wire.rows import PacketRows
from tests.support.netstack_world import DEVICE, GATEWAY, check, make_batch


class _End:
    """One end's output: what it sends is on its way to the other end."""

    def __init__(self, link: StackPair, to: str) -> None:
        self._link = link
        self._to = to

    def send_packets(self, peer: Any, packets: Sequence[Any], now: float) -> None:
        for packet in packets:
            self._link.carry(self._to, bytes(packet))

    def send_rows(
        self, peer: Any, rows: PacketRows, first: int, count: int, packet_length: int, last_length: int, now: float
    ) -> None:
        for row in range(first, first + count):
            length = last_length if row == first + count - 1 else packet_length
            self._link.carry(self._to, bytes(rows.packet(row, length)))


class StackPair:
    """`device` and `gateway`, each the other's peer of that name.

    Args:
        loss, duplication, reordering: probabilities, per packet.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        loss: float = 0.0,
        duplication: float = 0.0,
        reordering: float = 0.0,
        config: StackConfig | None = None,
    ) -> None:
        self.now = 1000.0
        self.carried = 0
        self._random = random.Random(seed)
        self._loss, self._duplication, self._reordering = loss, duplication, reordering
        self._wire: dict[str, list[bytes]] = {"device": [], "gateway": []}
        self.device = self._stack("gateway", DEVICE, config)
        self.gateway = self._stack("device", GATEWAY, config)

    def _stack(self, other: str, addresses: dict[int, bytes], config: StackConfig | None) -> Stack:
        return Stack(
            config=config or StackConfig(local_addresses=frozenset(addresses.values())),
            entropy=self._random.randbytes,
            uniform=self._random.uniform,
            output=_End(self, other),
        )

    def carry(self, to: str, packet: bytes) -> None:
        """A packet enters the wire; dpkt has a look at it first."""
        check(packet)
        self.carried += 1
        wire, chance = self._wire[to], self._random.random
        if chance() < self._loss:
            return
        for _ in range(2 if chance() < self._duplication else 1):
            if wire and chance() < self._reordering:
                wire.insert(self._random.randrange(max(0, len(wire) - 8), len(wire)), packet)
            else:
                wire.append(packet)

    def deliver(self) -> None:
        """What is on the wire arrives at both ends, in batches."""
        for to, stack, sender in (("gateway", self.gateway, "device"), ("device", self.device, "gateway")):
            packets, self._wire[to] = self._wire[to], []
            for start in range(0, len(packets), 64):
                stack.receive(make_batch((sender, packet) for packet in packets[start : start + 64]), self.now)

    def flush(self) -> None:
        """End the turn of both."""
        self.device.flush(self.now)
        self.gateway.flush(self.now)

    def advance(self, seconds: float) -> None:
        """Time goes by at both ends; what timers send is carried."""
        end = self.now + seconds
        while True:
            times = [at for at in (self.device.next_timer(), self.gateway.next_timer()) if at is not None and at <= end]
            if not times:
                break
            self.now = max(self.now, min(times))
            self.device.handle_timer(self.now)
            self.gateway.handle_timer(self.now)
            self.flush()
        self.now = end
