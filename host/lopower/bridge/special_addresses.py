"""Addresses that mean the same everywhere: what no rule opens, what is public, what belongs to a tailnet.

Sources: the IANA special-purpose address registries (RFC 6890 and its updates), RFC 4291, RFC 6052, RFC 3056. Not
`ipaddress.is_global`: its answers changed between Python's versions, and policy must not.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from lopower.tailnet.driver import MAGIC_DNS_IPV4, MAGIC_DNS_IPV6

IPAddress = IPv4Address | IPv6Address

# Cloud providers hand credentials to whoever asks from the machine itself: AWS and most others; AWS ECS tasks; AWS over
# IPv6; Google over IPv6; Alibaba; Azure; Oracle; Tencent.
METADATA: Final = frozenset(
    ip_address(text).packed
    for text in (
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "169.254.0.23",
    )
)

# The tailnet's own resolver: the proxy asks it, for names of the tailnet alone; devices ask the proxy.
_MAGIC_DNS: Final = frozenset(address.packed for address in (MAGIC_DNS_IPV4, MAGIC_DNS_IPV6))

_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_LINK_LOCAL: Final = (IPv4Network("169.254.0.0/16"), IPv6Network("fe80::/10"))
_MULTICAST: Final = (IPv4Network("224.0.0.0/4"), IPv6Network("ff00::/8"))
# "This host", broadcast and reserved space; the IPv4 addresses written as IPv6 ones that would slip past the other
# rows, since the kernel dials what is inside (RFC 4291 section 2.5.5); site-local, the deprecated link-local of old.
_UNUSABLE: Final = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("240.0.0.0/4"),
    IPv6Network("::/96"),
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("fec0::/10"),
)
_NAT64: Final = IPv6Network("64:ff9b::/96")

_NOT_PUBLIC_IPV4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
_GLOBAL_UNICAST_IPV6: Final = IPv6Network("2000::/3")
# Teredo, benchmarking, ORCHID and the rest of the protocol assignments; documentation; 6to4, which hides IPv4 inside.
_NOT_PUBLIC_IPV6: Final = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))


def is_public(address: IPAddress) -> bool:
    """Whether this is public unicast: the `internet` of a rule."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_IPV4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[12:]))
    return address in _GLOBAL_UNICAST_IPV6 and not any(address in network for network in _NOT_PUBLIC_IPV6)


def never_reached(address: IPAddress) -> str | None:
    """Which kind of address no rule opens this is, or None. Metadata addresses are not among them.

    Returns:
        `loopback`, `tailnet_resolver`, `link_local`, `multicast` or `unusable_address`.
    """
    if address.packed in _MAGIC_DNS:
        return "tailnet_resolver"
    six = address.version == 6
    if address in _LOOPBACK[six]:
        return "loopback"
    if isinstance(address, IPv6Address) and address in _NAT64:
        # A translator on the host's network would dial what is inside.
        return never_reached(IPv4Address(address.packed[12:]))
    if address in _LINK_LOCAL[six]:
        return "link_local"
    if address in _MULTICAST[six]:
        return "multicast"
    return (
        "unusable_address"
        if any(address in network for network in _UNUSABLE if network.version == address.version)
        else None
    )
