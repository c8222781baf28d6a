"""Where the commands keep what is for the next board, in the user's own directories."""

from __future__ import annotations

from pathlib import Path


def wifi_path() -> Path:
    """Where Wi-Fi networks are saved."""
    import platformdirs

    return platformdirs.user_config_path("lopower") / "wifi.json"


def cache_path() -> Path:
    """Where images are kept."""
    import platformdirs

    return platformdirs.user_cache_path("lopower")
