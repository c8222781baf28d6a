"""Packages for the board's /lib, from micropython-lib's index or a repository, as `mip` on a board installs them.

The index (docs.micropython.org, "Package management"): package/6/NAME/VERSION.json names files by the first digits of
their SHA-256, which are checked, and other packages that this one needs. `6` is the version of .mpy files.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from lopower_provisioning.downloads import fetch, site
from lopower_provisioning.errors import DownloadError

MAX_FILE: Final = 1 << 20
MAX_FILES: Final = 200
MAX_PACKAGES: Final = 50
"""A board's file system holds less; an index that leads on and on ends here."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HASH: Final = re.compile(r"[0-9a-f]{8,64}")
_REPOSITORIES: Final = {
    "github:": "https://raw.githubusercontent.com/{}/{}/{}/{}",
    "gitlab:": "https://gitlab.com/{}/{}/-/raw/{}/{}",
}


def packages(names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of packages and of what they need; path below / -> content.

    Args:
        names: NAME[@VERSION] of the index, github:OWNER/REPOSITORY[/PATH][@BRANCH] (gitlab: likewise), or an URL of a
            package.json, .py or .mpy.

    Raises DownloadError.
    """
    files: dict[str, bytes] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [_split(name) for name in names]
    while waiting:
        name, version = waiting.pop(0)
        if (name, version) in seen:
            continue
        seen.add((name, version))
        if len(seen) > MAX_PACKAGES:
            raise DownloadError(f"{names[0]} needs more than {MAX_PACKAGES} packages")
        waiting += _install(name, version, files)
    return {f"lib/{path}": content for path, content in files.items()}


def _split(text: str) -> tuple[str, str]:
    if text.startswith(("http://", "https://")):
        return text, ""
    name, _, version = text.partition("@")
    return name, version


def _install(name: str, version: str, files: dict[str, bytes]) -> list[tuple[str, str]]:
    """Put a package's files into `files`; the packages that it needs."""
    index = site() + "pi/v2"
    if name.startswith(("http://", "https://", *_REPOSITORIES)):
        url = _located(name, version)
        if url.endswith((".py", ".mpy")):
            _keep(files, url.rpartition("/")[2], fetch(url, MAX_FILE))
            return []
        if not url.endswith(".json"):
            url = url.rstrip("/") + "/package.json"
    elif _NAME.fullmatch(name) and _NAME.fullmatch(version or "latest"):
        url = f"{index}/package/6/{name}/{version or 'latest'}.json"
    else:
        raise DownloadError(f"{name!r} is no name of a package")
    package = _parsed(url)
    for path, digest in _pairs(package, "hashes", url):
        if not _HASH.fullmatch(digest):
            raise DownloadError(f"{url} has a hash that is none")
        content = fetch(f"{index}/file/{digest[:2]}/{digest}", MAX_FILE)
        if not hashlib.sha256(content).hexdigest().startswith(digest):
            raise DownloadError(
                f"{path} of {name} is not what its hash says: it is damaged, or was changed", "try again"
            )
        _keep(files, path, content)
    for path, source in _pairs(package, "urls", url):
        where = source if ":" in source else f"{url.rpartition('/')[0]}/{source}"
        _keep(files, path, fetch(_located(where, version), MAX_FILE))
    return [(dependency, wanted) for dependency, wanted in _pairs(package, "deps", url)]


def _located(name: str, version: str) -> str:
    """An URL for `github:OWNER/REPOSITORY/PATH`; others as they are."""
    for prefix, pattern in _REPOSITORIES.items():
        if name.startswith(prefix):
            owner, _, rest = name.removeprefix(prefix).partition("/")
            repository, _, path = rest.partition("/")
            if not (_NAME.fullmatch(owner) and _NAME.fullmatch(repository)):
                raise DownloadError(f"{name!r} is no place of a package", f"it is {prefix}OWNER/REPOSITORY[/PATH]")
            return pattern.format(owner, repository, version or "HEAD", path)
    return name


def _parsed(url: str) -> dict[str, Any]:
    try:
        package = json.loads(fetch(url, MAX_FILE))
    except (ValueError, RecursionError):
        package = None
    if not isinstance(package, dict):
        raise DownloadError(f"{url} does not describe a package")
    return package


def _pairs(package: dict[str, Any], name: str, url: str) -> list[tuple[str, str]]:
    entries = package.get(name) or []
    if not isinstance(entries, list) or any(
        not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(text, str) for text in entry)
        for entry in entries
    ):
        raise DownloadError(f"{url} does not describe a package: its {name} are not understood")
    return [(entry[0], entry[1]) for entry in entries]


def _keep(files: dict[str, bytes], path: str, content: bytes) -> None:
    if len(files) >= MAX_FILES:
        raise DownloadError(f"more than {MAX_FILES} files: that is more than a board can take")
    files[path.lstrip("/")] = content
