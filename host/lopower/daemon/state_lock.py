"""One daemon per state directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class StateLockedError(Exception):
    """Another daemon uses the state directory; the text says which."""


class StateLock:
    """Holds a state directory for this process until released; the kernel releases it when the process ends anyhow."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock.

        Raises:
            StateLockedError: another process holds it.
            OSError: the directory is not writable.
        """
        self._descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StateLockedError(
                f"another lopower (process {holder or 'unknown'}) uses {state_dir}; "
                "stop it first, or give this one a --state-dir of its own"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another daemon have the directory. The file stays: removing it would let two take different files."""
        os.close(self._descriptor)
