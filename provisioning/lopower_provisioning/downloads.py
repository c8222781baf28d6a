"""Fetching a file over HTTP: bounded in size and time, whole or not at all."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final

from lopower_provisioning.errors import DownloadError

DEFAULT_SITE: Final = "https://micropython.org/"
SITE_VARIABLE: Final = "LOPOWER_MICROPYTHON_URL"
TIMEOUT_SECONDS: Final = 30.0
_CHUNK: Final = 65_536


def site() -> str:
    """Where images and packages come from: micropython.org, or a mirror that the variable names."""
    return os.environ.get(SITE_VARIABLE, DEFAULT_SITE).rstrip("/") + "/"


def fetch(url: str, limit: int, progress: Callable[[float], None] = lambda done: None) -> bytes:
    """What is at `url`.

    Args:
        limit: bytes; a longer answer is refused.
        progress: called with how much of it is there, 0 to 1, where the server says how long it is.

    Raises DownloadError.
    """
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url[:200]!r} is not an address to download from")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            length = int(answer.headers.get("Content-Length") or 0)
            content = bytearray()
            while chunk := answer.read(_CHUNK):
                content += chunk
                if max(len(content), length) > limit:
                    raise DownloadError(f"{url} is larger than {limit} bytes: it is not what was asked for")
                if length:
                    progress(len(content) / length)
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url} is not there: the server says {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(f"{url} cannot be downloaded: {reason}", "is there a network?") from None
    if length and len(content) != length:
        raise DownloadError(f"{url} is cut short: {len(content)} of {length} bytes came", "try again")
    return bytes(content)
