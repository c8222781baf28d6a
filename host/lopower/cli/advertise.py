"""`lopower advertise`: the devices' ranges as subnet routes of the tailnet."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import OK, USAGE, CommandError


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Advertise the devices' ranges to the tailnet, and say whether an admin has approved them. With --via the IPv4 "
        "range is advertised under a site's number, so that several sites may have the same range."
    )
    parser.add_argument("--via", type=int, metavar="SITE", help="by 4via6 addresses of this site, 0 to 65535")
    parser.add_argument("--shared", action="store_true", help="although another node advertises the same")
    parser.add_argument("--off", action="store_true", help="advertise nothing any more")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Advertise, or no longer."""
    client = options.client(arguments)
    if arguments.off:
        if arguments.via is not None or arguments.shared:
            raise CommandError("--off goes alone", "lopower advertise --off", USAGE)
        document = client.request("DELETE", ["advertised"])
    else:
        document = client.request("POST", ["advertised"], {"site": arguments.via, "shared": arguments.shared})
    output.show([document], arguments.json, False, _text)
    return OK


def _text(document: dict[str, Any]) -> str:
    if not document["routes"]:
        return "nothing is advertised"
    lines = [
        f"{entry['route']}  {'approved' if entry['approved'] else 'waits for approval'}" for entry in document["routes"]
    ]
    if not all(entry["approved"] for entry in document["routes"]):
        lines.append("an admin of the tailnet approves routes, at https://login.tailscale.com/admin/machines")
    return "\n".join(lines)
