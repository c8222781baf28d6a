"""A set of files on trial after an update: confirmed by the first handshake, or given up (see boot.py)."""

import json
import os

from . import ticks

LIMIT = 120_000
"""Milliseconds from the network's being up within which a handshake must follow."""


class Trial:
    """`reset` restarts the board; the next start then takes the other set."""

    def __init__(self, state, path, reset):
        self._state, self._path, self._reset = state, path, reset
        self._since = None

    def watch(self, now, has_network, has_session):
        """Called each turn; true once there is nothing more to watch."""
        version = self._state["trial"]
        if has_session:
            self._state["confirmed"], self._state["trial"], self._state["tries"] = version, 0, 0
            self._save()
            return True
        if not has_network:
            self._since = None
        elif self._since is None:
            self._since = now
        elif ticks.diff(now, self._since) >= LIMIT:
            self._state["rejected"], self._state["trial"] = version, 0
            self._save()
            self._reset()
            return True
        return False

    def _save(self):
        try:
            with open(self._path + ".new", "w") as file:
                json.dump(self._state, file)
            os.rename(self._path + ".new", self._path)
        except OSError:
            pass  # boot.py's count of starts decides


def pending(path, reset=None):
    """The trial that boot.py has noted, or None."""
    try:
        with open(path) as file:
            state = json.load(file)
        if not state["trial"] or state["trial"] in (state["confirmed"], state["rejected"]):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if reset is None:
        try:
            from machine import reset
        except ImportError:
            return None
    return Trial(state, path, reset)
