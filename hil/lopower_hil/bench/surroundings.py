"""What is around a board: its power, and the Wi-Fi that it joins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


class Switch(Protocol):
    """Something that is on or off. Both methods raise BenchError if it does not obey."""

    def on(self) -> None:
        """Switch it on; harmless if it is."""

    def off(self) -> None:
        """Switch it off; harmless if it is."""


class Names(Protocol):
    """What the DNS server of a network says."""

    def set(self, name: str, address: str) -> None:
        """From now on `name` has `address`. Raises BenchError."""


@dataclass(frozen=True, slots=True)
class WifiNetwork:
    """The network that a board joins.

    Attributes:
        password: "" for an open network.
        switch: switches the access point; None if the bench cannot.
        names: of its DNS server; None if the bench cannot change them.
    """

    ssid: str
    password: str = field(default="", repr=False)
    switch: Switch | None = None
    names: Names | None = None
