"""A device's configuration, in the formats that WireGuard's programs and libraries read."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, ip_address
from typing import Final, Literal, NamedTuple, get_args

from lopower.devices import formats
from lopower.devices.addresses import IPAddress, IPNetwork, Ranges
from lopower.devices.allowed_ips import allowed_ips
from lopower.devices.device import Device, NewDevice
from lopower.devices.errors import ConfigurationUnavailable
from lopower.devices.keys import format_key
from lopower.devices.policy import Rule

Format = Literal["conf", "json", "esphome", "arduino"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
# A device for one of these is added without a preshared key: its library has no place for one.
FORMATS_WITHOUT_PRESHARED_KEY: Final[frozenset[Format]] = frozenset({"arduino"})

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All that a configuration holds but the private key, the same for all formats. Keys are not in the repr.

    Attributes:
        name: the device's.
        preshared_key: in base64, or None; `server_public_key` likewise.
        addresses: the device's, IPv4 first.
        dns: the gateway's addresses, of the families the device has.
        endpoints: as `ServerFacts`.
        persistent_keepalive: seconds; 0: none.
        network: the range its IPv4 address is from, or None.
    """

    name: str
    server_public_key: str
    preshared_key: str | None = field(repr=False)
    addresses: tuple[IPAddress, ...]
    dns: tuple[IPAddress, ...]
    search_domain: str | None
    mtu: int
    endpoints: tuple[ServerEndpoint, ...]
    persistent_keepalive: int
    allowed_ips: tuple[IPNetwork, ...]
    full_tunnel: bool
    network: IPv4Network | None

    @property
    def ipv4(self) -> IPv4Address | None:
        """Its IPv4 address."""
        first = self.addresses[0]
        return first if isinstance(first, IPv4Address) else None


def configuration_of(device: Device, server: ServerFacts) -> Configuration:
    """What a device's configuration holds now."""
    if not server.endpoints:
        raise ConfigurationUnavailable(
            f"{device.name} cannot be told where to dial: the server has no endpoint; set one with `--endpoint HOST`"
        )
    addresses = tuple(address for address in (device.ipv4, device.ipv6) if address is not None)
    versions = {address.version for address in addresses}
    return Configuration(
        name=device.name,
        server_public_key=format_key(server.public_key),
        preshared_key=format_key(device.preshared_key) if device.preshared_key is not None else None,
        addresses=addresses,
        dns=tuple(gateway for gateway in server.ranges.gateways if gateway.version in versions),
        search_domain=server.search_domain,
        mtu=device.mtu or server.mtu,
        endpoints=tuple(server.endpoints),
        persistent_keepalive=device.persistent_keepalive,
        allowed_ips=allowed_ips(device, server),
        full_tunnel=device.full_tunnel,
        network=server.ranges.ipv4,
    )


def render(device: Device, server: ServerFacts, format: Format, private_key: bytes | None = None) -> str:
    """A device's configuration as text.

    Args:
        private_key: the device's, at the only moment when it is known; without it there is a placeholder.

    Raises:
        ConfigurationUnavailable: the format has no place for what this device needs; the message says what.
    """
    check_format(device, server, format)
    configuration = configuration_of(device, server)
    key = format_key(private_key) if private_key is not None else f"<private key of {device.name}>"
    if format == "conf":
        return formats.conf(configuration, key)
    if format == "json":
        return formats.as_json(configuration, key if private_key is not None else None)
    if format == "esphome":
        return formats.esphome(configuration, key)
    return formats.arduino(configuration, key)


def qr(device: Device, server: ServerFacts, private_key: bytes) -> str:
    """A device's configuration as a QR code for a terminal.

    Raises:
        ConfigurationUnavailable: it is too large for a code.
    """
    from lopower.devices import qr_codes  # the library, and for pictures Pillow, are needed here alone

    return qr_codes.terminal(_compact(device, server, private_key))


def png(device: Device, server: ServerFacts, private_key: bytes) -> bytes:
    """A device's configuration as a picture of a QR code.

    Raises:
        ConfigurationUnavailable: it is too large for a code.
    """
    from lopower.devices import qr_codes

    return qr_codes.png(_compact(device, server, private_key))


def digest(device: Device, server: ServerFacts) -> str:
    """Of all that a device's configuration holds but its private key and its name; 64 hexadecimal digits.

    The configuration a device was given is outdated when its digest then (`Device.configuration_digest`) is not this.
    """
    configuration = configuration_of(device, server)
    content = [
        configuration.server_public_key,
        configuration.preshared_key,
        [str(address) for address in configuration.addresses],
        [str(address) for address in configuration.dns],
        configuration.search_domain,
        configuration.mtu,
        str(configuration.endpoints[0]),
        configuration.persistent_keepalive,
        [str(network) for network in configuration.allowed_ips],
    ]
    return hashlib.sha256(json.dumps(content).encode("ascii")).hexdigest()


def check_format(device: Device | NewDevice, server: ServerFacts, format: Format) -> None:
    """Whether a device, perhaps one yet to be added, can have a configuration in this format.

    Raises:
        ConfigurationUnavailable: it cannot; the message says why.
    """
    if format in ("esphome", "arduino"):
        has_ipv4 = device.ipv4 is not None and server.ranges.ipv4 is not None
        formats.check_ipv4(format, device.name, has_ipv4)
    if format == "arduino":
        formats.check_arduino(device.name, device.preshared_key is not None, server.endpoints)


def _compact(device: Device, server: ServerFacts, private_key: bytes) -> str:
    return formats.conf(configuration_of(device, server), format_key(private_key), compact=True)
