"""Settings of a WireGuard interface."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceConfig:
    """All have defaults that suit a proxy for small devices.

    Attributes:
        mtu: inner MTU in bytes of peers that name none; packets are never padded beyond it.
        rows: packets of one turn that are opened into rows: 16 super-datagrams of at most 64 (the kernel's limit for
            UDP GRO) and some to spare; more are opened one by one.
        row_stride: bytes per row, a multiple of 16: the largest packet that an Ethernet path of 1,500 bytes can carry.
        handshakes_per_turn: handshake messages worked on in one turn, about 0.25 ms each; more are queued. Fewer than a
            turn's datagrams, so that a flood fills the queue, shows as load and never keeps packets waiting for long.
        max_queued_handshakes: handshake messages waiting for their turn; an eighth of them, or 128, mean "under load";
            anybody who knows our public key can fill this. About 0.4 KB each. It is what a core works on in the four
            seconds that a message is good for: thousands of devices that start at once have sessions after two tries.
        rate_limit_exempt: networks whose handshake messages are not rate limited under load.
    """

    mtu: int = 1420
    rows: int = 1088
    row_stride: int = 1440
    handshakes_per_turn: int = 4
    max_queued_handshakes: int = 8192
    rate_limit_exempt: tuple[IPv4Network | IPv6Network, ...] = ()

    def __post_init__(self) -> None:
        if not 576 <= self.mtu <= 65_475:
            raise ValueError(f"mtu {self.mtu}: from 576 to 65475")
        if self.handshakes_per_turn < 1 or self.max_queued_handshakes < 1:
            raise ValueError("handshakes_per_turn and max_queued_handshakes must be positive")
