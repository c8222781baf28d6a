"""A device's AllowedIPs: what it may reach and by whom it may be reached, as a list of networks.

They mirror the bridge's table in networks, where that decides by address and port: a network is listed as soon as one
of its ports is permitted, and left out where all of them are denied. What is listed beyond what is permitted (networks
for documentation within `internet`, the devices' own ranges within a larger network) is refused by the bridge anyhow.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses
from typing import TYPE_CHECKING, Final

from lopower.devices.addresses import IPAddress, IPNetwork
from lopower.devices.policy import Rule

if TYPE_CHECKING:
    from lopower.devices.device import Device
    from lopower.devices.server_facts import ServerFacts

EVERYTHING: Final = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

# What `internet` leaves with the device: its own host, its own networks, and others' private ones. The small networks
# for documentation and benchmarks are not cut out: nothing is there, and each would cost a dozen entries.
_NOT_INTERNET: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "224.0.0.0/3",
    )
)


def allowed_ips(device: Device, server: ServerFacts) -> tuple[IPNetwork, ...]:
    """The networks, IPv4 first, without overlaps: gateway, the device itself, and what policy permits.

    Its own addresses are among them because lwIP's WireGuard checks the destination of what it receives against them.
    The server's own outer addresses are not (the bridge refuses them): a system that routes by this list alone would
    send the tunnel's packets into the tunnel.
    """
    if device.full_tunnel:
        return EVERYTHING
    denied = _denied(device.rules, server)
    beyond = _without([*_permitted(server.rules, server), *server.tailnet], _denied(server.rules, server))
    reachable = _without([*_permitted(device.rules, server), *beyond], denied)
    reachable = _without(reachable, map(_host_network, server.endpoint_addresses))
    own = [address for address in (device.ipv4, device.ipv6) if address is not None]
    versions = {address.version for address in own}
    networks = [*map(_host_network, (*server.ranges.gateways, *own)), *reachable, *_other_devices(device, server)]
    return _collapsed(network for network in networks if network.version in versions)


def allowed_ips_of_all(server: ServerFacts) -> tuple[IPNetwork, ...]:
    """What every device may reach, whatever its own rules: its own addresses come on top."""
    denied = _denied(server.rules, server)
    reachable = _without([*_permitted(server.rules, server), *server.tailnet], denied)
    reachable = _without(reachable, map(_host_network, server.endpoint_addresses))
    return _collapsed([*map(_host_network, server.ranges.gateways), *reachable])


def _permitted(rules: Iterable[Rule], server: ServerFacts) -> list[IPNetwork]:
    return [network for rule in rules if not rule.denies for network in _networks(rule, server)]


def _denied(rules: Iterable[Rule], server: ServerFacts) -> list[IPNetwork]:
    return [network for rule in rules if rule.denies and not rule.ports for network in _networks(rule, server)]


def _networks(rule: Rule, server: ServerFacts) -> Iterable[IPNetwork]:
    if rule.network is not None:
        return (rule.network,)
    if rule.keyword is not None:
        return INTERNET if rule.keyword == "internet" else server.lan
    return ()


def _other_devices(device: Device, server: ServerFacts) -> Iterable[IPNetwork]:
    """The devices it may reach, and those that may reach it: their packets must be let in, and the replies out."""
    if any(rule.device == device.name and not rule.denies for rule in server.rules):
        return server.ranges.networks
    names = {rule.device for rule in (*device.rules, *server.rules) if rule.device is not None}
    reached = [server.by_name[name] for name in names if name in server.by_name and _may_reach(device, name, server)]
    reaching = [other for other in server.naming(device.name) if _may_reach(other, device.name, server)]
    return [
        _host_network(address)
        for other in (*reached, *reaching)
        for address in (other.ipv4, other.ipv6)
        if address is not None
    ]


def _may_reach(device: Device, name: str, server: ServerFacts) -> bool:
    """Whether any port of the device `name`; a device's rules come before those for all devices."""
    for rules in (device.rules, server.rules):
        concerning = [rule for rule in rules if rule.device == name]
        if any(rule.denies and not rule.ports for rule in concerning):
            return False
        if any(not rule.denies for rule in concerning):
            return True
    return False


def _host_network(address: IPAddress) -> IPNetwork:
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def _without(networks: Iterable[IPNetwork], excluded: Iterable[IPNetwork]) -> list[IPNetwork]:
    rest = list(networks)
    for hole in excluded:
        rest = [part for network in rest for part in _cut(network, hole)]
    return rest


def _cut(network: IPNetwork, hole: IPNetwork) -> Iterable[IPNetwork]:
    """What is left of a network; two networks overlap only by one containing the other."""
    if network.version != hole.version or not network.overlaps(hole):
        return (network,)
    if network.prefixlen >= hole.prefixlen:
        return ()
    return network.address_exclude(hole)  # type: ignore[arg-type]  # of the same version, as seen above


def _collapsed(networks: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    all_networks = list(networks)
    return (
        *collapse_addresses(network for network in all_networks if isinstance(network, IPv4Network)),
        *collapse_addresses(network for network in all_networks if isinstance(network, IPv6Network)),
    )


INTERNET: Final[tuple[IPNetwork, ...]] = (
    *_collapsed(_without([EVERYTHING[0]], _NOT_INTERNET)),
    IPv6Network("2000::/3"),  # global unicast (RFC 4291 section 2.4)
)
