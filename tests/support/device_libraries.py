"""Libraries for MicroPython that PyPI has as source archives: umqtt.simple and umqtt.robust.

`pip download` builds what it fetches, which fails for an archive with neither setup.py nor pyproject.toml, as that of
umqtt.simple. So pip finds and fetches them here, by the index and the certificates that it is configured with, and
no more:

    python -m tests.support.device_libraries        # once, by `make test-programs`
"""

from __future__ import annotations

import hashlib
import importlib
import io
import sys
import tarfile
from pathlib import Path
from typing import Any, Final

from tests.support.requirements import missing

DIRECTORY: Final = Path(sys.prefix) / "share" / "micropython"
LIBRARIES: Final = (  # name, version, SHA-256 of the archive, the file in it
    (
        "micropython-umqtt.simple",
        "1.3.4",
        "b6a2520239e3992c63a7de9370ee9b3d9d27819a90359c521f1c0f7ccab8d12f",
        "umqtt/simple.py",
    ),
    (
        "micropython-umqtt.robust",
        "1.0",
        "22a1b8c8e1128281efb13b3020927d07e33c5b747869da2cd77d37983a9ea002",
        "umqtt/robust.py",
    ),
)


def require_umqtt() -> Path:
    """The directory that holds the package `umqtt`. Skips the test without it."""
    if not all((DIRECTORY / module).exists() for *_, module in LIBRARIES):
        missing("umqtt, which `make test-programs` fetches, is not there")
    return DIRECTORY


def fetch() -> None:
    """Fetch what is not there yet. Raises OSError or ValueError if an archive is not to be had, or another one."""
    for name, version, digest, module in LIBRARIES:
        target = DIRECTORY / module
        if target.exists():
            continue
        archive = _download(name, version)
        if hashlib.sha256(archive).hexdigest() != digest:
            raise ValueError(f"the archive of {name} {version} has another hash than it had")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            file = tar.extractfile(f"{name}-{version}/{module}")
            assert file is not None
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read())


def _download(name: str, version: str) -> bytes:
    download: Any = importlib.import_module("pip._internal.commands.download")
    specifiers: Any = importlib.import_module("pip._vendor.packaging.specifiers")
    command = download.DownloadCommand("download", "")
    with command.main_context():
        options, _ = command.parse_args(["--no-binary", ":all:"])
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        best = finder.find_best_candidate(name, specifiers.SpecifierSet(f"=={version}")).best_candidate
        if best is None:
            raise OSError(f"the package index has no source archive of {name} {version}")
        response = session.get(best.link.url_without_fragment)
        response.raise_for_status()
        content: bytes = response.content
        return content


if __name__ == "__main__":
    fetch()
