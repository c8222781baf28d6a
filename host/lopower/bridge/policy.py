"""Who may reach what: one table, read from the top for every flow.

A row decides, or leaves it to the next. The order is the policy: what devices may do to each other and to this host is
settled before any rule is read, so no rule, however wide, opens the host itself, its loopback or its link. What no row
permits is refused. No I/O: the host's addresses and the rules are given, and given again when they change.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final, Literal

from lopower.bridge.special_addresses import METADATA, is_public, never_reached
from lopower.tailnet.driver import in_tailnet_ranges

if TYPE_CHECKING:
    from lopower.devices.device import Device
    from lopower.devices.policy import Rule

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Protocol = Literal["tcp", "udp", "icmp"]


class Via(enum.Enum):
    """Where a flow goes on."""

    GATEWAY = "gateway"  # a service of the gateway itself
    DEVICE = "device"  # another device
    TAILNET = "tailnet"  # the driver
    INBOUND = "inbound"  # from the tailnet to a device
    DIRECT = "direct"  # the host's own network stack
    CLOSED = "closed"  # the gateway's address, and nothing there
    UNREACHABLE = "unreachable"  # there is nothing at this address
    REFUSED = "refused"  # policy forbids it


@dataclass(frozen=True, slots=True)
class Decision:
    """What one row said.

    Attributes:
        via: where the flow goes on.
        reason: the row, or the finer reason within it; what refusals are counted under.
        message: for a person, why it was refused and what would permit it; empty if it was not.
        device: the other device, for `Via.DEVICE`.
    """

    via: Via
    reason: str
    message: str = ""
    device: Device | None = None


_NEVER_MESSAGES: Final = {
    "loopback": "loopback is this host itself; offer one of its ports to devices with `lopower serve PORT`",
    "tailnet_resolver": "the tailnet's resolver is asked by the gateway, whose DNS server devices use",
    "link_local": "link-local addresses are never reached through the proxy",
    "multicast": "multicast and broadcast are never carried",
    "unusable_address": "nothing can be reached at this address",
}
_NEVER: Final = {
    reason: Decision(Via.REFUSED, f"refused_{reason}", message) for reason, message in _NEVER_MESSAGES.items()
}
_GATEWAY: Final = Decision(Via.GATEWAY, "gateway")
_CLOSED: Final = Decision(Via.CLOSED, "refused_no_service", "the gateway offers nothing there; see `lopower serve`")
_NO_DEVICE: Final = Decision(
    Via.UNREACHABLE, "refused_no_such_device", "no device has this address, or the one that has it is disabled"
)
_ITSELF: Final = Decision(Via.REFUSED, "refused_own_address", "this is the device's own address")
_HOST: Final = Decision(
    Via.REFUSED,
    "refused_host_address",
    "this is an address of the host itself; offer one of its ports to devices with `lopower serve PORT`",
)
_METADATA: Final = Decision(
    Via.REFUSED,
    "refused_metadata",
    "metadata addresses give away the host's credentials; only a rule for exactly this address opens one",
)
_DENIED_DEVICE_RULE: Final = Decision(Via.REFUSED, "refused_device_rule", "a rule of this device denies it")
_DENIED_GLOBAL_RULE: Final = Decision(Via.REFUSED, "refused_global_rule", "a global rule denies it")
_TAILNET: Final = Decision(Via.TAILNET, "tailnet")
_DIRECT: Final = Decision(Via.DIRECT, "direct")
_REFUSED: Final = Decision(
    Via.REFUSED,
    "refused_not_allowed",
    "nothing permits it; `lopower device allow NAME CIDR[:PORTS]` would, or `--allow` for all devices",
)
_NOT_BETWEEN_DEVICES: Final = Decision(
    Via.REFUSED,
    "refused_device_to_device",
    "devices reach each other only by a rule: `lopower device allow NAME device:OTHER`",
)


class PolicyTable:
    """The table, for all devices.

    Args:
        gateway: the gateway's addresses.
        ranges: the devices' own ranges.
        rules: global rules.
        offers: whether the gateway offers a service at a protocol and port.
        device_at: the device with a packed inner address.
        tailnet_routes: whether the tailnet has a route to an address.
        tailnet_accepts: whether the tailnet carries flows to an address without a rule: by a route, or an exit node,
            that the owner has accepted for devices.
    """

    def __init__(
        self,
        *,
        gateway: Iterable[IPAddress],
        ranges: Iterable[IPNetwork],
        rules: Iterable[Rule] = (),
        offers: Callable[[Protocol, int], bool],
        device_at: Callable[[bytes], Device | None],
        tailnet_routes: Callable[[IPAddress], bool],
        tailnet_accepts: Callable[[IPAddress], bool] = lambda _: False,
    ) -> None:
        self._offers = offers
        self._device_at = device_at
        self._tailnet_routes = tailnet_routes
        self._tailnet_accepts = tailnet_accepts
        self._host_addresses: frozenset[bytes] = frozenset()
        self._attached: tuple[IPNetwork, ...] = ()
        self.set_ranges(gateway, ranges)
        self.set_rules(rules)
        self._rows: Final = (
            self._gateway_service,
            self._own_ranges,
            self._always_refused,
            self._device_rules,
            self._global_rules,
            self._tailnet_ranges,
            self._accepted_routes,
        )

    def set_ranges(self, gateway: Iterable[IPAddress], ranges: Iterable[IPNetwork]) -> None:
        """The gateway's addresses and the devices' ranges are these from now on."""
        self.gateway = frozenset(address.packed for address in gateway)
        self._ranges = tuple(ranges)

    def set_rules(self, rules: Iterable[Rule]) -> None:
        """The global rules are these from now on."""
        self.rules = tuple(rules)

    def set_host(self, addresses: Collection[bytes], attached: Sequence[IPNetwork]) -> None:
        """The host's addresses (packed) and directly attached networks are these from now on."""
        self._host_addresses = frozenset(addresses)
        self._attached = tuple(attached)

    def decide(self, device: Device, destination: bytes, protocol: Protocol, port: int | None) -> Decision:
        """Where a flow of `device` to `destination` (packed) goes; `port` is None for icmp."""
        address = ip_address(destination)
        for row in self._rows:
            decision = row(device, address, protocol, port)
            if decision is not None:
                return decision
        return _REFUSED

    def describe(self, device: Device) -> list[str]:
        """What the device may reach, in words, in the order in which it is decided."""
        lines = ["the gateway's services"]
        for rules, whose in ((device.rules, "this device"), (self.rules, "all devices")):
            for rule in rules:
                verb, _, subject = str(rule).partition(" ")
                lines.append(f"{'never ' if verb == 'deny' else ''}{subject} (a rule for {whose})")
        lines.append("the tailnet, where its own rules permit")
        lines.append("nothing else")
        return lines

    # The rows, in the table's order.

    def _gateway_service(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        if address.packed not in self.gateway:
            return None
        return _GATEWAY if port is None or self._offers(protocol, port) else _CLOSED

    def _own_ranges(self, device: Device, address: IPAddress, protocol: Protocol, port: int | None) -> Decision | None:
        if not any(address in network for network in self._ranges if network.version == address.version):
            return None
        other = self._device_at(address.packed)
        if other is None:
            return _NO_DEVICE
        if other.id == device.id:
            return _ITSELF
        for rules in (device.rules, self.rules):
            verdict = _verdict(rules, lambda rule: rule.device == other.name, protocol, port)
            if verdict is False:
                return _NOT_BETWEEN_DEVICES
            if verdict:
                return Decision(Via.DEVICE, "device", device=other)
        return _NOT_BETWEEN_DEVICES

    def _always_refused(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        kind = never_reached(address)
        if kind == "loopback":
            return _NEVER[kind]
        if address.packed in self._host_addresses:
            return _HOST
        if address.packed in METADATA:
            for rules in (device.rules, self.rules):
                verdict = _verdict(rules, lambda rule: _is_exactly(rule.network, address), protocol, port)
                if verdict is not None:
                    return _DIRECT if verdict else _METADATA
            return _METADATA
        return _NEVER[kind] if kind is not None else None

    def _device_rules(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        return self._by_rules(device.rules, address, protocol, port, _DENIED_DEVICE_RULE)

    def _global_rules(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        return self._by_rules(self.rules, address, protocol, port, _DENIED_GLOBAL_RULE)

    def _tailnet_ranges(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        return _TAILNET if in_tailnet_ranges(address) else None

    def _accepted_routes(
        self, device: Device, address: IPAddress, protocol: Protocol, port: int | None
    ) -> Decision | None:
        return _TAILNET if self._tailnet_accepts(address) else None

    def _by_rules(
        self, rules: Sequence[Rule], address: IPAddress, protocol: Protocol, port: int | None, denied: Decision
    ) -> Decision | None:
        if not rules:
            return None
        verdict = _verdict(rules, lambda rule: self._covers(rule, address), protocol, port)
        if verdict is None:
            return None
        if not verdict:
            return denied
        # A tailnet address is carried by the tailnet or not at all; others by it where it has a route.
        return _TAILNET if in_tailnet_ranges(address) or self._tailnet_routes(address) else _DIRECT

    def _covers(self, rule: Rule, address: IPAddress) -> bool:
        if rule.network is not None:
            return address.version == rule.network.version and address in rule.network
        if rule.keyword == "internet":
            return is_public(address)
        if rule.keyword == "lan":
            return any(address in network for network in self._attached if network.version == address.version)
        return False


def _verdict(
    rules: Sequence[Rule], concerns: Callable[[Rule], bool], protocol: Protocol, port: int | None
) -> bool | None:
    """False if a rule denies, else True if one allows, else None. Deny beats allow, whatever their order."""
    verdict: bool | None = None
    for rule in rules:
        if concerns(rule) and rule.covers_port(protocol, port):
            if rule.denies:
                return False
            verdict = True
    return verdict


def _is_exactly(network: IPNetwork | None, address: IPAddress) -> bool:
    return network is not None and network.prefixlen == network.max_prefixlen and network.network_address == address
