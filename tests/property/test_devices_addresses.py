"""The address pool against one that looks at every address, and the registry's promise over restarts."""

from __future__ import annotations

import tempfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lopower.devices.addresses import RETIREMENT, AddressPool
from lopower.devices.device import Device
from lopower.devices.errors import AddressesExhausted, AddressTaken
from lopower.devices.registry import Registry
from tests.support.registries import Clock, new_device, open_registry

NETWORK = IPv4Network("10.0.0.0/28")
HOSTS = [NETWORK[number] for number in range(2, 15)]

STEPS = st.lists(
    st.one_of(
        st.just(("lowest", 0)),
        st.tuples(st.just("take"), st.integers(0, 12)),
        st.tuples(st.just("retire"), st.integers(0, 12)),
        st.tuples(st.just("give back"), st.integers(0, 12)),
        st.tuples(st.just("wait"), st.sampled_from([1, RETIREMENT // 2, RETIREMENT])),
    ),
    max_size=60,
)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(STEPS)
def test_the_lowest_free_address_is_given(steps: list[tuple[str, int]]) -> None:
    pool = AddressPool(NETWORK, IPv4Address)
    held: set[IPv4Address] = set()
    retired: dict[IPv4Address, int] = {}
    now = 0
    for step, number in steps:
        free = [host for host in HOSTS if host not in held and retired.get(host, -RETIREMENT) + RETIREMENT <= now]
        address = HOSTS[number] if number < len(HOSTS) else HOSTS[0]
        assert pool.is_free(address, now) == (address in free)
        if step == "lowest":
            taken = pool.take_lowest(now)
            assert taken == (free[0] if free else None)
            held |= {taken} if taken else set()
        elif step == "take" and address in free:
            pool.take(address)
            held.add(address)
        elif step == "retire" and address in held:
            held.remove(address)
            pool.retire(address, now)
            retired[address] = now
        elif step == "give back" and address in held:
            held.remove(address)
            pool.give_back(address)
            retired.pop(address, None)
        elif step == "wait":
            now += number


class Restarts(RuleBasedStateMachine):
    """Adding, removing, renaming, waiting and reopening, against a model of what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.registry: Registry
        self.devices: dict[str, Device] = {}
        self.gone: dict[IPv4Address, float] = {}
        self.count = 0

    @initialize()
    def start(self) -> None:
        self.registry = open_registry(Path(self.directory.name), clock=self.clock)
        self.registry.set_ranges(NETWORK, self.registry.ranges.ipv6)

    def free(self) -> list[IPv4Address]:
        held = {device.ipv4 for device in self.devices.values()}
        return [host for host in HOSTS if host not in held and self.gone.get(host, 0.0) + RETIREMENT <= self.clock.now]

    @rule()
    def add(self) -> None:
        self.count += 1
        free = self.free()
        if free:
            device = self.registry.add(new_device(f"device-{self.count}"))
            assert device.ipv4 == free[0]
            self.devices[device.name] = device
        else:
            with pytest.raises(AddressesExhausted):
                self.registry.add(new_device(f"device-{self.count}"))

    @rule(number=st.integers(0, 12))
    def add_with_address(self, number: int) -> None:
        self.count += 1
        new = new_device(f"device-{self.count}", ipv4=HOSTS[number])
        if HOSTS[number] in self.free():
            self.devices[new.name] = self.registry.add(new)
        else:
            with pytest.raises(AddressTaken):
                self.registry.add(new)

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.devices)))
        device = self.devices.pop(name)
        assert device.ipv4 is not None
        self.gone[device.ipv4] = self.clock.now
        self.registry.remove(name)

    @precondition(lambda self: self.devices)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.devices)))
        self.count += 1
        renamed = self.registry.rename(name, f"renamed-{self.count}")
        del self.devices[name]
        self.devices[renamed.name] = renamed

    @rule(seconds=st.sampled_from([60, RETIREMENT // 2, RETIREMENT]))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def reopen(self) -> None:
        self.registry.close()
        self.registry = open_registry(Path(self.directory.name), clock=self.clock)

    @invariant()
    def all_are_there(self) -> None:
        if hasattr(self, "registry"):
            assert {device.name: device for device in self.registry.devices()} == self.devices

    def teardown(self) -> None:
        if hasattr(self, "registry"):
            self.registry.close()
        self.directory.cleanup()


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
