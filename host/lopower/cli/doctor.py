"""`lopower doctor`: whether this host is as lopower needs it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import FAILED, OK

_MARKS = {"ok": "ok  ", "warning": "warn", "failure": "FAIL"}


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Look at this host: as the running daemon sees it, else as one would find it. "
        "Exit code 1 if something is wrong, 0 with warnings."
    )
    options.add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask the daemon; look here if none runs."""
    from lopower.control.errors import DaemonNotRunningError

    try:
        checks: list[dict[str, Any]] = options.client(arguments).get("doctor")["checks"]
        running = True
    except DaemonNotRunningError:
        if options.destination(arguments, os.environ) is not None:
            raise  # this host is not the one that was asked about
        checks, running = _look_here(arguments), False
    if arguments.json:
        output.show_json({"running": running, "checks": checks})
    else:
        output.say("as the running daemon sees it:" if running else "no daemon is running; as one would find it:")
        for check in checks:
            output.say(f"{_MARKS[check['verdict']]}  {check['text']}")
            if check["advice"]:
                output.say(f"      {check['advice']}")
    return FAILED if any(check["verdict"] == "failure" for check in checks) else OK


def _look_here(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from lopower.daemon import doctor
    from lopower.daemon.settings_sources import resolve

    flags = {name: getattr(arguments, name, None) for name in ("state_dir", "socket")}
    config = getattr(arguments, "config", None)
    settings = resolve(flags=flags, environ=os.environ, config=None if config is None else Path(config))
    return [check._asdict() for check in doctor.run(settings, doctor.Facts())]
