"""Options that several commands share, and the daemon that they lead to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from lopower.cli.errors import USAGE, CommandError
from lopower.daemon.paths import Paths, candidates, socket_of

if TYPE_CHECKING:
    from lopower.control.client import ControlClient
    from lopower.control.ssh import SshDestination

DEFAULT_WATCH_SECONDS: Final = 2.0


class Parser(argparse.ArgumentParser):
    """Says what is wrong, and where help is, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print and exit."""
        self.exit(USAGE, f"lopower: {message}\n`{self.prog} --help` shows what is possible\n")


def common() -> Parser:
    """`--daemon`, `--config`, `--state-dir` and `--socket`, which are taken everywhere."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("where the daemon is")
    group.add_argument("--daemon", metavar="URL", help="on another host: ssh://[USER@]HOST[:PORT][/SOCKET]")
    group.add_argument("--config", metavar="FILE", help="settings file")
    group.add_argument("--state-dir", metavar="DIR", help="where keys and devices are kept")
    group.add_argument("--socket", metavar="PATH", help="the control socket")
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_watch(parser: argparse.ArgumentParser) -> None:
    """`--json` and `--watch`."""
    add_json(parser)
    parser.add_argument(
        "--watch",
        nargs="?",
        type=_seconds,
        const=DEFAULT_WATCH_SECONDS,
        metavar="SECONDS",
        help=f"again and again (every {DEFAULT_WATCH_SECONDS:g} s unless told), until Ctrl-C",
    )


def client(arguments: argparse.Namespace) -> ControlClient:
    """The client of the daemon that the options, the environment or the usual places lead to.

    Raises:
        SettingsError: a settings file on the way cannot be used.
        CommandError: the daemon's URL is not one.
    """
    from lopower.control.client import ControlClient

    remote = destination(arguments, os.environ)
    return local_client(arguments) if remote is None else ControlClient((), remote=remote)


def local_client(arguments: argparse.Namespace) -> ControlClient:
    """As `client`, for a daemon on this host.

    Raises:
        SettingsError: a settings file on the way cannot be used.
    """
    from lopower.control.client import ControlClient

    # Without user numbers there is no root, nor a service to be looked for first.
    return ControlClient(sockets(arguments, os.environ, hasattr(os, "geteuid") and os.geteuid() == 0))


def destination(arguments: argparse.Namespace, environ: Mapping[str, str]) -> SshDestination | None:
    """The daemon on another host that is meant, if any: an option for one on this host beats LOPOWER_DAEMON.

    Raises:
        CommandError: the URL is not one, or names another daemon than a second option does.
    """
    from lopower.control.ssh import DestinationError, SshDestination

    here = [name for name in ("socket", "state_dir", "config") if getattr(arguments, name, None)]
    named = getattr(arguments, "daemon", None)
    if named and here:
        option = here[0].replace("_", "-")
        raise CommandError(f"--daemon does not go together with --{option}", "name one daemon", USAGE)
    if not named and not here:
        named = environ.get("LOPOWER_DAEMON")
    if not named:
        return None
    try:
        return SshDestination.parse(named)
    except DestinationError as error:
        raise CommandError(str(error), "for example: --daemon ssh://pi@raspberrypi", USAGE) from None


def documents(arguments: argparse.Namespace, *path: str) -> Iterator[Any]:
    """What the daemon answers at a path: once, or with `--watch` again and again."""
    if arguments.watch is None:
        yield client(arguments).get(*path)
    else:
        yield from client(arguments).watch(*path, interval=arguments.watch)


def sockets(arguments: argparse.Namespace, environ: os._Environ[str] | dict[str, str], is_root: bool) -> list[Path]:
    """Control sockets to try, in order."""
    if named := getattr(arguments, "socket", None) or environ.get("LOPOWER_SOCKET"):
        return [Path(named).expanduser().absolute()]
    if named := getattr(arguments, "state_dir", None) or environ.get("LOPOWER_STATE_DIR"):
        return [socket_of(Path(named).expanduser().absolute())]
    usual = candidates(environ, is_root)
    if named := getattr(arguments, "config", None) or environ.get("LOPOWER_CONFIG"):
        return [_socket_by_file(Path(named), usual[0], must_exist=True)]
    return [_socket_by_file(paths.config, paths, must_exist=False) for paths in usual]


def _socket_by_file(file: Path, paths: Paths, *, must_exist: bool) -> Path:
    """The socket of the daemon that reads this settings file."""
    if not must_exist and not os.access(file, os.R_OK):
        return paths.socket
    from lopower.daemon.settings_file import read

    found = read(file, must_exist=must_exist) or {}
    if "socket" in found:
        return Path(found["socket"])
    return socket_of(found["state_dir"]) if "state_dir" in found else paths.socket


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: seconds from 0.1 to 3600")
    return value
