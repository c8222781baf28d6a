"""What can be set about the stack. Times are seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lopower.netstack.fragments import FragmentConfig
from lopower.netstack.tcp.config import TcpConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpConfig:
    """Limits and timeouts of UDP flows.

    Attributes:
        idle_timeout: RFC 4787 (REQ-5) asks for two minutes at least and recommends five.
        dns_timeout: the same for flows to or from port 53: one question, one answer.
        max_flows, max_flows_per_peer: a device that sends to every port there is
            exhausts its own share, not that of others.
        path_mtu_lifetime: how long a "packet too big" is believed (RFC 8201 section 4: at least five minutes).
    """

    idle_timeout: float = 300.0
    dns_timeout: float = 30.0
    max_flows: int = 32_768
    max_flows_per_peer: int = 1024
    path_mtu_lifetime: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpConfig:
    """Attributes:
    errors_per_second, error_burst: a token bucket per peer for the errors we send (RFC 4443 section 2.4 (f), RFC 1812
        section 4.3.2.8). Echo replies are not limited: they cost what the request cost.
    """

    errors_per_second: float = 50.0
    error_burst: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class StackConfig:
    """How one stack behaves.

    Attributes:
        local_addresses: packed; the stack answers echo requests to these itself, and its own ICMP errors come from
            them. TCP and UDP to any address at all go to the owner of the events.
        mtu: of the way to every peer, where `mtu_for` does not know better.
        mtu_for: the MTU of the way to one peer.
    """

    local_addresses: frozenset[bytes] = frozenset()
    mtu: int = 1420
    mtu_for: Callable[[Any], int] | None = None
    tcp: TcpConfig = field(default_factory=TcpConfig)
    udp: UdpConfig = field(default_factory=UdpConfig)
    icmp: IcmpConfig = field(default_factory=IcmpConfig)
    fragments: FragmentConfig = field(default_factory=FragmentConfig)
