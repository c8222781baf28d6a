"""`lopower status`: the daemon at a glance."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
from lopower.cli.advertise import approval
from lopower.cli.errors import OK
from lopower.cli.login import qr_lines


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    options.add_watch(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    output.show(options.documents(arguments, "status"), arguments.json, arguments.watch is not None, _text)
    return OK


def _advertised(document: dict[str, Any]) -> list[tuple[str, str]]:
    entries = [f"{entry['route']} ({approval(entry)})" for entry in document["routes"]]
    if document["zone"]:
        entries.append(f"names under {document['zone']}")
    if not entries:
        return []
    return [("advertised", ", ".join(entries)), *([("", document["advice"])] if document["advice"] else [])]


def _own_nodes(document: dict[str, Any]) -> str:
    """How many devices have one, and what that costs: all nodes live in one process, the proxy's among them."""
    count = len(document["devices"])
    text = f"{count} of at most {document['limit']}"
    if count:
        text += f": {', '.join(document['devices'])}"
    if document["waiting"]:
        text += f"; not in yet: {', '.join(document['waiting'])} (lopower expose)"
    if document["memory_bytes"] is not None:
        each = document["memory_bytes_per_node"]
        text += f"; memory {output.size(document['memory_bytes'])}"
        text += f", {output.size(each)} a node with the proxy's" if each is not None and count else ""
    return text


def _text(document: dict[str, Any]) -> str:
    devices = document["devices"]
    states = [f"{count} {state}" for state, count in devices.items() if state not in ("total", "outdated") and count]
    if devices["outdated"]:
        states.append(f"{devices['outdated']} with an outdated configuration")
    items = [
        ("lopower", f"{document['version']}, up for {output.span(document['uptime'])}, process {document['process']}"),
        ("state", document["state_dir"]),
        ("settings", document["config"] or "no file"),
        ("listening", f"UDP port {document['port']}"),
        ("devices", f"{devices['total']}" + (f": {', '.join(states)}" if states else "")),
    ]
    served = [f"{entry['port']}/{entry['protocol']} -> {entry['target']}" for entry in document["served"]]
    items.append(("served", ", ".join(served) or "nothing"))
    data_plane = document["data_plane"]
    if "flows" in data_plane:
        items.append(("flows", str(data_plane["flows"])))
    if tailnet := data_plane.get("tailnet"):
        items.append(("tailnet", tailnet["detail"]))
        if tailnet["advice"]:
            items.append(("", tailnet["advice"]))
        if tailnet.get("login_url"):
            items += [("", line) for line in qr_lines(tailnet["login_url"])]
    items += _advertised(document["advertised"])
    if (nodes := document["own_nodes"]) is not None:
        items.append(("own nodes", _own_nodes(nodes)))
    if data_plane.get("ping_advice"):
        items.append(("ping", data_plane["ping_advice"]))
    dropped = [f"{name} {count}" for name, count in document["counters"].items() if count]
    items.append(("WireGuard", ", ".join(dropped) or "nothing dropped"))
    items += [("failing", failure) for failure in data_plane.get("failures", ())]
    items += [("warning", warning) for warning in document["warnings"]]
    return output.pairs(items)
