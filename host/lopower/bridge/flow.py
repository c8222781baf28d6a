"""What all flows of the bridge have in common, and the table of them.

A flow has work when its device's side has news (the stack says so) or its upstream became ready (the poller says so).
Both only mark it; a round then serves the marked flows: those that say little first, then those that move much, in
turn, until the round has moved its share. The data path looks at its socket again between rounds, so that a busy flow
delays nobody by more than one round.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lopower.bridge.config import BridgeConfig
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.policy import Protocol, Via
    from lopower.bridge.poller import Poller
    from lopower.netstack.stack import Stack

log = logging.getLogger(__name__)

# Limits are minutes long; looking through all flows for those that are due happens at most this often.
_MIN_SWEEP_SECONDS: Final = 0.5
# A flow that moves so many bytes when it is served is after throughput, and waits behind those that are after answers.
HEAVY_BYTES: Final = 16 << 10
# What a heavy flow may move before the next one has its turn: chunks differ in size, so counting turns is not fair.
SHARE_BYTES: Final = 128 << 10
# Packets that a flow may read in one go while others wait, about 1 ms of work; alone it fills a chunk.
SHARED_SLOTS: Final = 180
SHARED_SECONDS: Final = 0.1  # since one of those has moved something
_ALL_SLOTS: Final = 1024  # UIO_MAXIOV: a system call takes no more


class Flow:
    """One flow of a device, as the table sees it.

    Attributes:
        kind: `tcp`, `udp` or `icmp`.
        via: where it goes on.
        state: whose it is.
        started: monotonic seconds.
        table: where it is entered.
        is_heavy: moved `HEAVY_BYTES` or more when it last moved anything.
    """

    kind: Protocol
    via: Via
    state: DeviceState
    started: float
    table: FlowTable
    is_heavy: bool = False

    def __init__(self, table: FlowTable, state: DeviceState, now: float) -> None:
        self.table = table
        self.state = state
        self.started = now

    @property
    def deadline(self) -> float:
        """When the flow is over if nothing happens until then. Who moves it to an earlier time calls `schedule`."""
        raise NotImplementedError

    @property
    def destination(self) -> tuple[bytes, int | None]:
        """Packed address and port that the device wants to reach."""
        raise NotImplementedError

    @property
    def can_wait(self) -> bool:
        """Whether its work may be left for the next round; not if it has views of the turn's packets."""
        return False

    def serve(self, now: float) -> bool:
        """Move what can be moved, a bounded piece of it; True if there is more that only waits for its turn."""
        raise NotImplementedError

    def expired(self, now: float) -> None:
        """Its deadline has come."""
        raise NotImplementedError

    def abort(self, now: float) -> None:
        """End at once, on both sides; to be called once, and nothing else after it."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """For `status`."""
        raise NotImplementedError


class FlowTable:
    """All flows: which have work, which are due, and what they share.

    Attributes:
        ready: flows that have work, in the order they got it.
        moved: bytes that the flows of this round have moved; they count themselves.
        slots: packets that a flow may read in one go.
        large_streams: flows whose unix stream to the sidecar has a large buffer.
        counters: what happened, for all devices together.
    """

    def __init__(self, *, stack: Stack, poller: Poller, config: BridgeConfig) -> None:
        self.stack = stack
        self.poller = poller
        self.config = config
        self.counters: Counter[str] = Counter()
        self.ready: dict[Flow, None] = {}
        self.moved = 0
        self.slots = _ALL_SLOTS
        self._shared_until = 0.0
        self.large_streams = 0
        self._flows: dict[Flow, None] = {}
        self._next_sweep: float | None = None

    def __len__(self) -> int:
        return len(self._flows)

    def __iter__(self) -> Iterator[Flow]:
        return iter(tuple(self._flows))

    def count(self, state: DeviceState, name: str) -> None:
        """Count something that happened, for the device and for all."""
        self.counters[name] += 1
        state.counters[name] += 1

    def add(self, flow: Flow) -> None:
        """A flow begins; its deadline must be known."""
        self._flows[flow] = None
        flow.state.flows[flow] = None
        self.schedule(flow.deadline)

    def schedule(self, deadline: float) -> None:
        """A flow may be due as early as this."""
        if self._next_sweep is None or deadline < self._next_sweep:
            self._next_sweep = deadline

    def discard(self, flow: Flow) -> None:
        """A flow is over. Harmless when it was already."""
        self._flows.pop(flow, None)
        self.ready.pop(flow, None)
        flow.state.flows.pop(flow, None)
        if not self._flows:
            self._next_sweep = None

    def serve(self, now: float, most: int) -> bool:
        """One round; True if some still have work.

        Args:
            now: monotonic seconds.
            most: once so many bytes have moved, what can wait does.
        """
        batch = self.ready
        if not batch:
            return False
        self.ready = {}
        self.moved = 0
        heavy = [flow for flow in batch if flow.is_heavy]
        self.slots = SHARED_SLOTS if len(heavy) > 1 or now < self._shared_until else _ALL_SLOTS
        for flow in batch:
            if not flow.is_heavy:
                self._serve(flow, now)
        waiting: dict[Flow, None] = {}
        for flow in heavy:
            if self.moved >= most and flow.can_wait:
                waiting[flow] = None
            else:
                self._serve(flow, now, SHARE_BYTES)
        if waiting:
            waiting.update(self.ready)  # who has waited is first in the next round
            self.ready = waiting
        return bool(self.ready)

    def _serve(self, flow: Flow, now: float, share: int = 0) -> None:
        """Serve it once, and again until it has moved `share` bytes or has no more."""
        latest = before = self.moved
        try:
            more = flow in self._flows and flow.serve(now)
            while more and latest < self.moved < before + share:
                latest = self.moved
                more = flow.serve(now)
            if more:
                self.ready[flow] = None
        except Exception:
            self._failed(flow, now)
        if self.moved != before:
            was_heavy, flow.is_heavy = flow.is_heavy, self.moved - before >= HEAVY_BYTES
            if not (was_heavy or flow.is_heavy):
                self._shared_until = now + SHARED_SECONDS

    def _failed(self, flow: Flow, now: float) -> None:
        """A fault of ours in one flow ends that flow, and no other."""
        self.count(flow.state, "faults")
        log.exception("internal error; one flow of %s is given up", flow.state.device.name)
        try:
            flow.abort(now)
        except Exception:
            log.exception("internal error; that flow could not be ended in order")
            self.discard(flow)

    def next_timer(self) -> float | None:
        """When `handle_timer` is next due."""
        return self._next_sweep

    def handle_timer(self, now: float) -> None:
        """End the flows whose deadline has come."""
        if self._next_sweep is None or now < self._next_sweep:
            return
        due = [flow for flow in self._flows if flow.deadline <= now]
        self._next_sweep = None
        for flow in due:
            if flow in self._flows:
                flow.expired(now)
        earliest = min((flow.deadline for flow in self._flows), default=None)
        if earliest is not None:
            self.schedule(max(earliest, now + _MIN_SWEEP_SECONDS))
