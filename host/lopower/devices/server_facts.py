"""What devices' configurations say about the server, and what depends on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address
from typing import Final, NamedTuple

from lopower.devices.addresses import IPAddress, IPNetwork, Ranges
from lopower.devices.device import Device
from lopower.devices.policy import Rule

DEFAULT_MTU: Final = 1420  # what IPv6 and WireGuard leave of Ethernet's 1500: 40 + 8 + 16 + 16


class ServerEndpoint(NamedTuple):
    """Where devices dial: a name or an address, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a configuration says about the server, and what depends on it.

    Attributes:
        public_key: 32 bytes.
        endpoints: where devices dial, the preferred one first; at least one.
        ranges: the devices'.
        rules: those for all devices.
        tailnet: the tailnet's ranges as far as the driver reaches them.
        lan: the networks the host is attached to, as rules with `lan` mean them.
        devices: all of them; rules name them.
        mtu: of devices' tunnels unless they have their own, bytes.
        search_domain: for bare names; None: none.
    """

    public_key: bytes
    endpoints: Sequence[ServerEndpoint]
    ranges: Ranges
    rules: Sequence[Rule] = ()
    tailnet: Sequence[IPNetwork] = ()
    lan: Sequence[IPNetwork] = ()
    devices: Sequence[Device] = field(default=(), repr=False)
    mtu: int = DEFAULT_MTU
    search_domain: str | None = None

    @cached_property
    def by_name(self) -> Mapping[str, Device]:
        """The devices by name."""
        return {device.name: device for device in self.devices}

    def naming(self, name: str) -> Sequence[Device]:
        """The devices that a rule of their own permits to reach this one."""
        return self._naming.get(name, ())

    @cached_property
    def _naming(self) -> Mapping[str, Sequence[Device]]:
        naming: dict[str, list[Device]] = defaultdict(list)
        for device in self.devices:
            for name in {rule.device for rule in device.rules if rule.device is not None and not rule.denies}:
                naming[name].append(device)
        return naming

    @cached_property
    def endpoint_addresses(self) -> Sequence[IPAddress]:
        """The endpoints that are addresses."""
        addresses = []
        for endpoint in self.endpoints:
            try:
                addresses.append(ip_address(endpoint.host))
            except ValueError:
                continue
        return addresses
