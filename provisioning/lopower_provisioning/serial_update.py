"""An update of a board at its serial port: the same as through the tunnel, for a board that has none.

Nothing is erased and no key is made: the set of files that does not run is written anew over the REPL, what the board
has already is copied there, and the switch is one renaming. Until then a pulled cable leaves it with what it ran.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower_provisioning import board_programs, on_board, targets
from lopower_provisioning.errors import FlashError, ProvisioningError, UpdateError
from lopower_provisioning.repl import RunningBoard
from lopower_provisioning.rollout import INTERRUPTED
from lopower_provisioning.settings_file import Tunnel
from lopower_provisioning.steps import Reporter, Step, step
from lopower_provisioning.update import (
    ARCHITECTURES,
    UpdateOutcome,
    UpdateRequest,
    check_room,
    configuration,
    set_files,
    wait_for_set,
)

_MARK: Final = "lopower-update "
_PIECE: Final = 768
"""Bytes in one program, which the board compiles: a board without PSRAM has little memory left."""
_SECONDS: Final = 60.0
"""For one answer: to remove a set of files from a slow flash takes longest."""
_START_SECONDS: Final = 10.0
_ASK_SECONDS: Final = 1.0
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Source(Protocol):
    """Where the board's settings come from, and who sees whether it connects."""

    def settings(self, name: str, public_key: str) -> Tunnel:
        """Those of now. Raises ProvisioningError, ControlError; also if they are another board's."""

    def wait(self, name: str, request: UpdateRequest, outcome: UpdateOutcome, current: Step, version: int) -> bool:
        """Until the board runs the set `version`, or is back, as `outcome` tells; False if nobody can see that.

        Raises ProvisioningError.
        """


@dataclass(frozen=True, slots=True)
class DaemonSource:
    """A daemon, through its control API."""

    client: ControlClient

    def settings(self, name: str, public_key: str) -> Tunnel:
        try:
            known = self.client.get("devices", name)
        except ControlError as error:
            if error.status != 404:
                raise
            raise UpdateError(
                f"the proxy has no device {name}, which the board says it is",
                "--name if it has another name there; lopower flash without --update makes the board a device",
            ) from None
        if known["public_key"] != public_key:
            raise UpdateError(
                f"the board's key is not that of the device {name}",
                "--name if it is another device; lopower flash without --update gives the board a new key",
            )
        return configuration(self.client, name)

    def wait(self, name: str, request: UpdateRequest, outcome: UpdateOutcome, current: Step, version: int) -> bool:
        wait_for_set(self.client, name, request, outcome, current, version)
        return True


@dataclass(frozen=True, slots=True)
class ConfSource:
    """A ready configuration."""

    tunnel: Tunnel

    def settings(self, name: str, public_key: str) -> Tunnel:
        if self.tunnel.private_key is None or targets.public_half(self.tunnel.private_key) != public_key:
            raise UpdateError(
                "the configuration is not the board's: its key is another", "lopower flash without --update changes it"
            )
        return self.tunnel

    def wait(self, name: str, request: UpdateRequest, outcome: UpdateOutcome, current: Step, version: int) -> bool:
        return False


def update_over_serial(
    port: str, name: str | None, source: Source, request: UpdateRequest, reporter: Reporter
) -> UpdateOutcome:
    """Do it all. What goes wrong is told in the outcome.

    Args:
        name: of the device; None: what the board says.
    """
    began = time.monotonic()
    outcome = UpdateOutcome(name or port)
    try:
        _Update(port, name, source, request, reporter, outcome).run()
    except ProvisioningError as error:
        outcome.error, outcome.hint = str(error), error.hint
    except ControlError as error:
        outcome.error, outcome.hint = error.message, error.hint
    except KeyboardInterrupt:
        outcome.error = INTERRUPTED
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


class _Update:
    def __init__(
        self,
        port: str,
        name: str | None,
        source: Source,
        request: UpdateRequest,
        reporter: Reporter,
        outcome: UpdateOutcome,
    ) -> None:
        self._port = port
        self._label = outcome.name
        self._name = name
        self._source = source
        self._request = request
        self._reporter = reporter
        self._outcome = outcome

    def run(self) -> None:
        with RunningBoard(self._port) as board:
            try:
                version = self._switch(board)
            except BaseException:
                with suppress(FlashError):
                    board.reset()  # to what it runs; without a line it does so by itself
                raise
            board.reset()
        self._wait(version)

    def _switch(self, board: RunningBoard) -> int:
        """Everything up to the switch; the number of the new set."""
        outcome, request = self._outcome, self._request
        with step(self._reporter, self._label, "asking the board") as current:
            facts = self._ask(board)
            outcome.before, outcome.image = str(facts["package"])[:120], str(facts["image"])[:120]
            outcome.name = self._name or str(facts["name"])
            current.detail = f"{outcome.name}, {outcome.before or 'an unknown version'}"
        with step(self._reporter, self._label, "making the files") as current:
            tunnel = self._source.settings(outcome.name, str(facts["public_key"]))
            outcome.after, files = set_files(facts["arch"], tunnel, request)
            current.detail = f"{outcome.after}, {sum(map(len, files.values())) >> 10} KB"
        with step(self._reporter, self._label, "sending") as current:
            check_room(outcome.name, facts, files)
            _do(board, "begin")
            sent = _send(board, files, current)
            if request.user is None:
                _do(board, "keep")
            outcome.state = "lost"  # from here on an answer may get lost
            try:
                version = _do(board, "commit", outcome.after, facts["arch"], request.trial)
            except UpdateError:
                outcome.state = "failed"
                raise
            if not isinstance(version, int):
                raise _strange(self._port)
            current.detail = f"set {version}; {sent >> 10} KB were new"
        return version

    def _ask(self, board: RunningBoard) -> dict[str, Any]:
        try:
            board.interrupt()
        except FlashError as error:
            raise UpdateError(
                str(error), "an update needs a board that `lopower flash` has flashed and that starts; flash it anew"
            ) from None
        board.run(on_board.source("update"))
        try:
            _do(board, "start")
        except UpdateError as error:
            raise UpdateError(
                f"the board at {self._port} cannot be updated: {error}",
                "lopower flash without --update writes everything anew; all that is on the board is lost then",
            ) from None
        facts = _do(board, "facts")
        wanted = {"package": str, "image": str, "arch": str, "public_key": str, "trial": bool}
        if not isinstance(facts, dict) or any(not isinstance(facts.get(key), kind) for key, kind in wanted.items()):
            raise _strange(self._port)
        if self._name is None and not (isinstance(facts.get("name"), str) and _NAME.fullmatch(facts["name"])):
            raise UpdateError("the board does not say which device it is", "name it: --name NAME")
        if facts["trial"]:
            raise UpdateError(
                "the set of files that runs is on trial itself", "wait until its handshake, or until it has gone back"
            )
        if facts["arch"] not in ARCHITECTURES:
            raise UpdateError(
                f"the board runs a package for {facts['arch'][:40]!r}, which is not known here",
                "lopower flash without --update writes everything anew",
            )
        return facts

    def _wait(self, version: int) -> None:
        outcome = self._outcome
        with step(self._reporter, self._label, "waiting for the board") as current:
            if not self._source.wait(outcome.name, self._request, outcome, current, version):
                self._ask_until_known(version, current)
            if outcome.state == "went back":
                raise UpdateError(
                    f"{outcome.name} went back to what it ran before: {outcome.error}",
                    "put right what the update changed, and run the same command again",
                )

    def _ask_until_known(self, version: int, current: Step) -> None:
        """Over the serial port: what runs is interrupted, and the board started anew afterwards."""
        limit = self._request.trial + self._request.patience
        began, outcome, said = time.monotonic(), self._outcome, ""
        with RunningBoard(self._port) as board:
            starting = True
            while (waited := time.monotonic() - began) < limit:
                try:
                    if starting:
                        board.interrupt(_START_SECONDS)
                    starting = False
                    found = board_programs.trial(board)
                except FlashError:  # it has gone back, and starts
                    starting = True
                    continue
                said = found.said
                if found.confirmed == version:
                    outcome.state, current.detail = "updated", f"{outcome.name} runs {outcome.after}"
                    break
                if found.rejected == version:
                    outcome.state, outcome.error = "went back", found.reason
                    break
                current.progress(waited / limit)
                time.sleep(_ASK_SECONDS)
            with suppress(FlashError):
                board.reset()
        if outcome.state == "lost":
            raise UpdateError(
                f"{outcome.name} was switched to set {version}, and its tunnel does not come up; it says: {said}",
                "it goes back by itself",
            )


def _send(board: RunningBoard, files: Mapping[str, bytes], current: Step) -> int:
    """All files that the board does not have; how many bytes those were."""
    total = sum(map(len, files.values())) or 1
    done = sent = 0
    for path, content in files.items():
        digest = hashlib.sha256(content).hexdigest()
        if not _do(board, "has", path, digest):
            _do(board, "file", path)
            for at in range(0, len(content), _PIECE):
                _do(board, "add", base64.b64encode(content[at : at + _PIECE]).decode())
                current.progress((done + at) / total)
            _do(board, "end", path, digest)
            sent += len(content)
        done += len(content)
        current.progress(done / total)
    return sent


def _do(board: RunningBoard, what: str, *arguments: str | int) -> Any:
    """One method of the program on the board; what it says. Raises UpdateError for a refusal, FlashError."""
    words = ", ".join(map(repr, (what, *arguments)))
    printed = board.run(f"answer({words})", _SECONDS)
    line = next((line for line in printed.splitlines() if line.startswith(_MARK)), "")
    try:
        said = json.loads(line.removeprefix(_MARK))
        if "ok" in said:
            return said["ok"]
        text = "".join(letter for letter in str(said["error"])[:200] if letter.isprintable())
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _strange(board.port) from None
    raise UpdateError(text)


def _strange(port: str) -> UpdateError:
    return UpdateError(f"the board at {port} says something that is not understood", "check the cable, and try again")
