"""Where the sidecar is, its nodes' keys, and the sockets that are shared with it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from lopower.tailnet.tsnet_inbound import PROXY_NODE

_PROGRAM: Final = "lopower-sidecar"
_SOCKETS: Final = "sockets-"
# The path of a unix socket has 107 bytes at most; this leaves room for our directory's name and the longest socket's.
_MAX_SOCKET_DIRECTORY: Final = 80


def socket_directory(state_dir: Path) -> Path:
    """A new directory (0700) for the sockets: beside the nodes' keys, or where a path is short enough for a socket's.

    Those of daemons that were killed are removed: the state directory is locked, so nobody else is there. The name is
    never used again, since a sidecar that outlived its daemon by a moment removes its sockets when it ends.
    """
    place = state_dir.parent
    for left in place.glob(f"{_SOCKETS}*"):
        shutil.rmtree(left, ignore_errors=True)
    if len(os.fsencode(place)) > _MAX_SOCKET_DIRECTORY:
        return Path(tempfile.mkdtemp(prefix="lopower-"))
    return Path(tempfile.mkdtemp(prefix=_SOCKETS, dir=place))


def find_program(places: Sequence[Path]) -> Path | None:
    """The sidecar: in one of these directories, or where the system looks for programs."""
    for place in places:
        if (place / _PROGRAM).is_file():
            return place / _PROGRAM
    found = shutil.which(_PROGRAM)
    return None if found is None else Path(found)


def has_identity(state_dir: Path) -> bool:
    """Whether the proxy's node has been set up there once."""
    with contextlib.suppress(OSError):
        return any((state_dir / PROXY_NODE).iterdir())
    return False
