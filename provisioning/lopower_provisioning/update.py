"""An update of one board through the tunnel: a whole set of files beside the one that runs, one switch, a restart.

The board checks every hash before it switches, and goes back by itself when the new set makes no handshake in time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower.control.visit import Visit
from lopower_provisioning import chips, filesystem, settings_file
from lopower_provisioning.errors import ProvisioningError, UpdateError
from lopower_provisioning.settings_file import Tunnel, Wifi
from lopower_provisioning.steps import Reporter, Step, step

TRIAL_SECONDS: Final = 120
TRIALS: Final = range(5, 3601)
_ASK_SECONDS: Final = 0.5
ARCHITECTURES: Final = {chip.architecture for chip in chips.CHIPS} | {"x64", "none"}
"""That a package may be compiled for."""

_RESERVE: Final = 16_384
"""Bytes of flash that stay free for the board's own: time stamps, state, log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRequest:
    """What boards are to get.

    Attributes:
        wifi: networks instead of those that the board has; empty: it keeps them.
        user: the user's files by path, instead of those that the board has; None: it keeps them.
        trial: seconds within which the new set must make a handshake.
        patience: seconds beyond the trial for a board that goes back: two starts, Wi-Fi and a handshake.
    """

    wifi: tuple[Wifi, ...] = ()
    user: Mapping[str, bytes] | None = None
    trial: int = TRIAL_SECONDS
    patience: float = 60.0


@dataclass(slots=True)
class UpdateOutcome:
    """What became of a board.

    Attributes:
        state: "updated", "went back" (the board runs what it ran before), "failed" (nothing was switched), "lost" (it
            was switched, and not heard of since), or "skipped" (not begun).
        before, after: versions of the package.
    """

    name: str
    state: str = "failed"
    before: str = ""
    after: str = ""
    image: str = ""
    error: str = ""
    hint: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the board runs what it was to run."""
        return self.state == "updated"


def update(client: ControlClient, name: str, request: UpdateRequest, reporter: Reporter) -> UpdateOutcome:
    """Do it all. What goes wrong is told in the outcome."""
    began = time.monotonic()
    outcome = UpdateOutcome(name)
    try:
        version = _send(client, name, request, reporter, outcome)
        outcome.state = "lost"
        with step(reporter, name, "waiting for the board") as current:
            wait_for_set(client, name, request, outcome, current, version)
            if outcome.state == "went back":
                raise UpdateError(
                    f"{name} went back to what it ran before: {outcome.error}",
                    f"lopower device logs {name} may say more; put right what the update changed",
                )
    except ProvisioningError as error:
        outcome.error, outcome.hint = str(error), error.hint
    except ControlError as error:
        outcome.error, outcome.hint = error.message, error.hint
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


def _send(client: ControlClient, name: str, request: UpdateRequest, reporter: Reporter, outcome: UpdateOutcome) -> int:
    with step(reporter, name, "asking the board") as current:
        with Visit(client, name) as visit:
            facts = visit.facts()
        outcome.before, outcome.image = str(facts.get("package", ""))[:120], str(facts.get("image", ""))[:120]
        current.detail = outcome.before or "an unknown version"
        architecture = str(facts.get("arch", ""))
        if architecture not in ARCHITECTURES:
            raise UpdateError(f"{name} runs a package for {architecture!r}, which is not known here", "use the cable")
    with step(reporter, name, "making the files") as current:
        package, files = set_files(architecture, configuration(client, name), request)
        outcome.after = package
        current.detail = f"{package}, {sum(map(len, files.values())) >> 10} KB"
    with step(reporter, name, "sending") as current, Visit(client, name) as visit:
        room = visit.ask("begin")
        check_room(name, room, files)
        visit.send_files(files, current.progress)
        if request.user is None:
            visit.ask("keep")
        answer = visit.ask("commit", package=package, arch=architecture, limit=request.trial)
        version = answer.get("set")
        if not isinstance(version, int):
            raise UpdateError(f"{name} does not say which set of files is new", "use the cable")
        current.detail = f"set {version}"
    return version


def configuration(client: ControlClient, name: str) -> Tunnel:
    """What a device is to know of the proxy, as it is now, without its key. Raises SettingsError, ControlError."""
    document = client.request("POST", ["devices", name, "configuration"], {"format": "json", "given": False})
    return settings_file.tunnel_from_json(document["text"])


def set_files(architecture: str, tunnel: Tunnel, request: UpdateRequest) -> tuple[str, dict[str, bytes]]:
    """(version of the package, the files of a set by path). Raises FilesystemError, SettingsError."""
    package, files = filesystem.package_files(architecture)
    files["lopower.json"] = json.dumps(settings_file.changes(tunnel, request.wifi)).encode()
    for path, content in filesystem.program(request.user or {}).items():
        files[f"files/{path}"] = content
    return package, files


def check_room(name: str, room: dict[str, Any], files: Mapping[str, bytes]) -> None:
    """Raises UpdateError if there is no room for the files on the board, whose `free` and `block` are bytes."""
    free, block = room.get("free"), room.get("block")
    if not isinstance(free, int) or not isinstance(block, int) or not 0 < block <= 1 << 20:
        return
    needed = sum(-(-max(len(content), 1) // block) * block for content in files.values()) + _RESERVE
    if needed > free:
        raise UpdateError(
            f"the flash of {name} is too full: an update needs {needed >> 10} KB, {free >> 10} KB are free",
            "the board runs what it ran before; send less with --main, or remove files from it",
        )


def wait_for_set(
    client: ControlClient, name: str, request: UpdateRequest, outcome: UpdateOutcome, current: Step, version: int
) -> None:
    """Until the board runs the new set, or the old one again, as `outcome` tells. Raises UpdateError if it is lost."""
    limit = request.trial + request.patience
    began = time.monotonic()
    while True:
        with suppress(ControlError), Visit(client, name) as visit:
            if _arrived(name, visit.facts(), version, outcome, current):
                break
        waited = time.monotonic() - began
        if waited > limit:
            raise UpdateError(
                f"{name} was switched to set {version}, and has not been heard of for {waited:.0f} s",
                "it goes back by itself; `lopower device show` says when it is there again",
            )
        current.progress(waited / limit)
        time.sleep(_ASK_SECONDS)
    if outcome.state == "updated":
        with suppress(ControlError):  # from now on it counts as given
            client.request("POST", ["devices", name, "configuration"], {"format": "json"})


def _arrived(name: str, facts: dict[str, Any], version: int, outcome: UpdateOutcome, current: Step) -> bool:
    if facts.get("set") == version:
        outcome.state, outcome.image = "updated", str(facts.get("image", ""))[:120]
        current.detail = f"{name} runs {outcome.after}"
        return True
    gave_up = facts.get("gave_up")
    if isinstance(gave_up, dict) and gave_up.get("set") == version:
        outcome.state = "went back"
        outcome.error = "".join(letter for letter in str(gave_up.get("reason", ""))[:120] if letter.isprintable())
        return True
    return False


def user_files(main: Path | None, packages: Mapping[str, bytes]) -> dict[str, bytes] | None:
    """What the user's program is to be, by path; None: as it is. Raises FilesystemError."""
    if main is None and not packages:
        return None
    return {**packages, **({} if main is None else filesystem.user_files(main))}
