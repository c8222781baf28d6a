"""What all flows of the bridge have in common, and the table of them.

A flow has work when its device's side has news (the stack says so) or its upstream became ready (the poller says so).
Both only mark it; the turn then serves each marked flow once per round, so that one busy flow never starves the others.
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


class Flow:
    """One flow of a device, as the table sees it.

    Attributes:
        kind: `tcp`, `udp` or `icmp`.
        via: where it goes on.
        state: whose it is.
        started: monotonic seconds.
        table: where it is entered.
    """

    kind: Protocol
    via: Via
    state: DeviceState
    started: float
    table: FlowTable

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

    def serve(self, now: float) -> bool:
        """Move what can be moved; True if there is more that only waits for its turn."""
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
        large_streams: flows whose unix stream to the sidecar has a large buffer.
        counters: what happened, for all devices together.
    """

    def __init__(self, *, stack: Stack, poller: Poller, config: BridgeConfig) -> None:
        self.stack = stack
        self.poller = poller
        self.config = config
        self.counters: Counter[str] = Counter()
        self.ready: dict[Flow, None] = {}
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

    def serve(self, now: float, rounds: int) -> bool:
        """Serve all that have work, in rounds; True if some still have."""
        flows = self._flows
        for _ in range(rounds):
            batch = self.ready
            if not batch:
                return False
            self.ready = {}
            for flow in batch:
                try:
                    if flow in flows and flow.serve(now):
                        self.ready[flow] = None
                except Exception:
                    self._failed(flow, now)
        return bool(self.ready)

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
