"""resolv.conf(5): which resolvers the host uses, and which domains it searches."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from lopower.dns import names
from lopower.dns.config import IPAddress, ServerAddress, parse_server

MAX_SERVERS: Final = 3  # MAXNS of resolv.h
MAX_SEARCH_DOMAINS: Final = 6  # MAXDNSRCH


class ResolvConf(NamedTuple):
    """What the file says that concerns us.

    Attributes:
        servers: in the file's order, without those that are ourselves.
        search: the last `search` or `domain` line's domains, in wire form.
        ourselves: how many servers were left out.
    """

    servers: tuple[ServerAddress, ...] = ()
    search: tuple[bytes, ...] = ()
    ourselves: int = 0


def parse(text: str, own_addresses: Collection[IPAddress]) -> ResolvConf:
    """Read the file's text; lines that make no sense are passed over, as every libc does.

    `nameserver [ADDRESS]:PORT`, OpenBSD's, is read as well.
    """
    servers: list[ServerAddress] = []
    search: tuple[bytes, ...] = ()
    ourselves = 0
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            try:
                server = parse_server(words[1])
            except ValueError:
                continue
            if server.address in own_addresses:
                ourselves += 1
            elif server not in servers and len(servers) < MAX_SERVERS:
                servers.append(server)
        elif words[0] in ("search", "domain"):
            search = _domains(words[1:])
    return ResolvConf(tuple(servers), search, ourselves)


def _domains(words: list[str]) -> tuple[bytes, ...]:
    domains = []
    for word in words[:MAX_SEARCH_DOMAINS]:
        try:
            domain = names.from_text(word)
        except names.DomainNameError:
            continue
        if domain != names.ROOT:
            domains.append(domain)
    return tuple(domains)
