"""The way to a daemon on another host: `ssh … lopower dial-stdio`, whose standard input and output are its socket.

Nothing of ours listens on the network; who may, decides the other host's SSH. One request is one ssh; those who mind
the time let ssh share its connections (ControlMaster in ssh_config(5)).
"""

from __future__ import annotations

import http.client
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, Final
from urllib.parse import unquote, urlsplit

from lopower.control.errors import ControlError, DaemonNotRunningError, SocketForbiddenError

NOT_RUNNING: Final = 3
FORBIDDEN: Final = 4
"""Exit codes of `lopower dial-stdio`, as docs/cli.md lists them."""

_NOT_FOUND: Final = 127  # a shell's
_SSH_FAILED: Final = 255
_END_SECONDS: Final = 5.0
_MAX_SAID: Final = 8192
_HOST: Final = re.compile(r"[A-Za-z0-9_.:%-]+")
_USER: Final = re.compile(r"[A-Za-z0-9_.@+-]+")
# pipx and pip --user put programs where the shell of a session that is not a login does not look.
_PATH: Final = 'PATH="$PATH:$HOME/.local/bin:/usr/local/bin:/opt/lopower/bin"'


class DestinationError(ValueError):
    """Not a daemon's URL; the text says what one looks like."""


@dataclass(frozen=True, slots=True)
class SshDestination:
    """A host, and the daemon on it.

    Attributes:
        socket: path of the control socket there; None: where `lopower` looks by itself.
    """

    host: str
    user: str | None = None
    port: int | None = None
    socket: str | None = None

    @classmethod
    def parse(cls, url: str) -> SshDestination:
        """Read `ssh://[USER@]HOST[:PORT][/SOCKET]`.

        Raises:
            DestinationError: it is not such a URL.
        """
        try:
            parts = urlsplit(url)
            host, user, port = parts.hostname, parts.username, parts.port
        except ValueError:
            host = user = port = parts = None
        usable = parts is not None and parts.scheme == "ssh" and not (parts.password or parts.query or parts.fragment)
        # A leading hyphen would be an option of ssh.
        if not usable or not host or host.startswith("-") or not _HOST.fullmatch(host):
            raise DestinationError(f"{_shown(url)} is not a daemon's address; it is ssh://[USER@]HOST[:PORT][/SOCKET]")
        if user is not None and (user.startswith("-") or not _USER.fullmatch(user)):
            raise DestinationError(f"{_shown(url)} has a user that no host has")
        assert parts is not None
        path = unquote(parts.path)
        return cls(host, user, port, path if path not in ("", "/") else None)

    def command(self, *, ask: bool) -> list[str]:
        """The program and its arguments.

        Args:
            ask: whether ssh may ask for a password or about a new host, on the terminal.
        """
        words = ["ssh", "-T", "-x", "-o", "ConnectTimeout=15", "-o", f"BatchMode={'no' if ask else 'yes'}"]
        if self.port is not None:
            words += ["-p", str(self.port)]
        if self.user is not None:
            words += ["-l", self.user]
        dial = "exec lopower dial-stdio" + ("" if self.socket is None else f" --socket {shlex.quote(self.socket)}")
        return [*words, "--", self.host, f"sh -c {shlex.quote(f'{_PATH}; export PATH; {dial}')}"]

    def __str__(self) -> str:
        return self.host if self.user is None else f"{self.user}@{self.host}"


class SshConnection(http.client.HTTPConnection):
    """HTTP over the standard input and output of an ssh of its own."""

    def __init__(self, destination: SshDestination, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._destination = destination
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._code = 0
        self._said: list[str] = []

    def connect(self) -> None:
        """Start ssh.

        Raises:
            ControlError: it is not installed.
        """
        ours, theirs = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        try:
            self._process = subprocess.Popen(
                self._destination.command(ask=sys.stdin is not None and sys.stdin.isatty()),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
            )
        except OSError as error:
            ours.close()
            self._errors.close()
            raise ControlError(f"ssh cannot be started: {error.strerror}", "install OpenSSH's client") from None
        finally:
            theirs.close()
        ours.settimeout(self.timeout)
        self.sock = ours

    def close(self) -> None:
        """End it; the other end sees the end of its input. http.client calls this too when something fails."""
        super().close()
        if self._process is not None and self._errors is not None:
            self._code = _end(self._process)
            self._errors.seek(0)
            self._said = self._errors.read(_MAX_SAID).decode(errors="replace").strip().splitlines()
            self._errors.close()
            self._process = self._errors = None

    def failure(self) -> ControlError | None:
        """Close it, after it broke, and tell why; None if ssh has nothing to say about it."""
        self.close()
        code, said = self._code, self._said
        last = said[-1].removeprefix("lopower: ") if said else f"ssh ended with code {code}"
        there = str(self._destination)
        if code == NOT_RUNNING:
            return DaemonNotRunningError(f"no lopower daemon is running on {there}", "start it there: lopower up")
        if code == FORBIDDEN:
            message = next((line.removeprefix("lopower: ") for line in said if line.startswith("lopower: ")), last)
            return SocketForbiddenError(f"{there}: {message}", said[-1].strip() if len(said) > 1 else "")
        if code == _NOT_FOUND:
            return ControlError(
                f"there is no lopower on {there}", "install it there: sudo pipx install --global lopower"
            )
        if code == _SSH_FAILED:
            return ControlError(f"ssh does not reach {there}: {last}", f"try by hand: ssh {there} lopower status")
        return ControlError(f"{there}: {last}") if code else None


def _end(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _shown(url: str) -> str:
    """A URL without the password that somebody may have put into it."""
    return repr(re.sub(r":[^/@]*@", "@", url)[:200])
