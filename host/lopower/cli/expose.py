"""`lopower expose`: what of the devices the tailnet reaches."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import OK, USAGE, CommandError
from lopower.cli.login import qr_lines

_USAGE = (
    "lopower expose NAME [--port PORT[:PORT] [--udp] | --https | --node [--hostname NAME] [--tag tag:TAG ...]] "
    "[--from WHO ...] [--off]"
)


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Let the tailnet reach a device: all that arrives for the proxy's node, one port of it, or a node of the "
        "device's own. With --tailnet host: one port of this host's tailnet addresses. Without NAME: list what is "
        "exposed."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the device")
    parser.add_argument("--port", metavar="PORT[:PORT]", help="one port of the node, to one of the device")
    parser.add_argument("--udp", action="store_true", help="that port is UDP")
    parser.add_argument(
        "--https",
        action="store_true",
        help="port 443 of the node, which ends TLS with the tailnet's certificate, to port 80 of the device",
    )
    parser.add_argument("--node", action="store_true", help="give the device a node of its own")
    parser.add_argument("--hostname", metavar="NAME", help="what its own node is called; default: as the device")
    parser.add_argument(
        "--tag",
        dest="tags",
        action="append",
        metavar="tag:TAG",
        help="what its own node asks for; may be repeated; default: the proxy's own tags",
    )
    parser.add_argument(
        "--from",
        dest="sources",
        action="append",
        metavar="WHO",
        help="only these may connect: tag:NAME, a user's login name, or a network; may be repeated",
    )
    parser.add_argument(
        "--off", action="store_true", help="take it back; without --port or --node: all of the device's"
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List, expose, or take back."""
    client = options.client(arguments)
    _check(arguments)
    if arguments.name is None:
        output.show([client.get("exposures")], arguments.json, False, _list)
        return OK
    kind = "node" if arguments.node else "https" if arguments.https else "port" if arguments.port else "all"
    body: dict[str, Any] = {"kind": kind}
    if arguments.port:
        port, target = _ports(arguments.port)
        body |= {"port": port, "target_port": target, "protocol": "udp" if arguments.udp else "tcp"}
    if arguments.off:
        places = {"node": "node", "https": "tcp:443", "all": None}
        place = f"{body['protocol']}:{body['port']}" if arguments.port else places[kind]
        query = {} if place is None else {"place": place}
        document = client.request("DELETE", ["exposures", arguments.name], query=query)
        output.show([document], arguments.json, False, lambda _: f"{arguments.name} is not exposed there any more")
        return OK
    body |= {"device": arguments.name, "from": arguments.sources or []}
    if arguments.hostname:
        body["hostname"] = arguments.hostname
    if arguments.tags:
        body["tags"] = arguments.tags
    document = client.request("POST", ["exposures"], body)
    output.show([document], arguments.json, False, _one)
    if client.get("devices", arguments.name)["outdated"]:
        # Devices take packets of the tailnet's only if its ranges are in their AllowedIPs.
        output.note(
            f"the configuration of {arguments.name} is outdated, and it may not answer to the tailnet: "
            f"lopower device config {arguments.name}"
        )
    return OK


def _check(arguments: argparse.Namespace) -> None:
    if arguments.name is None:
        alone = not (arguments.port or arguments.node or arguments.https or arguments.off or arguments.sources)
    else:
        alone = [bool(arguments.port), arguments.node, arguments.https].count(True) < 2
    if (
        not alone
        or (arguments.udp and not arguments.port)
        or ((arguments.hostname or arguments.tags) and not arguments.node)
    ):
        raise CommandError("these do not go together", _USAGE, USAGE)


def _ports(text: str) -> tuple[int, int]:
    words = text.split(":")
    numbers = [int(word) for word in words if word.isascii() and word.isdecimal() and len(word) < 6]
    if len(numbers) != len(words) or len(words) > 2:
        raise CommandError(f"{text!r} is not PORT or PORT:PORT", _USAGE, USAGE)
    return numbers[0], numbers[-1]


def _one(document: dict[str, Any]) -> str:
    node = document["node"]
    if document["kind"] == "node":
        lines = [f"{document['device']} has a node of its own, {_where(document)}{_from(document)}"]
    else:
        lines = [f"{_where(document)} reaches {_what(document)}{_from(document)}"]
    if document["kind"] == "https" and node["connected"] and not node["certificates"]:
        lines.append("the tailnet gives no certificates yet: enable HTTPS at https://login.tailscale.com/admin/dns")
    if not node["connected"]:
        lines.append(node["detail"])
        if node["login_url"]:
            lines += [f"open {node['login_url']}", *qr_lines(node["login_url"])]
    return "\n".join(lines)


def _list(document: dict[str, Any]) -> str:
    rows = [
        (_where(entry), _what(entry), ", ".join(entry["from"]) or "everybody", _state(entry))
        for entry in document["exposures"]
    ]
    if not rows:
        return "nothing is exposed; see lopower expose --help"
    return output.table(("IN THE TAILNET", "DEVICE", "FROM", ""), rows)


def _where(document: dict[str, Any]) -> str:
    node = document.get("node") or {}
    name = node.get("dns_name") or document.get("hostname") or _host(node) or "the proxy's node"
    if document["kind"] == "https":
        return f"https://{name}/"
    return f"{name}, {document['protocol']} port {document['port']}" if document["kind"] == "port" else str(name)


def _host(node: dict[str, Any]) -> str:
    if node.get("driver") != "host":
        return ""
    return f"this host ({', '.join(node['addresses'])})" if node["addresses"] else "this host"


def _what(document: dict[str, Any]) -> str:
    port = f", port {document['target_port']}" if document["kind"] in ("port", "https") else ""
    return f"{document['device']}{port}"


def _from(document: dict[str, Any]) -> str:
    return f", for {', '.join(document['from'])}" if document["from"] else ""


def _state(document: dict[str, Any]) -> str:
    node = document.get("node")
    if node is None:
        return "needs --tailnet tsnet"
    if node["connected"]:
        return ""
    return f"open {node['login_url']}" if node["login_url"] else str(node["detail"])
