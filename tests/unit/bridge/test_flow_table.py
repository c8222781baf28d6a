"""The table of flows: who is served, who is due, and that a fault of one is nobody else's."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lopower.bridge.config import BridgeConfig
from lopower.bridge.device_state import MAX_REFUSALS, DeviceState, DeviceTable
from lopower.bridge.flow import HEAVY_BYTES, SHARE_BYTES, SHARED_SECONDS, SHARED_SLOTS, Flow, FlowTable
from lopower.bridge.policy import Protocol, Via
from tests.support.bridge_devices import make_device

MOST = 4 * SHARE_BYTES


class Scripted(Flow):
    """A flow that does what the test says."""

    kind: Protocol = "udp"
    via: Via = Via.DIRECT

    def __init__(self, table: FlowTable, state: DeviceState, deadline: float, work: int = 0) -> None:
        super().__init__(table, state, 0.0)
        self.until = deadline
        self.work = work
        self.size = 0
        self.has_views = False
        self.served = 0
        self.ended: list[str] = []
        table.add(self)

    @property
    def deadline(self) -> float:
        return self.until

    def serve(self, now: float) -> bool:
        self.served += 1
        self.work -= 1
        self.table.moved += self.size
        return self.work > 0

    @property
    def can_wait(self) -> bool:
        return not self.has_views

    def expired(self, now: float) -> None:
        self.ended.append("expired")
        self.table.discard(self)

    def abort(self, now: float) -> None:
        self.ended.append("aborted")
        self.table.discard(self)

    def describe(self) -> dict[str, Any]:
        return {}


class Faulty(Scripted):
    def serve(self, now: float) -> bool:
        raise ZeroDivisionError

    def abort(self, now: float) -> None:
        raise ZeroDivisionError


@pytest.fixture
def table() -> FlowTable:
    return FlowTable(stack=cast(Any, None), poller=cast(Any, None), config=BridgeConfig())


@pytest.fixture
def state() -> DeviceState:
    return DeviceState(make_device(2))


def test_a_deadline_is_kept_before_at_and_after(table: FlowTable, state: DeviceState) -> None:
    flow = Scripted(table, state, 10.0)
    assert table.next_timer() == 10.0
    table.handle_timer(9.999)
    assert len(table) == 1
    table.handle_timer(10.0)
    assert flow.ended == ["expired"]
    assert table.next_timer() is None
    table.handle_timer(11.0)


def test_a_deadline_that_moved_is_looked_at_again(table: FlowTable, state: DeviceState) -> None:
    flow = Scripted(table, state, 10.0)
    flow.until = 30.0
    table.handle_timer(10.0)
    assert not flow.ended
    assert table.next_timer() == 30.0
    flow.until = 20.0
    table.schedule(20.0)
    assert table.next_timer() == 20.0


def test_many_deadlines_do_not_mean_many_looks(table: FlowTable, state: DeviceState) -> None:
    flows = [Scripted(table, state, 10.0 + number / 1000) for number in range(100)]
    table.handle_timer(10.0)
    due = table.next_timer()
    assert due is not None
    assert due >= 10.2
    table.handle_timer(due)
    assert all(flow.ended for flow in flows)


def test_rounds_are_fair(table: FlowTable, state: DeviceState) -> None:
    busy, quiet = Scripted(table, state, 99.0, work=100), Scripted(table, state, 99.0, work=1)
    table.ready[busy] = table.ready[quiet] = None
    assert table.serve(1.0, MOST)
    assert (busy.served, quiet.served) == (1, 1)
    while table.serve(1.0, MOST):
        pass
    assert busy.served == 100


def test_a_round_is_bounded_and_heavy_flows_take_turns(table: FlowTable, state: DeviceState) -> None:
    heavy = [Scripted(table, state, 99.0, work=1000) for _ in range(10)]
    for flow in heavy:
        flow.size = MOST // 2
        table.ready[flow] = None
    assert table.serve(1.0, MOST)  # finds out who is heavy
    for _ in range(100):
        assert table.serve(1.0, MOST)
        assert table.moved == MOST
    assert {flow.served for flow in heavy} == {1 + 100 * 2 // 10}


def test_flows_that_read_in_small_pieces_get_as_much_as_others(table: FlowTable, state: DeviceState) -> None:
    large, small = Scripted(table, state, 99.0, work=10_000), Scripted(table, state, 99.0, work=10_000)
    large.size, small.size = 2 * SHARE_BYTES, SHARE_BYTES // 16
    for flow in (large, small):
        flow.is_heavy = True
        table.ready[flow] = None
    for _ in range(40):
        table.serve(1.0, MOST)
    assert 0.45 <= small.served * small.size / (large.served * large.size) <= 1.1


def test_who_moves_little_is_served_in_every_round_and_first(table: FlowTable, state: DeviceState) -> None:
    heavy = [Scripted(table, state, 99.0, work=1000) for _ in range(10)]
    for flow in heavy:
        flow.size = MOST
        flow.is_heavy = True
        table.ready[flow] = None
    quiet = Scripted(table, state, 99.0)
    quiet.size = 1
    for number in range(20):
        table.ready[quiet] = None
        table.serve(1.0, MOST)
        assert quiet.served == number + 1
        assert table.moved == MOST + 1
    assert [flow.served for flow in heavy] == [2] * 10


def test_who_has_views_of_the_turns_packets_never_waits(table: FlowTable, state: DeviceState) -> None:
    flows = [Scripted(table, state, 99.0, work=1) for _ in range(3)]
    for flow in flows:
        flow.size, flow.is_heavy, flow.has_views = MOST, True, True
        table.ready[flow] = None
    assert not table.serve(1.0, MOST)
    assert [flow.served for flow in flows] == [1, 1, 1]


def test_a_flow_is_heavy_as_long_as_it_moves_much(table: FlowTable, state: DeviceState) -> None:
    flow = Scripted(table, state, 99.0)
    for size, is_heavy in ((HEAVY_BYTES - 1, False), (HEAVY_BYTES, True), (0, True), (1, False)):
        flow.size = size
        table.ready[flow] = None
        table.serve(1.0, MOST)
        assert flow.is_heavy is is_heavy


def test_bulk_reads_less_at_once_while_somebody_waits_for_answers(table: FlowTable, state: DeviceState) -> None:
    bulk, quiet = Scripted(table, state, 99.0, work=1000), Scripted(table, state, 99.0)
    bulk.size, bulk.is_heavy, quiet.size = MOST, True, 1
    table.ready[bulk] = None
    table.serve(1.0, MOST)
    assert table.slots > SHARED_SLOTS
    table.ready[quiet] = None
    table.serve(1.0, MOST)
    table.serve(1.0 + SHARED_SECONDS / 2, MOST)
    assert table.slots == SHARED_SLOTS
    table.serve(1.0 + SHARED_SECONDS, MOST)
    assert table.slots > SHARED_SLOTS


def test_a_flow_that_has_ended_is_not_served(table: FlowTable, state: DeviceState) -> None:
    flow = Scripted(table, state, 99.0, work=5)
    table.ready[flow] = None
    table.discard(flow)
    table.ready[flow] = None
    assert not table.serve(1.0, MOST)
    assert flow.served == 0
    assert not state.flows


def test_a_fault_of_one_flow_is_nobody_elses(
    table: FlowTable, state: DeviceState, caplog: pytest.LogCaptureFixture
) -> None:
    faulty, sound = Faulty(table, state, 99.0), Scripted(table, state, 99.0, work=1)
    table.ready[faulty] = table.ready[sound] = None
    assert not table.serve(1.0, MOST)
    assert sound.served == 1
    assert list(table) == [sound]
    assert state.counters["faults"] == 1
    assert "one flow of device2 is given up" in caplog.text


def test_refusals_are_counted_by_destination_and_bounded(state: DeviceState) -> None:
    for number in range(MAX_REFUSALS + 5):
        state.note_refusal(("tcp", b"%d" % number, 80), "10.0.0.1", "refused_not_allowed", "why", float(number))
    state.note_refusal(("tcp", b"20", 80), "10.0.0.1", "refused_host_address", "why else", 99.0)
    assert len(state.refusals) == MAX_REFUSALS
    assert ("tcp", b"4", 80) not in state.refusals
    latest = list(state.refusals.values())[-1]
    assert (latest.count, latest.reason, latest.latest) == (2, "refused_host_address", 99.0)
    assert state.counters["refused_not_allowed"] == MAX_REFUSALS + 5


def test_devices_are_found_by_address_until_they_go() -> None:
    devices, state = DeviceTable(), DeviceState(make_device(2))
    old = state.addresses
    devices.add(state, "peer")
    assert state.peer == "peer"
    assert [devices.device_at(address) for address in old] == [state.device] * 2
    state.device = make_device(5)
    devices.add(state, "peer")
    assert devices.device_at(old[0]) is None
    assert devices.state_at(state.addresses[0]) is state
    devices.remove(state)
    devices.remove(state)
    assert len(devices) == 0
    with pytest.raises(KeyError):
        devices.state_at(state.addresses[0])
