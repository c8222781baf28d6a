"""What the data plane tells of a device and of itself; all times are ages in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lopower.daemon.setting_values import HostPort


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatistics:
    """One device, since the daemon started.

    Attributes:
        latest_handshake: age of the last completed handshake; None: there was none.
        last_packet: age of the last authenticated packet; None: there was none.
        endpoint: where it was last seen.
        rx_bytes, tx_bytes, rx_packets, tx_packets: from and to the device.
        counters: of its WireGuard peer and of its flows, by name.
        tcp_flows, udp_flows: open now.
        refusals: destinations it was lately refused, JSON-able: protocol, destination, port, reason, message, count,
            age.
    """

    latest_handshake: float | None = None
    last_packet: float | None = None
    endpoint: HostPort | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    tcp_flows: int = 0
    udp_flows: int = 0
    refusals: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceStatistics:
    """The WireGuard interface, since the daemon started.

    Attributes:
        uptime: seconds.
        port: the UDP port it listens on.
        counters: by name.
        recent_unknown: initiations of public keys that no device has: key, where from, age; the latest last.
        recent_wrong_mac1: handshake messages made for another server's public key: where from, age; the latest last.
    """

    uptime: float = 0.0
    port: int = 0
    counters: Mapping[str, int] = field(default_factory=dict)
    recent_unknown: tuple[tuple[bytes, HostPort, float], ...] = ()
    recent_wrong_mac1: tuple[tuple[HostPort, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoResult:
    """One echo request to a device.

    Attributes:
        sequence: counts from 1.
        seconds: until the reply; None: none came in time.
        address: which of the device's addresses was asked.
    """

    sequence: int
    seconds: float | None
    address: str
