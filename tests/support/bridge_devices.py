"""Devices as the registry would give them, for tests of the bridge."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

from lopower.devices.device import Device
from lopower.devices.policy import Rule

GATEWAY = (IPv4Address("10.90.0.1"), IPv6Address("fd7a:115c:a1e0:9909::1"))


def make_device(number: int = 2, *, name: str | None = None, rules: tuple[str, ...] = ()) -> Device:
    """Device `number`, which has the address that ends with it."""
    return Device(
        id=number,
        name=name or f"device{number}",
        public_key=bytes([number]) * 32,
        preshared_key=None,
        ipv4=IPv4Address(f"10.90.0.{number}"),
        ipv6=IPv6Address(f"fd7a:115c:a1e0:9909::{number:x}"),
        enabled=True,
        rules=tuple(map(Rule.parse, rules)),
        full_tunnel=False,
        mtu=None,
        persistent_keepalive=25,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
