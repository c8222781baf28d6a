"""Where a board's tunnel comes from: a daemon that enrols it, a ready configuration, or what is known of a server.

A target is for one board. `enrol` gives the settings; `take_back` undoes it when the key did not reach the board.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower_provisioning import settings_file
from lopower_provisioning.errors import BoardState, ProvisioningError, RefusedError
from lopower_provisioning.settings_file import Tunnel

HANDSHAKE_SECONDS: Final = 90.0
"""Two attempts at Wi-Fi of 15 s, an address, and three initiations at 5 s, with room."""

_WATCH_SECONDS: Final = 0.5
Confirm = Callable[[str, str], bool]
"""Asks a question; the second argument is what happens on yes. False where nobody can be asked."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a proxy says of the board when it was waited for.

    Attributes:
        connected: there was a handshake.
        findings: why not, in words.
    """

    connected: bool
    findings: tuple[str, ...] = ()


class Target(Protocol):
    """See the module."""

    own_key: str | None
    """The private key that comes with the configuration, in base64."""

    name: str | None
    """The device's, if the configuration says it."""

    domains: tuple[str, ...]
    """Under which other devices find it, besides its bare name."""

    def prepare(self, name: str, same_board: bool, confirm: Confirm) -> None:
        """Make sure, before anything is written, that the board can be enrolled under this name.

        Raises ProvisioningError, ControlError.
        """

    def enrol(self, name: str, mac: str, public_key: str) -> Tunnel:
        """The board's settings, without its private key.

        Raises ProvisioningError, ControlError.
        """

    def take_back(self) -> None:
        """Undo `enrol`; nothing where there is nothing to undo. Raises ControlError."""

    def wait(self, name: str, progress: Callable[[float], None]) -> Seen | None:
        """Until the proxy has seen a handshake; None if nobody can tell. Raises ControlError."""


class DaemonTarget:
    """A daemon, through its control API."""

    own_key: str | None = None
    name: str | None = None

    def __init__(self, client: ControlClient) -> None:
        self.domains: tuple[str, ...] = ()
        self._client = client
        self._exists = False
        self._name = ""
        self._public_key: str | None = None
        self._previous_key: str | None = None

    def prepare(self, name: str, same_board: bool, confirm: Confirm) -> None:
        server = self._client.get("server")
        self.domains = tuple(server["search_domains"])
        if not server["endpoints"]:
            raise ProvisioningError(
                "the proxy does not know at which address devices reach it", "start it with --endpoint HOST"
            )
        try:
            present = self._client.get("devices", name)
        except ControlError as error:
            if error.status != 404:
                raise
            return
        self._exists = True
        question = f"There is a device {name} already ({present['summary']}). Give it this board's key?"
        if not same_board and not confirm(question, "its present key is worth nothing then"):
            raise RefusedError(
                f"there is a device {name} already, and this is another board",
                f"choose another name, or say --yes: {name} keeps its addresses and rules, and gets this board's key",
            )

    def enrol(self, name: str, mac: str, public_key: str) -> Tunnel:
        self._name, self._public_key = name, public_key  # before it is asked for: an answer may be lost
        if self._exists:
            self._previous_key = self._client.get("devices", name)["public_key"]
            self._client.request("PATCH", ["devices", name], {"public_key": public_key})
            answer = self._client.request("POST", ["devices", name, "configuration"], {"format": "json"})
        else:
            body = {"devices": [{"name": name, "public_key": public_key}], "format": "json", "qr": False}
            answer = self._client.request("POST", ["devices"], body)["devices"][0]
        return settings_file.tunnel_from_json(answer["text"])

    def take_back(self) -> None:
        if self._public_key is None:
            return
        try:
            present = self._client.get("devices", self._name)
        except ControlError as error:
            if error.status == 404:
                return
            raise
        if present["public_key"] != self._public_key:
            return  # somebody else's
        if self._previous_key is None:
            self._client.request("DELETE", ["devices", self._name])
        else:
            self._client.request("PATCH", ["devices", self._name], {"public_key": self._previous_key})
        self._public_key = None

    def wait(self, name: str, progress: Callable[[float], None]) -> Seen:
        began = time.monotonic()
        details: dict[str, Any] = {}
        with closing(self._client.watch("devices", name, interval=_WATCH_SECONDS)) as watch:
            for details in watch:
                if details["latest_handshake"] is not None:
                    return Seen(True)
                waited = (time.monotonic() - began) / HANDSHAKE_SECONDS
                if waited >= 1:
                    break
                progress(waited)
        return Seen(False, tuple(str(finding["text"]) for finding in details.get("findings", ())))


class ConfTarget:
    """A configuration that is ready, with its private key: nobody is asked for anything."""

    def __init__(self, tunnel: Tunnel) -> None:
        self.own_key = tunnel.private_key
        self.name = tunnel.name
        self.domains: tuple[str, ...] = ()
        self._tunnel = tunnel

    def prepare(self, name: str, same_board: bool, confirm: Confirm) -> None:
        """Nothing has to be made sure."""

    def enrol(self, name: str, mac: str, public_key: str) -> Tunnel:
        return self._tunnel

    def take_back(self) -> None:
        """Nothing was done."""

    def wait(self, name: str, progress: Callable[[float], None]) -> None:
        return None


def key_pair() -> tuple[str, str]:
    """A private key made here and its public half, both in base64."""
    secret = bytearray(os.urandom(32))
    secret[0] &= 248
    secret[31] = secret[31] & 127 | 64
    return _text(bytes(secret)), public_half(_text(bytes(secret)))


def public_half(private_key: str) -> str:
    """The public key for a private one; both in base64."""
    from nacl.bindings import crypto_scalarmult_base

    return _text(crypto_scalarmult_base(base64.b64decode(private_key)))


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def unreached(error: Exception, name: str, state: BoardState) -> ProvisioningError:
    """An enrolment that could not be taken back either."""
    return ProvisioningError(
        f"the device {name} is enrolled, its key did not reach the board, and taking it back failed: {error}",
        f"lopower device remove {name}",
        state,
    )
