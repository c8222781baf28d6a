"""Which driver carries the tailnet, made from the settings; and what a tailnet's own settings mean for devices' DNS."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from lopower.daemon.settings import Settings
from lopower.dns.config import DnsConfig, ServerAddress, parse_server
from lopower.tailnet import tsnet_places
from lopower.tailnet.driver import TAILNET_IPV4, TAILNET_IPV6
from lopower.tailnet.host import HostDriver
from lopower.tailnet.routes import HostNetwork, IPNetwork
from lopower.tailnet.tsnet import TsnetConfig, TsnetDriver
from lopower.tailnet.tsnet_control import NodeConfig, NodeResolver, NodeStatus
from lopower.tailnet.tsnet_echo import InboundEcho, Verdict
from lopower.tailnet.tsnet_inbound import InboundRequest

log = logging.getLogger(__name__)

# In the state directory: the nodes' keys.
NODES_DIRECTORY: Final = "tailnet"
SIDECAR_MISSING: Final = (
    "the program lopower-sidecar, which joins the tailnet, is not installed: install Go (https://go.dev/dl/), and then "
    "lopower again, which builds it (`pipx install --force .`, or `make setup` in a checkout)"
)


class SidecarMissingError(Exception):
    """`tsnet` is wanted, and its program is not there; the text says how to get it."""


def make_driver(
    settings: Settings,
    network: HostNetwork,
    changed: Callable[[], None],
    inbound: Callable[[InboundRequest], None],
    echo: Callable[[InboundEcho], Awaitable[Verdict]],
) -> HostDriver | TsnetDriver:
    """The driver that the settings ask for; without a word of theirs the one that was in use.

    Args:
        settings: in force.
        network: the host's addresses and routes.
        changed: called when what a tailnet says has changed.
        inbound: called with each flow from the tailnet.
        echo: finds out what becomes of an echo request from the tailnet.

    Raises:
        SidecarMissingError: the driver is `tsnet`, and there is no sidecar.
    """
    program = sidecar_program()
    if not uses_tsnet(settings):
        return HostDriver(network, advise_tsnet=program is not None)
    if program is None:
        raise SidecarMissingError(f"{SIDECAR_MISSING}; or start with --tailnet host")
    config = TsnetConfig(
        program=program,
        state_dir=settings.state_dir / NODES_DIRECTORY,
        node=node_config(settings),
        auth_key_file=settings.auth_key_file,
        verbose=settings.verbose,
    )
    return TsnetDriver(config, changed=changed, inbound=inbound, echo=echo)


def ways_to_a_tailnet() -> str:
    """What to do for devices to reach a tailnet, on a host that is in none."""
    missing = "" if sidecar_program() is not None else f"\nFor the first of them {SIDECAR_MISSING}."
    return (
        "This host is in no tailnet. Everything else works; there are two ways to one:\n"
        "  lopower up --tailnet tsnet  lopower joins by itself, as a node of its own; this host stays outside\n"
        "  tailscale up                this host joins (https://tailscale.com/download), and its devices with it; no\n"
        f"                              restart is needed{missing}"
    )


def uses_tsnet(settings: Settings) -> bool:
    """Whether the settings, or what was in use with this state directory, ask for a node of the proxy's own."""
    if settings.tailnet is None:
        return tsnet_places.has_identity(settings.state_dir / NODES_DIRECTORY)
    return settings.tailnet == "tsnet"


def sidecar_program() -> Path | None:
    """Where the sidecar is: beside this interpreter, in the package, or where the system looks for programs."""
    return tsnet_places.find_program([Path(sys.executable).parent, Path(__file__).parents[1] / "bin"])


def node_config(settings: Settings) -> NodeConfig:
    """What the proxy's node is to be."""
    return NodeConfig(
        hostname=settings.hostname,
        control_url=settings.control_url or "",
        advertise_tags=settings.advertise_tags,
        ephemeral=settings.ephemeral,
        accept_routes=settings.accept_routes,
        exit_node=settings.exit_node or "",
    )


def networks(accepted: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """What devices can reach through a node that has accepted these routes, for their AllowedIPs."""
    return (TAILNET_IPV4, TAILNET_IPV6, *(route for route in accepted if route.prefixlen))


def with_tailnet(config: DnsConfig, node: NodeStatus | None) -> DnsConfig:
    """The devices' DNS as the settings and the tailnet want it together; the settings come first.

    A name that the tailnet knows, or has a resolver inside itself for, is its resolver's. Resolvers that anybody can
    reach are asked directly, and those for all names replace the host's own, as they do on every other node.
    """
    if node is None or not node.running:
        return config
    suffixes = dict.fromkeys((*config.tailnet_suffixes, node.magic_dns_suffix))
    routes: dict[str, tuple[ServerAddress, ...]] = {}
    for suffix, resolvers in node.dns_routes:
        if not resolvers or any(resolver.via_tailnet for resolver in resolvers):
            suffixes[suffix] = None
        elif servers := _servers(resolvers):
            routes[suffix] = servers
    everything = any(resolver.via_tailnet for resolver in node.resolvers)
    if not everything:
        if servers := _servers(node.resolvers):
            routes[""] = servers
        elif node.resolvers:
            log.warning(
                "the tailnet's resolvers for all names are not used, since they are asked by name over HTTPS: %s",
                ", ".join(resolver.address for resolver in node.resolvers),
            )
    return replace(
        config,
        tailnet_suffixes=tuple(suffix for suffix in suffixes if suffix),
        tailnet_for_all=everything,
        routes={**routes, **config.routes},
        search_domains=(*config.search_domains, *node.search_domains),
    )


def _servers(resolvers: tuple[NodeResolver, ...]) -> tuple[ServerAddress, ...]:
    """Those that are an address, which is all that a plain resolver can be."""
    found = []
    for resolver in resolvers:
        try:
            found.append(parse_server(resolver.address))
        except ValueError:
            continue
    return tuple(found)
