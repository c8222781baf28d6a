"""The host's own resolvers, as resolv.conf names them at this moment."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from lopower.dns import resolv_conf
from lopower.dns.config import IPAddress
from lopower.dns.resolv_conf import ResolvConf

# How often the file is looked at, while names are being asked for.
CHECK_SECONDS: Final = 1.0
# The file is the administrator's, but a mistake there should not fill memory.
_MAX_BYTES: Final = 65_536


class SystemResolvers:
    """Reads resolv.conf again whenever it changes: on a laptop or behind DHCP that is every new network.

    Args:
        path: the file; it need not exist.
        own_addresses: addresses at which a query would come back to us.
        changed: called after a change, since another network's answers no longer hold.
    """

    def __init__(self, path: Path, own_addresses: Collection[IPAddress], changed: Callable[[], None]) -> None:
        self._path = path
        self._own_addresses = own_addresses
        self._changed = changed
        self._stamp = self._look()
        self._checked = float("-inf")
        self._current = self._read()

    def current(self, now: float) -> ResolvConf:
        """What the file says; looked at once a second at most."""
        if now - self._checked >= CHECK_SECONDS:
            self._checked = now
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                read = self._read()
                if read != self._current:
                    self._current = read
                    self._changed()
        return self._current

    def _look(self) -> tuple[int, int, int, int] | None:
        try:
            stat = os.stat(self._path)
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _read(self) -> ResolvConf:
        try:
            with self._path.open("rb") as file:
                text = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            return ResolvConf()
        return resolv_conf.parse(text, self._own_addresses)
