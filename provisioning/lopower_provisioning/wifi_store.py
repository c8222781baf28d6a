"""Wi-Fi networks that the user saved for the next boards, and where passwords come from that are not saved.

A password is never an argument: those can be read by every user of a machine. The file is for its owner alone (0600).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from lopower_provisioning.errors import SettingsError
from lopower_provisioning.settings_file import StaticAddress, Wifi

PASSWORD_VARIABLE: Final = "LOPOWER_WIFI_PASSWORD"
MAX_NETWORKS: Final = 20
_MAX_BYTES: Final = 65_536


def load(path: Path) -> list[Wifi]:
    """The saved networks, the preferred first; none without a file.

    Raises SettingsError if the file cannot be used.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    try:
        networks = json.loads(content[:_MAX_BYTES])["networks"]
        return [Wifi(str(entry["ssid"]), str(entry["password"])) for entry in networks[:MAX_NETWORKS]]
    except (ValueError, KeyError, TypeError):
        raise SettingsError(f"{path} is damaged", "remove it; the networks are asked for again") from None


def save(path: Path, networks: Sequence[Wifi]) -> None:
    """Keep these and what is saved already, these first.

    Raises SettingsError if that cannot be done.
    """
    names = {network.ssid for network in networks}
    kept = [*networks, *(network for network in load(path) if network.ssid not in names)][:MAX_NETWORKS]
    content = {"networks": [{"ssid": network.ssid, "password": network.password} for network in kept]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".wifi-")  # which makes it 0600
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file)
            os.replace(scratch, path)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from None


def given_passwords(file: str | None, environ: Mapping[str, str]) -> list[str] | None:
    """The passwords of the networks that were named, in their order: lines of the file, or of the variable.

    Args:
        file: "-": standard input; None: the variable.

    Raises SettingsError if the file cannot be read.
    """
    if file is None:
        text = environ.get(PASSWORD_VARIABLE)
        return None if text is None else text.splitlines() or [""]
    try:
        if file == "-":
            import sys

            return sys.stdin.read(_MAX_BYTES).splitlines() or [""]
        return Path(file).read_text(encoding="utf-8")[:_MAX_BYTES].splitlines() or [""]
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{file} is not UTF-8") from None


def named(
    names: Sequence[str], passwords: Sequence[str] | None, saved: Sequence[Wifi], static: StaticAddress | None
) -> tuple[list[Wifi], list[str]]:
    """The networks for `names`, as far as their passwords are known, and the names for which they are not.

    Without names: all that are saved.

    Raises SettingsError if there are more or fewer passwords than names.
    """
    if not names:
        if passwords is not None:
            raise SettingsError("there is a Wi-Fi password, and no network that it is for", "name it: --wifi SSID")
        return [Wifi(network.ssid, network.password, static) for network in saved], []
    if passwords is not None:
        if len(passwords) != len(names):
            raise SettingsError(
                f"there are {len(passwords)} Wi-Fi passwords for {len(names)} networks",
                "one line each, in the order of --wifi; an empty line for a network without a password",
            )
        return [Wifi(name, text, static) for name, text in zip(names, passwords, strict=True)], []
    known = {network.ssid: network.password for network in saved}
    found = [Wifi(name, known[name], static) for name in names if name in known]
    return found, [name for name in names if name not in known]
