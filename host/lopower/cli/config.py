"""`lopower config init`: a settings file with everything in it, commented."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lopower.cli import output
from lopower.cli.errors import OK, CommandError


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the commands and their options."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    init = actions.add_parser(
        "init",
        parents=[common],
        allow_abbrev=False,
        help="write a settings file with every setting, commented out",
        description="Write a settings file with every setting, commented out, where `lopower up` looks for it. "
        "An existing file is left alone.",
    )
    init.add_argument("--stdout", action="store_true", help="print it instead")
    init.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    from lopower.daemon.paths import candidates
    from lopower.daemon.settings_file import template

    if arguments.stdout:
        output.say(template().rstrip("\n"))
        return OK
    named = getattr(arguments, "config", None) or os.environ.get("LOPOWER_CONFIG")
    path = Path(named) if named else candidates(os.environ, os.geteuid() == 0)[0].config
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(template())
    except FileExistsError:
        raise CommandError(f"{path} exists already", "`lopower config init --stdout` prints a new one") from None
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written: {error.strerror}", "choose another place with --config"
        ) from None
    output.note(f"wrote {path}; take the # away from what you want to change")
    return OK
