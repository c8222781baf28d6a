"""`lopower ping`: is a device there, and how far away."""

from __future__ import annotations

import argparse
import time
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import FAILED, OK


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = "Send echo requests to a device through its tunnel. Exit code 0 if at least one was answered."
    parser.add_argument("name", metavar="NAME", help="the device")
    parser.add_argument("-c", "--count", type=int, default=4, metavar="N", help="how many; default: 4")
    parser.add_argument("-i", "--interval", type=float, default=1.0, metavar="SECONDS", help="between two; default: 1")
    parser.add_argument("-W", "--timeout", type=float, default=5.0, metavar="SECONDS", help="for an answer; default: 5")
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """One request of the control API for each echo, so that answers are shown as they come."""
    client = options.client(arguments)
    replies: list[dict[str, Any]] = []
    try:
        for sequence in range(1, arguments.count + 1):
            began = time.monotonic()
            body = {"count": 1, "interval": arguments.interval, "timeout": arguments.timeout}
            path = ["devices", arguments.name, "ping"]
            answer = client.request("POST", path, body, timeout=arguments.timeout + 10.0)
            for reply in answer["replies"]:
                replies.append({**reply, "sequence": sequence})
                if not arguments.json:
                    output.note(_line(replies[-1])) if reply["seconds"] is None else output.say(_line(replies[-1]))
            if sequence < arguments.count:
                time.sleep(max(0.0, arguments.interval - (time.monotonic() - began)))
    except KeyboardInterrupt:
        pass  # the summary is what Ctrl-C asks for
    answered = [reply["seconds"] for reply in replies if reply["seconds"] is not None]
    if arguments.json:
        output.show_json({"replies": replies})
    elif answered:
        times = "/".join(
            f"{value * 1e3:.1f}" for value in (min(answered), sum(answered) / len(answered), max(answered))
        )
        output.say(f"{len(answered)} of {len(replies)} answered, min/avg/max {times} ms")
    else:
        output.note(f"no answer; `lopower device show {arguments.name}` may say why")
    return OK if answered else FAILED


def _line(reply: dict[str, Any]) -> str:
    if reply["seconds"] is None:
        return f"no answer from {reply['address']}, sequence {reply['sequence']}"
    return f"{reply['address']} answered, sequence {reply['sequence']}, {reply['seconds'] * 1e3:.1f} ms"
