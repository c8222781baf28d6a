"""The devices' address ranges, and which address the next device gets."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, Generic, TypeVar

from lopower.devices.errors import InvalidRange

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

DEFAULT_IPV4: Final = IPv4Network("10.90.0.0/24")
DEFAULT_IPV6: Final = IPv6Network("fd7a:115c:a1e0:9909::/64")
# For this long nobody else gets the address of a removed device: caches, firewalls and flows may still know it as the
# old one. Seconds.
RETIREMENT: Final = 24 * 60 * 60

# Tailscale's range (RFC 6598's): a device with an address in it could not be told from a node of the tailnet.
_TAILNET_IPV4: Final = IPv4Network("100.64.0.0/10")
_TAILNET_IPV6: Final = IPv6Network("fd7a:115c:a1e0::/48")
_UNUSABLE: Final = tuple(
    (ip_network(text), why)
    for text, why in (
        ("0.0.0.0/8", "no host can have addresses in it"),
        ("127.0.0.0/8", "it is loopback"),
        ("169.254.0.0/16", "it is link-local"),
        ("224.0.0.0/3", "it is multicast or reserved"),
        ("::/8", "no host can have addresses in it"),
        ("fe80::/9", "it is link-local"),
        ("ff00::/8", "it is multicast"),
    )
)
_MIN_PREFIX: Final = {4: 8, 6: 8}
_MAX_PREFIX: Final = {4: 30, 6: 126}

Address = TypeVar("Address", IPv4Address, IPv6Address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Where devices' inner addresses come from. The first address of a range is the gateway's.

    Attributes:
        ipv4: None: devices have no IPv4.
        ipv6: there is always one.
    """

    ipv4: IPv4Network | None = DEFAULT_IPV4
    ipv6: IPv6Network = DEFAULT_IPV6

    @property
    def networks(self) -> tuple[IPNetwork, ...]:
        """The ranges, IPv4 first."""
        return (self.ipv6,) if self.ipv4 is None else (self.ipv4, self.ipv6)

    @property
    def gateways(self) -> tuple[IPAddress, ...]:
        """The gateway's addresses, IPv4 first."""
        return tuple(map(gateway_of, self.networks))


def gateway_of(network: IPNetwork) -> IPAddress:
    """The gateway's address in a range: the first that a host can have."""
    return network[1]


def holds(network: IPNetwork, address: IPAddress) -> bool:
    """Whether a device can have this address in a range: not the gateway's, nor one that is no host's."""
    first, last = _device_addresses(network)
    return address.version == network.version and first <= int(address) <= last


def _device_addresses(network: IPNetwork) -> tuple[int, int]:
    """The first and the last: behind the subnet-router anycast or network address and the gateway; no broadcast."""
    return int(network[2]), int(network[-1]) - (network.version == 4)


def check_range(network: IPNetwork) -> None:
    """Whether devices can live in a range.

    Raises:
        InvalidRange: they cannot; the message says why and what could be used.
    """
    lowest, highest = _MIN_PREFIX[network.version], _MAX_PREFIX[network.version]
    example = DEFAULT_IPV4 if network.version == 4 else DEFAULT_IPV6
    if not lowest <= network.prefixlen <= highest:
        raise InvalidRange(f"{network} cannot be the devices' range: its length must be {lowest} to {highest}")
    if network.version == 4 and network.overlaps(_TAILNET_IPV4):
        raise InvalidRange(
            f"{network} cannot be the devices' range: it overlaps {_TAILNET_IPV4}, the tailnet's; use e.g. {example}"
        )
    for unusable, why in _UNUSABLE:
        if unusable.version == network.version and network.overlaps(unusable):
            raise InvalidRange(f"{network} cannot be the devices' range: {why}; use e.g. {example}")


def draw_ipv6(entropy: Callable[[int], bytes]) -> IPv6Network:
    """A range of one's own: a /64 in fd00::/8 with a random global ID and subnet ID (RFC 4193 section 3.2)."""
    while True:
        network = IPv6Network((b"\xfd" + entropy(7) + bytes(8), 64))
        if not network.overlaps(_TAILNET_IPV6):
            return network


class AddressPool(Generic[Address]):
    """Which addresses of one range are taken. The lowest free one is found in O(log n).

    Addresses above a watermark have never been given out by `take_lowest`; those below that have become free again
    wait in a heap. An address taken by name is stepped over when its turn comes.
    """

    def __init__(self, network: IPNetwork, address_type: Callable[[int], Address]) -> None:
        self.network = network
        self._type: Callable[[int], Address] = address_type
        self._first, self._last = _device_addresses(network)
        self._watermark = self._first
        self._taken: set[int] = set()
        self._free: list[int] = []
        self._retired: list[tuple[float, int]] = []  # heap: when it becomes free, which

    def __contains__(self, address: IPAddress) -> bool:
        """Whether a device can have this address, taken or not."""
        return holds(self.network, address)

    def is_free(self, address: Address, now: float) -> bool:
        """Whether nobody has the address, nor had it within `RETIREMENT`."""
        self._expire(now)
        return int(address) not in self._taken

    def take(self, address: Address) -> None:
        """Give out this very address, which is free."""
        self._taken.add(int(address))

    def take_lowest(self, now: float) -> Address | None:
        """Give out the lowest free address; None: there is none."""
        self._expire(now)
        taken = self._taken
        while self._free:
            value = heapq.heappop(self._free)
            if value not in taken:
                taken.add(value)
                return self._type(value)
        value = self._watermark
        while value in taken:
            value += 1
        self._watermark = value
        if value > self._last:
            return None
        self._watermark += 1
        taken.add(value)
        return self._type(value)

    def give_back(self, address: Address) -> None:
        """Undo taking an address that no device has been told of."""
        value = int(address)
        self._taken.discard(value)
        if value < self._watermark:
            heapq.heappush(self._free, value)

    def retire(self, address: Address, since: float) -> None:
        """Its device is gone since `since` (seconds, as `now`); it becomes free when `RETIREMENT` has passed."""
        value = int(address)
        self._taken.add(value)
        heapq.heappush(self._retired, (since + RETIREMENT, value))

    def free_from(self, now: float) -> float | None:
        """When the next retired address becomes free; None: none is waiting."""
        self._expire(now)
        return self._retired[0][0] if self._retired else None

    def _expire(self, now: float) -> None:
        while self._retired and self._retired[0][0] <= now:
            _, value = heapq.heappop(self._retired)
            self._taken.discard(value)
            if value < self._watermark:
                heapq.heappush(self._free, value)
