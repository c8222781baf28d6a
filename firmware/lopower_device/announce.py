"""What a board tells its gateway of itself: once after each start, when the tunnel is up, and whenever it is asked."""

import json
import os
import sys

from . import _once, ticks

trial = _once("trial")

ATTEMPTS = 3
TIMEOUT = 5_000
MAX_TEXT = 100


def facts(tunnel):
    """A dictionary for JSON, of less than 700 bytes.

    `set` is the number of the set of files that runs, `gave_up` the one that was given up after it, with the reason.
    """
    root, name = trial.directory()
    told = {"set": 0, "package": "", "arch": "", "image": _image(), "files": name, "reset": _reset_cause()}
    try:
        with open(root + name + "/manifest.json") as file:
            manifest = json.load(file)
        told["set"], told["arch"] = manifest["version"], str(manifest.get("arch", ""))[:MAX_TEXT]
        told["package"] = str(manifest.get("package", ""))[:MAX_TEXT]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not installed in sets
    state = trial.read_state(root)
    if state["rejected"] > told["set"]:
        told["gave_up"] = {"set": state["rejected"], "reason": str(state.get("reason", ""))[:MAX_TEXT]}
    told["repl"] = tunnel.settings.remote_repl
    try:
        space = os.statvfs(root)
        told["free"] = space[0] * space[3]
    except (OSError, AttributeError):
        pass
    return told


def _image():
    machine = getattr(sys.implementation, "_machine", "")
    version = sys.version.partition("; ")[2]
    return (version + "; " + machine)[:MAX_TEXT]


def _reset_cause():
    """In words, or ""."""
    try:
        import machine

        cause = machine.reset_cause()
        for name in ("PWRON_RESET", "HARD_RESET", "WDT_RESET", "DEEPSLEEP_RESET", "SOFT_RESET"):
            if getattr(machine, name, None) == cause:
                return name[:-6].lower()
        return str(cause)
    except (ImportError, AttributeError):
        return ""


class Announcement:
    """Sent to the gateway until that answers; a gateway that is not lopower's never does."""

    def __init__(self, tunnel, port):
        self._tunnel = tunnel
        self._stack, self._attempts, self._sent = tunnel.stack, 0, None
        server = tunnel.proxy.dns[0]
        self._port = self._stack.open_udp(len(server))
        self._port.remote = (server, port)

    def watch(self, now):
        """Called each turn; true once there is nothing more to do."""
        port = self._port
        if self._stack is not self._tunnel.stack:
            return True  # another proxy; it is asked for no more than this
        if port.queue or port.error or self._attempts > ATTEMPTS:
            port.close(now)
            return True
        if self._sent is None or ticks.diff(now, self._sent) >= TIMEOUT:
            self._attempts += 1
            self._sent = now
            if self._attempts <= ATTEMPTS:
                port.send(json.dumps(facts(self._tunnel)).encode(), port.remote, now)
        return False
