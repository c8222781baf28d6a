"""`lopower bench init` and `lopower bench check`: a lab's description, and whether all in it works."""

from __future__ import annotations

import argparse
from pathlib import Path

from lopower.cli import options, output
from lopower.cli.errors import FAILED, OK, USAGE, CommandError
from lopower_hil.bench import environment_file
from lopower_hil.bench.errors import BenchError
from lopower_provisioning.errors import ProvisioningError

DEFAULT_FILE = "bench.yaml"


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = "Boards for tests of firmware, as a labgrid environment describes them."
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    init = commands.add_parser(
        "init", parents=[common], allow_abbrev=False, help="write a commented environment from the boards attached"
    )
    init.add_argument("ports", nargs="*", metavar="PORT", help="these, also rfc2217://; default: all that are attached")
    init.add_argument("-o", "--output", metavar="FILE", default=DEFAULT_FILE, help="default: %(default)s; -: print it")
    init.set_defaults(run=run_init)
    check = commands.add_parser(
        "check", parents=[common], allow_abbrev=False, help="try every resource; resets the boards"
    )
    check.add_argument("--lg-env", metavar="FILE", default=DEFAULT_FILE, help="default: %(default)s")
    check.add_argument("--board", action="append", metavar="PORT", help="a board at this port, without an environment")
    options.add_json(check)
    check.set_defaults(run=run_check)


def run_init(arguments: argparse.Namespace) -> int:
    """Write the file; one that is there stays."""
    try:
        text = environment_file.environment(arguments.ports or environment_file.attached_ports())
    except ProvisioningError as error:
        raise CommandError(str(error), error.hint, FAILED) from None
    except BenchError as error:
        raise CommandError(str(error), "name the ports: lopower bench init /dev/ttyUSB0", FAILED) from None
    if arguments.output == "-":
        output.say(text.rstrip("\n"))
        return OK
    try:
        with Path(arguments.output).open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{arguments.output} is there already", "name another one with --output", USAGE) from None
    except OSError as error:
        raise CommandError(f"{arguments.output} cannot be written: {error.strerror}") from None
    output.note(f"{arguments.output} is written; fill in what it cannot know, then: lopower bench check")
    return OK


def run_check(arguments: argparse.Namespace) -> int:
    """Try all; 1 if something does not work."""
    from lopower_hil.bench import checking

    try:
        if arguments.board:
            found = [checking.check_port(port, port) for port in arguments.board]
        else:
            found = checking.check_environment(Path(arguments.lg_env))
    except BenchError as error:
        raise CommandError(str(error)) from None
    if arguments.json:
        output.show_json({"boards": [{"name": board.name, "resources": board.document()} for board in found]})
    else:
        rows = [
            (board.name, result.resource, "works" if result.works else "FAILS", result.text)
            for board in found
            for result in board.results
        ]
        output.say(output.table(("BOARD", "RESOURCE", "", ""), rows))
    return OK if all(result.works for board in found for result in board.results) else FAILED
