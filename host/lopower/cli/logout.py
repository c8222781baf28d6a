"""`lopower logout`: the proxy's own node leaves the tailnet."""

from __future__ import annotations

import argparse

from lopower.cli import options, output
from lopower.cli.errors import OK


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = "Take the proxy's own node out of the tailnet; its identity there is gone. Devices stay."
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Log out."""
    document = options.client(arguments).request("POST", ["tailnet", "logout"])
    output.show([document], arguments.json, False, lambda document: str(document["detail"]))
    return OK
