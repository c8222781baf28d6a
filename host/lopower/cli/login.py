"""`lopower login`: the proxy's own node enters the tailnet."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import FAILED, OK, USAGE, CommandError


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Log the proxy's own node in to the tailnet: by the URL that is printed, or with an auth key. With NAME that "
        "device's own node. The daemon runs with --tailnet tsnet."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a device that has a node of its own")
    parser.add_argument("--auth-key-file", metavar="FILE", help="log in with the key in this file (-: standard input)")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Log in."""
    body = {} if arguments.name is None else {"device": arguments.name}
    if arguments.auth_key_file is not None:
        body["auth_key"] = _read_key(arguments.auth_key_file)
    document = options.client(arguments).request("POST", ["tailnet", "login"], body)
    output.show([document], arguments.json, False, text)
    if arguments.name is not None:
        document = document["node"]
    return OK if document["connected"] or document["state"] in ("needs-login", "needs-approval", "starting") else FAILED


def text(document: dict[str, Any]) -> str:
    """What the tailnet's state is, with the URL to log in at and its QR code if one waits."""
    if "device" in document:
        document = document["node"]
    lines = [document["detail"]]
    if document.get("login_url"):
        lines += [f"open {document['login_url']}", *qr_lines(document["login_url"])]
    elif document.get("advice"):
        lines.append(document["advice"])
    return "\n".join(lines)


def qr_lines(url: str) -> list[str]:
    """The QR code of a URL, on a terminal; nothing where nobody could photograph it."""
    if not sys.stdout.isatty():
        return []
    from lopower.devices import qr_codes
    from lopower.devices.errors import ConfigurationUnavailable

    try:
        return ["", *qr_codes.terminal(url).splitlines()]
    except ConfigurationUnavailable:  # what a control server sends may be of any length
        return []


def _read_key(file: str) -> str:
    try:
        key = (sys.stdin.read() if file == "-" else Path(file).read_text()).strip()
    except (OSError, ValueError) as error:
        raise CommandError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", "", USAGE) from None
    if not key or len(key.split()) != 1:
        raise CommandError(f"there is no auth key in {file}", "it is one word, such as tskey-auth-...", USAGE)
    return key
