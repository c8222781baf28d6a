"""`lopower`: finds the command, runs it, and turns what went wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from lopower import __version__
from lopower.cli import completion, config, device, doctor, options, ping, serve, server, service, status, up
from lopower.cli.errors import FAILED, FORBIDDEN, INTERRUPTED, NOT_FOUND, NOT_RUNNING, OK, USAGE, CommandError

if TYPE_CHECKING:
    from lopower.control.errors import ControlError

_GROUPS = (up, service, device, serve, server, status, ping, doctor, config, completion)


class Parser(argparse.ArgumentParser):
    """Says what is wrong, and where help is, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print and exit."""
        self.exit(USAGE, f"lopower: {message}\n`{self.prog} --help` shows what is possible\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands. Each sets `run`, a function of the arguments that returns the exit code."""
    common = options.common()
    parser = Parser(
        prog="lopower",
        description="WireGuard devices reach a network, and are reached, through user space.",
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lopower {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
    for group in _GROUPS:
        group.add(commands, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code; docs/cli.md lists them.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CommandError as error:
        return _fail(str(error), error.hint, error.code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Python would complain when it closes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except Exception as error:
        return _expected(error)


def _expected(error: Exception) -> int:
    """Messages of what the user can change; anything else is an error of ours, and is raised."""
    # Imported only now: a command that goes well does not pay for them.
    from lopower.control.errors import ControlError
    from lopower.daemon.settings import SettingsError

    if isinstance(error, SettingsError):
        return _fail(str(error), "", USAGE)
    if isinstance(error, ControlError):
        return _fail(error.message, error.hint, _code_of(error))
    raise error


def _code_of(error: ControlError) -> int:
    from lopower.control.errors import DaemonNotRunningError, SocketForbiddenError

    if isinstance(error, DaemonNotRunningError):
        return NOT_RUNNING
    if isinstance(error, SocketForbiddenError):
        return FORBIDDEN
    return {400: USAGE, 404: NOT_FOUND}.get(error.status, FAILED)


def _fail(message: str, hint: str, code: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"lopower: {message}\n" + (f"  {hint}\n" if hint else ""))
    return code


if __name__ == "__main__":
    sys.exit(main())
