"""`lopower serve`: ports of the gateway that reach services of this host."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import OK, USAGE, CommandError


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = "Let the gateway's port PORT reach TARGET, for all devices. Without PORT: list what is served."
    parser.add_argument("port", nargs="?", type=int, metavar="PORT", help="the gateway's port")
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="PORT, ADDRESS or ADDRESS:PORT; default: the same port of 127.0.0.1"
    )
    parser.add_argument("--udp", action="store_true", help="UDP instead of TCP")
    parser.add_argument("--off", action="store_true", help="offer the port no longer")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List, offer, or offer no longer."""
    client, protocol = options.client(arguments), "udp" if arguments.udp else "tcp"
    if arguments.port is None:
        if arguments.off or arguments.udp:
            raise CommandError("which port?", "lopower serve PORT [TARGET] [--udp] [--off]", USAGE)
        output.show([client.get("served")], arguments.json, False, _text)
        return OK
    if arguments.off:
        if arguments.target is not None:
            raise CommandError("--off takes no target", "lopower serve PORT [--udp] --off", USAGE)
        document = client.request("DELETE", ["served", protocol, str(arguments.port)])
        text = f"the gateway's {protocol} port {document['port']} is closed"
    else:
        body: dict[str, Any] = {"port": arguments.port, "protocol": protocol}
        if arguments.target is not None:
            body["target"] = arguments.target
        document = client.request("POST", ["served"], body)
        text = f"the gateway's {protocol} port {document['port']} reaches {document['target']}"
    output.show([document], arguments.json, False, lambda _: text)
    return OK


def _text(document: dict[str, Any]) -> str:
    rows = [(str(entry["port"]), entry["protocol"], entry["target"]) for entry in document["served"]]
    return output.table(("PORT", "PROTOCOL", "TARGET"), rows) if rows else "nothing is served; see lopower serve --help"
