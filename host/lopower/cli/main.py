"""`lopower`: finds the command, runs it, and turns what went wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from lopower import __version__
from lopower.cli import options
from lopower.cli.errors import FAILED, FORBIDDEN, INTERRUPTED, NOT_FOUND, NOT_RUNNING, OK, USAGE, CommandError

if TYPE_CHECKING:
    from lopower.control.errors import ControlError

Definition = Callable[[options.Parser, options.Parser], None]

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
    "repl": "the console of a board, through its tunnel",
    "doctor": "look for what keeps devices from working",
    "config": "the settings file",
    "completion": "print a script that completes commands in a shell",
    "dial-stdio": "be the way to this host's daemon, for --daemon ssh://…",
}
# Commands of other packages, which this one does not import: what they need may not be installed, and what they are
# licensed under does not concern the proxy. They register themselves as entry points of the group `lopower.commands`;
# the extra is what pip brings them with.
_ELSEWHERE: Final = {
    "flash": ("turn a board into a device, in one go", "flash"),
    "update": ("update boards through the tunnel", "flash"),
    "boards": ("boards that are attached", "flash"),
    "virtual-board": ("a board without hardware, for esptool, mpremote and tests", "hil"),
    "bench": ("boards for tests: describe those of a lab, and try them", "hil"),
}
_GROUP: Final = "lopower.commands"
_WITHOUT_DAEMON: Final = frozenset({"up", "service", "config", "completion"})


def build_parser(wanted: Container[str] = (*_COMMANDS, *_ELSEWHERE)) -> options.Parser:
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
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", parser_class=options.Parser)
    for name, text in {**_COMMANDS, **{name: text for name, (text, _) in _ELSEWHERE.items()}}.items():
        command = commands.add_parser(name, parents=[common], allow_abbrev=False, help=text)
        if name in wanted:
            _definition(name)(command, common)
    return parser


def _definition(name: str) -> Definition:
    """What defines a command's options."""
    if name in _COMMANDS:
        return cast(Definition, importlib.import_module(f"lopower.cli.{name.replace('-', '_')}").define)
    from importlib.metadata import entry_points

    extra = _ELSEWHERE[name][1]
    for entry in entry_points(group=_GROUP, name=name):
        try:
            return cast(Definition, entry.load().define)
        except ImportError as error:
            return partial(_define_missing, name, extra, error.name or str(error))
    return partial(_define_missing, name, extra, "")


def _define_missing(name: str, extra: str, module: str, parser: options.Parser, common: options.Parser) -> None:
    """A command that says how to install it."""

    def run(arguments: argparse.Namespace) -> int:
        reason = f": there is no {module}" if module else ""
        raise CommandError(f"`lopower {name}` is not installed{reason}", f"pip install 'lopower[{extra}]'")

    # Its options are not known here, so none is complained of.
    parser.parse_known_args = lambda *_: (argparse.Namespace(run=run), [])  # type: ignore[method-assign,assignment]


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
        if arguments.command in _WITHOUT_DAEMON and getattr(arguments, "daemon", None):
            raise CommandError(f"`lopower {arguments.command}` is about this host", "leave --daemon out", USAGE)
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
