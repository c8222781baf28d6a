"""Which device, and which of its ports, is meant by what arrives from the tailnet. Decides only."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.devices.exposures import Exposure

IPAddress = IPv4Address | IPv6Address

_OWN_NODE: Final = "device-"
# 4via6: fd7a:115c:a1e0:b1a:0:SITE:v4 (Tailscale, "4via6 subnet routers").
VIA_RANGE: Final = IPv6Network("fd7a:115c:a1e0:b1a::/64")


def node_of(device_id: int) -> str:
    """What a device's own node is called between us and the sidecar."""
    return f"{_OWN_NODE}{device_id}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a flow from the tailnet goes.

    Attributes:
        state: the device.
        address: the address of the device that was asked for; None: any that it has.
        port: its port.
        tls: the node ends TLS, and the device gets what is inside.
    """

    state: DeviceState
    address: IPAddress | None
    port: int
    tls: bool = False


Refusal = Literal["inbound_not_exposed", "inbound_not_permitted", "inbound_device_off"]


class Exposed:
    """The table of exposures.

    Args:
        state_of: the state of the device with an id, if it is enabled.
        state_at: the state of the device with a packed address.
    """

    def __init__(
        self, state_of: Callable[[int], DeviceState | None], state_at: Callable[[bytes], DeviceState | None]
    ) -> None:
        self._state_of = state_of
        self._state_at = state_at
        self._by_place: dict[str, Exposure] = {}
        self._by_device: dict[int, list[Exposure]] = {}

    def set(self, exposures: Iterable[Exposure]) -> None:
        """The exposures are these from now on."""
        self._by_place = {exposure.place: exposure for exposure in exposures}
        self._by_device = {}
        for exposure in self._by_place.values():
            self._by_device.setdefault(exposure.device_id, []).append(exposure)

    def node_for(self, device_id: int) -> str | None:
        """The node that a device's own flows leave from, if it is not the proxy's."""
        return node_of(device_id) if f"node:{device_id}" in self._by_place else None

    def routed(self, address: IPAddress) -> tuple[DeviceState, IPAddress] | None:
        """The device behind an address of our routes, and which address of its that is."""
        state = self._state_at(address.packed)
        if state is not None:
            return state, address
        if isinstance(address, IPv6Address) and address in VIA_RANGE:
            inner = IPv4Address(address.packed[12:])
            state = self._state_at(inner.packed)
            return None if state is None else (state, inner)
        return None

    def find(
        self,
        *,
        node: str,
        transport: Literal["tcp", "udp"],
        destination: IPAddress,
        port: int,
        source: IPAddress,
        user: str,
        tags: tuple[str, ...],
    ) -> Target | Refusal:
        """Where a flow goes, or why nowhere.

        Args:
            node: which of our nodes it arrived at.
            destination, port: what was asked for.
            source, user, tags: who asks.
        """
        routed = self.routed(destination)
        if routed is not None:
            # Who is kept from a port of a device is kept from it by its own address as well.
            ways = [way for way in self._by_device.get(routed[0].device.id, ()) if way.leads_to(transport, port)]
            if ways and not any(way.permits(source, user, tags) for way in ways):
                return "inbound_not_permitted"
            return Target(*routed, port)
        if node.startswith(_OWN_NODE):
            exposure = self._by_place.get(f"node:{node.removeprefix(_OWN_NODE)}")
        else:
            exposure = self._by_place.get(f"{transport}:{port}") or self._by_place.get("all")
        if exposure is None:
            return "inbound_not_exposed"
        if not exposure.permits(source, user, tags):
            return "inbound_not_permitted"
        state = self._state_of(exposure.device_id)
        if state is None:
            return "inbound_device_off"
        return Target(state, None, exposure.target_port or port, exposure.kind == "https")
