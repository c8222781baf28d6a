"""The settings of the DNS server, and the texts they are written as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final, NamedTuple

from lopower.dns import names

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

DNS_PORT: Final = 53


class ServerAddress(NamedTuple):
    """Where a resolver listens, for UDP and TCP alike."""

    address: IPAddress
    port: int = DNS_PORT

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return str(self.address) if self.port == DNS_PORT else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsConfig:
    """All that the server has to be told.

    Attributes:
        gateway_addresses: what `gateway` means; they are this server's own, so no resolver is asked at them.
        own_addresses: further addresses at which a query would come back to us.
        ranges: the devices' ranges; their reverse names are answered here and never leave.
        resolv_conf: the host's list of resolvers; read again when it changes.
        routes: suffix to the resolvers for the names under it; the longest suffix counts. An empty suffix is for all.
        https_resolvers: URLs for DNS over HTTPS, by address; asked when resolv.conf names no resolver.
        https_ca: certificates in PEM to trust for them; None: the system's.
        search_domains: what bare names are tried under, in turn; empty: resolv.conf's.
        tailnet_suffixes: whose names only the tailnet's resolver is asked for.
        tailnet_for_all: the tailnet's resolver is asked for all names that no other route is for.
        tailnet_ranges: whose reverse names likewise, as far as they are not in `ranges`.
        ipv4: whether devices have IPv4; without it, tailnet names have no A records.
        timeout: seconds until SERVFAIL.
        max_in_flight: queries being resolved at a time, in all; each may hold up to three sockets.
        max_in_flight_per_client: of them, one device's.
        cache_entries: answers cached, at most.
        cache_bytes: memory they take, at most.
    """

    gateway_addresses: tuple[IPAddress, ...] = ()
    own_addresses: frozenset[IPAddress] = frozenset()
    ranges: tuple[IPNetwork, ...] = ()
    resolv_conf: Path = Path("/etc/resolv.conf")
    routes: Mapping[str, tuple[ServerAddress, ...]] = field(default_factory=dict)
    https_resolvers: tuple[str, ...] = ("https://8.8.8.8/dns-query", "https://1.1.1.1/dns-query")
    https_ca: Path | None = None
    search_domains: tuple[str, ...] = ()
    tailnet_suffixes: tuple[str, ...] = ("ts.net",)
    tailnet_for_all: bool = False
    tailnet_ranges: tuple[IPNetwork, ...] = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
    ipv4: bool = True
    timeout: float = 4.5
    max_in_flight: int = 256
    max_in_flight_per_client: int = 100
    cache_entries: int = 4096
    cache_bytes: int = 4 << 20


def parse_server(text: str) -> ServerAddress:
    """`192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:5353`.

    Raises:
        ValueError: with a message for a person.
    """
    host, port_text = text.strip(), ""
    if host.startswith("["):
        host, bracket, port_text = host[1:].partition("]")
        if not bracket or (port_text and not port_text.startswith(":")):
            raise ValueError(f"{text!r}: an IPv6 address with a port is written [ADDRESS]:PORT")
        port_text = port_text[1:]
    elif host.count(":") == 1:
        host, _, port_text = host.partition(":")
    try:
        address = ip_address(host)
    except ValueError:
        raise ValueError(f"{text!r} is not the IP address of a resolver (ADDRESS or ADDRESS:PORT)") from None
    if not port_text:
        return ServerAddress(address)
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return ServerAddress(address, int(port_text))


def parse_route(text: str) -> tuple[str, tuple[ServerAddress, ...]]:
    """`corp.example=192.0.2.1,192.0.2.2:5353`: the names under a suffix, and the resolvers for them.

    Raises:
        ValueError: with a message for a person.
    """
    suffix, equals, servers = text.partition("=")
    if not equals or not servers.strip():
        raise ValueError(f"{text!r}: a route is written SUFFIX=ADDRESS[,ADDRESS...], e.g. corp.example=192.0.2.1")
    suffix = suffix.strip().strip(".").lower()
    if suffix:
        names.from_text(suffix)
    return suffix, tuple(parse_server(server) for server in servers.split(","))
