"""`lopower advertise`: the devices' ranges as subnet routes of the tailnet, and their names in a domain of its own."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import OK, USAGE, CommandError

_USAGE = "lopower advertise [--via SITE] [--shared] [--dns ZONE] | lopower advertise [--dns] --off"


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Advertise the devices' ranges to the tailnet, and say whether an admin has approved them. With --via the IPv4 "
        "range is advertised under a site's number, so that several sites may have the same range. With --dns the "
        "proxy's node answers for the devices' names, such as kitchen.iot.home.arpa. What is advertised already stays "
        "as it is unless told otherwise."
    )
    parser.add_argument("--via", type=int, metavar="SITE", help="by 4via6 addresses of this site, 0 to 65535")
    parser.add_argument("--shared", action="store_true", help="although another node advertises the same")
    parser.add_argument("--dns", nargs="?", const="", metavar="ZONE", help="names of devices under this domain, too")
    parser.add_argument("--off", action="store_true", help="advertise nothing any more; with --dns no names")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Advertise, or no longer; or say what is advertised."""
    _check(arguments)
    client = options.client(arguments)
    if arguments.off:
        query = {} if arguments.dns is None else {"part": "zone"}
        document = client.request("DELETE", ["advertised"], query=query)
    else:
        document = client.get("advertised")
        new = arguments.via is not None or arguments.dns or arguments.shared
        if new or not document["routes"]:
            site = document["site"] if arguments.via is None else arguments.via
            body = {"site": site, "shared": arguments.shared}
            document = client.request("POST", ["advertised"], body | ({"zone": arguments.dns} if arguments.dns else {}))
    output.show([document], arguments.json, False, _text)
    return OK


def _check(arguments: argparse.Namespace) -> None:
    if arguments.off:
        fits = arguments.via is None and not arguments.shared and not arguments.dns
        if not fits:
            raise CommandError("--off goes alone, or with --dns", _USAGE, USAGE)
    elif arguments.dns == "":
        raise CommandError("--dns needs a domain, such as iot.home.arpa", _USAGE, USAGE)


def _text(document: dict[str, Any]) -> str:
    if not document["routes"]:
        return "nothing is advertised"
    lines = [(entry["route"], approval(entry)) for entry in document["routes"]]
    zone = document["zone"]
    if zone:
        servers = ", ".join(document["servers"]) or "the node's addresses, once it is in the tailnet"
        lines += [
            (f"NAME.{zone}", f"answered on port 53 of {servers}"),
            ("", f"add that as a nameserver restricted to {zone} (split DNS) in the tailnet's DNS settings"),
        ]
    return output.pairs(lines) + (f"\n{document['advice']}" if document["advice"] else "")


def approval(entry: dict[str, Any]) -> str:
    """Whether a route works."""
    return "approved" if entry["approved"] else "waits for approval"
