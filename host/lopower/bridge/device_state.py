"""What the bridge keeps for each device: its flows, its limits, and what it was refused."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lopower.bridge.flow import Flow
    from lopower.devices.device import Device

# Destinations listed per device as refused; a device that scans a network pushes its own older entries out.
MAX_REFUSALS: Final = 32


@dataclass(slots=True)
class Refusal:
    """One destination that policy, or the network, did not let a device reach.

    Attributes:
        protocol: `tcp`, `udp` or `icmp`.
        destination: address in text; `port` is None for icmp.
        reason: the counter's name.
        message: why, and what to do, for a person.
        count: how often.
        latest: monotonic seconds.
    """

    protocol: str
    destination: str
    port: int | None
    reason: str
    message: str
    count: int
    latest: float


class DeviceState:
    """One connected device. The WireGuard peer's `context`.

    Attributes:
        device: its entry in the registry; replaced when that changes.
        mtu: of its tunnel, in bytes.
        peer: the WireGuard peer, once the bridge has been told of it.
        counters: what happened to its flows, by name.
        flows: TCP and UDP flows, oldest first.
        tcp_flows, dials, udp_flows, echoes: how many of each it has, for its limits.
        queries: DNS queries being resolved for it.
        refusals: what was refused lately, by protocol, destination and port.
    """

    __slots__ = (
        "counters",
        "device",
        "dials",
        "echoes",
        "flows",
        "mtu",
        "peer",
        "queries",
        "refusals",
        "tcp_flows",
        "udp_flows",
    )

    def __init__(self, device: Device, *, mtu: int = 1420) -> None:
        self.device = device
        self.mtu = mtu
        self.peer: Any = None
        self.counters: Counter[str] = Counter()
        self.flows: dict[Flow, None] = {}
        self.tcp_flows = 0
        self.udp_flows = 0
        self.dials = 0
        self.echoes = 0
        self.queries = 0
        self.refusals: OrderedDict[tuple[str, bytes, int | None], Refusal] = OrderedDict()

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """The device's inner addresses, packed."""
        device = self.device
        return tuple(address.packed for address in (device.ipv4, device.ipv6) if address is not None)

    def note_refusal(
        self, key: tuple[str, bytes, int | None], text: str, reason: str, message: str, now: float
    ) -> None:
        """Count one refusal, by reason and by destination.

        Args:
            key: protocol, packed destination, port.
            text: the destination's address in text.
            reason: the counter's name.
            message: for a person.
            now: monotonic seconds.
        """
        self.counters[reason] += 1
        refusal = self.refusals.get(key)
        if refusal is None:
            if len(self.refusals) >= MAX_REFUSALS:
                self.refusals.popitem(last=False)
            self.refusals[key] = Refusal(key[0], text, key[2], reason, message, 1, now)
        else:
            refusal.reason, refusal.message, refusal.latest = reason, message, now
            refusal.count += 1
            self.refusals.move_to_end(key)


class DeviceTable:
    """The connected devices, by address."""

    def __init__(self) -> None:
        self._states: dict[DeviceState, tuple[bytes, ...]] = {}
        self._by_address: dict[bytes, DeviceState] = {}
        self._by_id: dict[int, DeviceState] = {}

    def __len__(self) -> int:
        return len(self._states)

    def add(self, state: DeviceState, peer: Any) -> None:
        """A device is there, or its addresses changed."""
        self.remove(state)
        state.peer = peer
        self._states[state] = state.addresses
        self._by_id[state.device.id] = state
        for address in state.addresses:
            self._by_address[address] = state

    def remove(self, state: DeviceState) -> None:
        """A device is gone. Harmless when it was not there."""
        if self._by_id.get(state.device.id) is state:
            del self._by_id[state.device.id]
        for address in self._states.pop(state, ()):
            if self._by_address.get(address) is state:
                del self._by_address[address]

    def device_at(self, address: bytes) -> Device | None:
        """The device with this packed address."""
        state = self._by_address.get(address)
        return state.device if state is not None else None

    def find_at(self, address: bytes) -> DeviceState | None:
        """The state of the device with this packed address."""
        return self._by_address.get(address)

    def find_by_id(self, device_id: int) -> DeviceState | None:
        """The state of the device with this id, which is asked for per flow from the tailnet."""
        return self._by_id.get(device_id)

    def state_at(self, address: bytes) -> DeviceState:
        """The state of the device with this packed address.

        Raises:
            KeyError: no device has it.
        """
        return self._by_address[address]
