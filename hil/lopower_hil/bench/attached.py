"""Boards that are attached to this machine, by their ports: `pytest --board PORT`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lopower_hil.bench.board import Board
from lopower_hil.bench.errors import BenchError, LackingError
from lopower_hil.bench.recorder import Recorder
from lopower_hil.bench.surroundings import WifiNetwork
from lopower_provisioning import wifi_store
from lopower_provisioning.errors import ProvisioningError


class AttachedBench:
    """One board at each of `ports`. They have no power switch, and nobody switches their access point.

    Args:
        ssid: of the network that they join, whose password is in LOPOWER_WIFI_PASSWORD or saved by `lopower flash`;
            None: the network that is saved.
        image: None for the newest stock image.
        address: of this host as the boards reach it; None: that of the default route.
    """

    def __init__(
        self,
        ports: Sequence[str],
        recorder: Recorder,
        *,
        ssid: str | None,
        image: Path | None,
        address: str | None,
        cache: Path,
        saved: Path,
    ) -> None:
        self.address: str | None = address or ""
        self._ports = ports
        self._recorder = recorder
        self._ssid = ssid
        self._image = image
        self._cache = cache
        self._saved = saved
        self._boards: list[Board] = []

    def boards(self, count: int) -> list[Board]:
        """The first `count` boards. Raises LackingError, BenchError."""
        if count > len(self._ports):
            raise LackingError(f"{_boards(count)} needed, and --board names {len(self._ports)} for this process")
        if not self._boards:
            wifi = network(self._ssid, self._saved)
            self._boards = [
                Board(
                    name=f"board{number}",
                    port=port,
                    wifi=wifi,
                    power=None,
                    image=self._image,
                    cache=self._cache,
                    recorder=self._recorder,
                )
                for number, port in enumerate(self._ports, 1)
            ]
        return self._boards[:count]

    def close(self) -> None:
        """Give the ports back."""
        for board in self._boards:
            board.close()


def network(ssid: str | None, saved: Path) -> WifiNetwork:
    """The network that boards join. Raises BenchError if it, or its password, is not known."""
    try:
        passwords = wifi_store.given_passwords(None, os.environ)
        found, unknown = wifi_store.named([ssid] if ssid else [], passwords, wifi_store.load(saved), None)
    except ProvisioningError as error:
        raise BenchError(f"{error}. {error.hint}") from None
    if unknown or not found:
        raise BenchError(
            f"the Wi-Fi for the boards is not known: name it by --board-wifi, with its password in "
            f"{wifi_store.PASSWORD_VARIABLE}, or save one by `lopower flash`"
        )
    return WifiNetwork(found[0].ssid, found[0].password)


def _boards(count: int) -> str:
    return "a board is" if count == 1 else f"{count} boards are"
