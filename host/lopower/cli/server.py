"""`lopower server show`: what another tool needs to reach this server."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import OK


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the commands and their options."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    show = actions.add_parser(
        "show", parents=[common], allow_abbrev=False, help="public key, endpoints, ranges, gateway addresses"
    )
    options.add_watch(show)
    show.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    output.show(options.documents(arguments, "server"), arguments.json, arguments.watch is not None, _text)
    return OK


def _text(document: dict[str, Any]) -> str:
    ranges = [text for text in (document["range_ipv4"], document["range_ipv6"]) if text]
    gateways = [text for text in (document["gateway_ipv4"], document["gateway_ipv6"]) if text]
    items = [
        ("public key", document["public_key"]),
        ("endpoints", ", ".join(document["endpoints"]) or "none"),
        ("ranges", ", ".join(ranges)),
        ("gateway", ", ".join(gateways)),
        ("MTU", str(document["mtu"])),
        ("allowed IPs", ", ".join(document["allowed_ips"])),
        ("rules for all", "; ".join(document["rules"]) or "none"),
    ]
    if document["search_domains"]:
        items.append(("search domains", ", ".join(document["search_domains"])))
    if document["warning"]:
        items.append(("warning", document["warning"]))
    return output.pairs(items)
