"""Where settings, state and sockets are: for the system's service, and for a user's own daemon.

As root, and for the service: /etc/lopower, /var/lib/lopower, /run/lopower. As a user: the XDG Base Directory
Specification. A control socket lies in its state directory, except the service's, which lies in /run/lopower, where the
service's group may go and the state directory's rights need not be opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

CONFIG_NAME: Final = "lopower.toml"
SOCKET_NAME: Final = "lopower.sock"
# sun_path of sockaddr_un has 108 bytes on Linux, 104 elsewhere, the final zero included.
MAX_SOCKET_PATH_BYTES: Final = 103


class Paths(NamedTuple):
    """The places of one installation."""

    config: Path
    state_dir: Path
    runtime_dir: Path

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.runtime_dir / SOCKET_NAME


SYSTEM: Final = Paths(Path("/etc/lopower") / CONFIG_NAME, Path("/var/lib/lopower"), Path("/run/lopower"))


def user_paths(environ: Mapping[str, str]) -> Paths:
    """A user's places. Relative paths in the XDG variables are ignored, as their specification says."""
    home = Path(environ.get("HOME") or Path.home())

    def base(variable: str, default: str) -> Path:
        named = Path(environ.get(variable, ""))
        return named if named.is_absolute() else home / default

    state_dir = base("XDG_STATE_HOME", ".local/state") / "lopower"
    return Paths(base("XDG_CONFIG_HOME", ".config") / "lopower" / CONFIG_NAME, state_dir, state_dir)


def candidates(environ: Mapping[str, str], is_root: bool) -> tuple[Paths, Paths]:
    """Both installations, the one that `lopower up` would use first."""
    user = user_paths(environ)
    return (SYSTEM, user) if is_root else (user, SYSTEM)


def socket_of(state_dir: Path) -> Path:
    """The control socket of the daemon that keeps its state in `state_dir`."""
    return SYSTEM.socket if state_dir == SYSTEM.state_dir else state_dir / SOCKET_NAME
