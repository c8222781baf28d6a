"""Registries, devices and server facts for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from lopower.devices.addresses import Ranges
from lopower.devices.device import Device, NewDevice
from lopower.devices.policy import Rule
from lopower.devices.registry import Registry
from lopower.devices.server_facts import ServerEndpoint, ServerFacts

SERVER_PUBLIC_KEY = hashlib.sha256(b"server").digest()


class Clock:
    """Seconds since 1970, set by the test."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def open_registry(directory: Path, **arguments: Any) -> Registry:
    """The registry in `directory`, at a clock that stands unless given."""
    arguments = {"server_public_key": SERVER_PUBLIC_KEY, "clock": Clock(), **arguments}
    return Registry.open(directory / "devices.db", **arguments)


def key_of(name: str) -> bytes:
    """A public key for a name."""
    return hashlib.sha256(name.encode()).digest()


def new_device(name: str, *rules: str, **values: Any) -> NewDevice:
    """A device to be added, with a key of its own."""
    return NewDevice(**{"name": name, "public_key": key_of(name), "rules": parse(*rules), **values})


def parse(*rules: str) -> tuple[Rule, ...]:
    """Rules from their texts."""
    return tuple(map(Rule.parse, rules))


def device(name: str, number: int, *rules: str, **values: Any) -> Device:
    """A device as a registry would have it, with the addresses ending in `number`."""
    return Device(
        **{
            "id": number,
            "name": name,
            "public_key": key_of(name),
            "preshared_key": None,
            "ipv4": IPv4Address("10.90.0.0") + number,
            "ipv6": IPv6Address("fd7a:115c:a1e0:9909::") + number,
            "enabled": True,
            "rules": parse(*rules),
            "full_tunnel": False,
            "mtu": None,
            "persistent_keepalive": 25,
            "created_at": datetime(2026, 1, 1, tzinfo=UTC),
            **values,
        }
    )


def server_facts(devices: Sequence[Device] = (), **values: Any) -> ServerFacts:
    """A server with the default ranges, in no tailnet."""
    return ServerFacts(
        **{
            "public_key": SERVER_PUBLIC_KEY,
            "endpoints": [ServerEndpoint("vpn.example.org", 51820)],
            "ranges": Ranges(),
            "devices": devices,
            **values,
        }
    )
