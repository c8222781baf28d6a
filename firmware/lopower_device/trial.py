"""A set of files on trial after an update: confirmed by the first handshake, or given up (see boot.py)."""

import json
import os

from . import ticks

LIMIT = 120
"""Seconds from the start within which a handshake must follow, unless the update says otherwise."""
SHORTEST, LONGEST = 5, 3600
STATE = "lopower.sets"


def is_limit(seconds):
    """Whether a trial may last that long."""
    return isinstance(seconds, int) and SHORTEST <= seconds <= LONGEST


def directory():
    """(root, name) of the set of files that runs: ("/", "lopower_a"); as boot.py has put them into sys.path."""
    path = __file__.rpartition("/")[0].rpartition("/")[0]
    root, separator, name = path.rpartition("/")
    return root + separator, name


def read_state(root):
    """What boot.py keeps about the sets; zeros for what is missing."""
    state = {"confirmed": 0, "rejected": 0, "trial": 0, "tries": 0}
    try:
        with open(root + STATE) as file:
            found = json.load(file)
        for name in state:
            if not isinstance(found.get(name, 0), int):
                return state
        state.update(found)
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    return state


def write_state(root, state):
    """Beside, and renamed: a power cut leaves the old one or the new one. Raises OSError."""
    with open(root + STATE + ".new", "w") as file:
        json.dump(state, file)
    os.rename(root + STATE + ".new", root + STATE)


class Trial:
    """`reset` restarts the board; the next start then takes the other set."""

    def __init__(self, root, state, reset):
        self._state, self._root, self._reset = state, root, reset
        limit = state.get("limit", LIMIT)
        self.limit = limit if is_limit(limit) else LIMIT
        self._since = None

    def watch(self, now, has_session):
        """Called each turn; true once there is nothing more to watch.

        Without a network the time goes on: the networks may be what the update has changed.
        """
        version = self._state["trial"]
        if self._since is None:
            self._since = now
        if has_session:
            self._state["confirmed"], self._state["trial"], self._state["tries"] = version, 0, 0
            self._state.pop("reason", None)
            self._save()
            return True
        if ticks.diff(now, self._since) >= self.limit * 1000:
            self._state["rejected"], self._state["trial"] = version, 0
            self._state["reason"] = "no handshake within %d s" % self.limit
            self._save()
            from . import _once

            _once("journal").note("set %d is given up: %s" % (version, self._state["reason"]))
            self._reset()
            return True
        return False

    def _save(self):
        try:
            write_state(self._root, self._state)
        except OSError:
            pass  # boot.py's count of starts decides


def pending(root, reset=None):
    """The trial that boot.py has noted, or None."""
    state = read_state(root)
    if not state["trial"] or state["trial"] in (state["confirmed"], state["rejected"]):
        return None
    if reset is None:
        try:
            from machine import reset
        except ImportError:
            return None
    return Trial(root, state, reset)
