"""A device's configuration, in the formats that WireGuard's programs and libraries read."""

from __future__ import annotations

import hashlib
import json
from typing import Final, Literal, get_args

from lopower.devices import formats
from lopower.devices.allowed_ips import allowed_ips
from lopower.devices.device import Device, NewDevice
from lopower.devices.errors import ConfigurationUnavailable
from lopower.devices.formats import Configuration
from lopower.devices.keys import format_key
from lopower.devices.server_facts import ServerFacts

Format = Literal["conf", "json", "esphome", "arduino"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
# A device for one of these is added without a preshared key: its library has no place for one.
FORMATS_WITHOUT_PRESHARED_KEY: Final[frozenset[Format]] = frozenset({"arduino"})


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
