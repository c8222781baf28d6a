"""Options that several commands share, and the daemon that they lead to."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from lopower.cli.errors import USAGE
from lopower.daemon.paths import Paths, candidates, socket_of

if TYPE_CHECKING:
    from lopower.control.client import ControlClient

DEFAULT_WATCH_SECONDS: Final = 2.0


class Parser(argparse.ArgumentParser):
    """Says what is wrong, and where help is, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Print and exit."""
        self.exit(USAGE, f"lopower: {message}\n`{self.prog} --help` shows what is possible\n")


def common() -> Parser:
    """`--config`, `--state-dir` and `--socket`, which are taken everywhere."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = parser.add_argument_group("where the daemon is")
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
    """
    from lopower.control.client import ControlClient

    return ControlClient(sockets(arguments, os.environ, os.geteuid() == 0))


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
