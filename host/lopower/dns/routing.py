"""Whom to ask for a name. Decides only."""

from __future__ import annotations

from typing import Final

from lopower.dns import names
from lopower.dns.config import DnsConfig, ServerAddress
from lopower.dns.reverse import network_of


class Tailnet:
    """The route to the tailnet's resolver."""


class System:
    """The route to the host's resolvers, or DNS over HTTPS if it has none."""


TAILNET: Final = Tailnet()
SYSTEM: Final = System()

Route = Tailnet | System | tuple[ServerAddress, ...]


class Routing:
    """The table of suffixes: routes by setting, and the tailnet's. The longest counts, a setting before a built-in one.

    Raises:
        ValueError: a suffix that is no domain name.
    """

    def __init__(self, config: DnsConfig) -> None:
        self._ranges = config.tailnet_ranges
        self._tailnet = tuple(names.from_text(suffix) for suffix in config.tailnet_suffixes)
        own = {*config.gateway_addresses, *config.own_addresses}
        self._table: dict[bytes, Route] = dict.fromkeys(self._tailnet, TAILNET)
        if config.tailnet_for_all:
            self._table[names.ROOT] = TAILNET
        for suffix, servers in config.routes.items():
            key = names.from_text(suffix) if suffix else names.ROOT
            # A route that names ourselves alone stays in the table, empty: its names are nobody else's business.
            self._table[key] = tuple(server for server in servers if server.address not in own)

    def route(self, name: bytes) -> Route:
        """Whom to ask for `name`, which is in lower case."""
        for suffix in names.suffixes_of(name):
            if (route := self._table.get(suffix)) is not None:
                return route
        if name.endswith(b"\x04arpa\0") and (network := network_of(name)) is not None:
            for tailnet in self._ranges:
                if tailnet.version == network.version and network.subnet_of(tailnet):  # type: ignore[arg-type]
                    return TAILNET
        return self._table.get(names.ROOT, SYSTEM)

    def has_route(self, name: bytes) -> bool:
        """Whether a suffix's route, and not the rest's, takes `name`."""
        return any(suffix in self._table for suffix in names.suffixes_of(name))

    def is_tailnet(self, name: bytes) -> bool:
        """Whether the name belongs to the tailnet, whoever is asked for it."""
        return name.endswith(self._tailnet) and any(suffix in self._tailnet for suffix in names.suffixes_of(name))
