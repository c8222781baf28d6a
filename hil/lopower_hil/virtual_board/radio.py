"""What a board's radio can hear: access points, and how good the air is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

MAX_ACCESS_POINTS: Final = 32
LOOPBACK: Final = ("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.1")


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """A network in reach. Behind it is the host's.

    Attributes:
        ssid: its name, 1 to 32 bytes.
        password: "" for an open one.
        rssi: dBm.
        channel: 1 to 13.
        address: what DHCP gives: address, netmask, gateway, DNS server.
        names: addresses that its DNS server says besides what the host resolves.
    """

    ssid: str
    password: str = ""
    rssi: int = -50
    channel: int = 6
    address: tuple[str, str, str, str] = LOOPBACK
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= len(self.ssid.encode()) <= 32:
            raise ValueError(f"{self.ssid!r}: the name of a network has 1 to 32 bytes")
        if self.password and not 8 <= len(self.password.encode()) <= 64:
            raise ValueError("a WPA password has 8 to 63 characters")

    def describe(self) -> dict[str, Any]:
        """For the interpreter."""
        return {
            "ssid": self.ssid,
            "key": self.password,
            "bssid": (b"\x02" + hashlib.sha256(self.ssid.encode()).digest()[:5]).hex(),
            "rssi": self.rssi,
            "channel": self.channel,
            "address": list(self.address),
            "names": dict(self.names),
        }


def describe(points: Sequence[AccessPoint], join_ms: int) -> dict[str, Any]:
    """What the interpreter is told. Raises ValueError for more access points than a scan finds."""
    if len(points) > MAX_ACCESS_POINTS:
        raise ValueError(f"at most {MAX_ACCESS_POINTS} access points")
    return {"join_ms": join_ms, "access_points": [point.describe() for point in points]}
