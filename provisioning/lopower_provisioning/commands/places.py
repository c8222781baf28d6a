"""What the commands read and keep: files that are named, and the user's own directories, for the next board."""

from __future__ import annotations

import sys
from pathlib import Path

from lopower_provisioning.errors import SettingsError


def wifi_path() -> Path:
    """Where Wi-Fi networks are saved."""
    import platformdirs

    return platformdirs.user_config_path("lopower") / "wifi.json"


def cache_path() -> Path:
    """Where images are kept."""
    import platformdirs

    return platformdirs.user_cache_path("lopower")


def text_of(name: str) -> str:
    """What a file holds; "-" is standard input. Raises SettingsError."""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{name} is not UTF-8") from None
