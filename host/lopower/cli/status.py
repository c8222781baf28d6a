"""`lopower status`: the daemon at a glance."""

from __future__ import annotations

import argparse
from typing import Any

from lopower.cli import options, output
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
    if data_plane.get("ping_advice"):
        items.append(("ping", data_plane["ping_advice"]))
    dropped = [f"{name} {count}" for name, count in document["counters"].items() if count]
    items.append(("WireGuard", ", ".join(dropped) or "nothing dropped"))
    items += [("failing", failure) for failure in data_plane.get("failures", ())]
    items += [("warning", warning) for warning in document["warnings"]]
    return output.pairs(items)
