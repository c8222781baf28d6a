"""A device as the registry knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

from lopower.devices.firmware import Firmware
from lopower.devices.keys import generate_preshared_key
from lopower.devices.policy import Rule

# Half of the shortest time that common NATs keep an idle UDP binding (30 s; RFC 4787 section 4.3 asks for two minutes,
# and many give less), as wg(8) recommends.
DEFAULT_PERSISTENT_KEEPALIVE: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device. Keys are not in the repr; its private key is known to it alone.

    Attributes:
        id: unique, never used again.
        name: a DNS label in lower case.
        public_key: 32 bytes.
        preshared_key: 32 bytes, or None.
        ipv4, ipv6: its inner addresses.
        enabled: a disabled device keeps everything and cannot connect.
        rules: what it may reach beyond what every device may.
        full_tunnel: its configuration sends all of its traffic through the tunnel.
        mtu: of its tunnel, in bytes; None: the server's default.
        persistent_keepalive: seconds between keepalives of the device; 0: none.
        created_at: UTC.
        last_timestamp: the greatest TAI64N stamp it initiated with, 12 bytes; older ones are replays.
        last_endpoint: host and port it was last seen at.
        configuration_digest: of the configuration it was last given (`configurations.digest`).
        firmware: what it said last of what it runs; None: nothing, as devices without our firmware do.
    """

    id: int
    name: str
    public_key: bytes = field(repr=False)
    preshared_key: bytes | None = field(repr=False)
    ipv4: IPv4Address | None
    ipv6: IPv6Address | None
    enabled: bool
    rules: tuple[Rule, ...]
    full_tunnel: bool
    mtu: int | None
    persistent_keepalive: int
    created_at: datetime
    last_timestamp: bytes | None = None
    last_endpoint: tuple[str, int] | None = None
    configuration_digest: str | None = None
    firmware: Firmware | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDevice:
    """A device to be added.

    Attributes:
        name: as `Device`; upper case is accepted.
        public_key: 32 bytes.
        preshared_key: 32 bytes, drawn at random unless given; None: none.
        ipv4: an address, the lowest free one (`auto`), or None: a device with IPv6 only.
        ipv6: an address, or the lowest free one.
        rules, full_tunnel, mtu, persistent_keepalive: as `Device`.
    """

    name: str
    public_key: bytes = field(repr=False)
    preshared_key: bytes | None = field(default_factory=generate_preshared_key, repr=False)
    ipv4: IPv4Address | Literal["auto"] | None = "auto"
    ipv6: IPv6Address | Literal["auto"] = "auto"
    rules: tuple[Rule, ...] = ()
    full_tunnel: bool = False
    mtu: int | None = None
    persistent_keepalive: int = DEFAULT_PERSISTENT_KEEPALIVE


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedPort:
    """A port of the gateway that reaches a service of the host, or beyond it.

    Attributes:
        protocol: `tcp` or `udp`.
        port: the gateway's, 1 to 65,535.
        target: the service's address and port.
    """

    protocol: Literal["tcp", "udp"]
    port: int
    target: tuple[IPv4Address | IPv6Address, int]
