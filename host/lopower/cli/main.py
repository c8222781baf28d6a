"""`lopower`: finds the command, runs it, and turns what went wrong into a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Final

from lopower import __version__
from lopower.cli import options
from lopower.cli.errors import FAILED, FORBIDDEN, INTERRUPTED, NOT_FOUND, NOT_RUNNING, OK, USAGE, CommandError

if TYPE_CHECKING:
    from lopower.control.errors import ControlError

# Command, module in this package, help. A module is imported when its command is wanted: most need no other.
_COMMANDS: Final = {
    "up": "run the daemon in the foreground",
    "service": "keep the daemon running with systemd",
    "device": "add, show and change devices",
    "login": "log the proxy's own node in to the tailnet",
    "logout": "take the proxy's own node out of the tailnet for good",
    "expose": "let the tailnet reach a device",
    "advertise": "make the devices' ranges routes of the tailnet",
    "serve": "offer a port of this host to devices",
    "server": "this server, as devices need to know it",
    "status": "the daemon at a glance",
    "ping": "send echo requests to a device",
    "doctor": "look for what keeps devices from working",
    "config": "the settings file",
    "completion": "print a script that completes commands in a shell",
}


def build_parser(wanted: Container[str] = _COMMANDS) -> options.Parser:
    """The parser. Each command sets `run`, a function of the arguments that returns the exit code.

    Args:
        wanted: commands whose options are defined; the others are only named.
    """
    common = options.common()
    parser = options.Parser(
        prog="lopower",
        description="WireGuard devices reach a network, and are reached, through user space.",
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"lopower {__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=options.Parser)
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, parents=[common], allow_abbrev=False, help=text)
        if name in wanted:
            importlib.import_module(f"lopower.cli.{name}").define(command, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code; docs/cli.md lists them.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    parser = build_parser(words)
    arguments = parser.parse_args(words)
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
