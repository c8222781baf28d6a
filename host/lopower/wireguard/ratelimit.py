"""A token bucket per source of handshake messages: 20 in a second, 5 at once (as the kernel's `ratelimiter.c`)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Final

PACKETS_PER_SECOND: Final = 20.0
PACKETS_BURSTABLE: Final = 5.0
MAX_SOURCES: Final = 65_536
"""A flood from many addresses (an IPv6 prefix, or a botnet) must not fill memory; beyond it, newcomers are refused."""

_IDLE: Final = 1.0  # seconds after which a bucket is full again, whatever was taken, and can be forgotten


class RateLimiter:
    """Buckets by IPv4 address or IPv6 /64."""

    __slots__ = ("_buckets", "_exempt")

    def __init__(self, exempt: Sequence[IPv4Network | IPv6Network] = ()) -> None:
        """Sources in the `exempt` networks are always allowed."""
        self._buckets: dict[bytes, tuple[float, float]] = {}  # tokens, and when; oldest first
        self.set_exempt(exempt)

    def __len__(self) -> int:
        return len(self._buckets)

    def set_exempt(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        """Sources in these networks, and no others, are always allowed from now on."""
        # Bytes of an address, mask and network as numbers: compared with each message of a flood.
        self._exempt = tuple(
            (len(network.network_address.packed), int(network.netmask), int(network.network_address))
            for network in networks
        )

    def allow(self, address: bytes, now: float) -> bool:
        """Whether one more message of the source with this packed address may be worked on."""
        if self._exempt:
            size, number = len(address), int.from_bytes(address, "big")
            for network_size, mask, network in self._exempt:
                if size == network_size and number & mask == network:
                    return True
        self._forget_idle(now)
        source = address[:8] if len(address) == 16 else address
        buckets = self._buckets
        bucket = buckets.pop(source, None)
        if bucket is None:
            if len(buckets) >= MAX_SOURCES:
                return False
            tokens = PACKETS_BURSTABLE
        else:
            tokens, since = bucket
            tokens = min(PACKETS_BURSTABLE, tokens + (now - since) * PACKETS_PER_SECOND)
        allowed = tokens >= 1.0
        buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        return allowed

    def _forget_idle(self, now: float) -> None:
        buckets = self._buckets
        while buckets:
            oldest = next(iter(buckets))
            if now < buckets[oldest][1] + _IDLE:
                return
            del buckets[oldest]
