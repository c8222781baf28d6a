"""What goes into the board's file system, and what is kept out."""

from pathlib import Path

import pytest

from lopower_provisioning import filesystem
from lopower_provisioning.errors import FilesystemError
from tests.support.requirements import require_module

SIZE = 0x90000


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x",
        "../x",
        "a/../../b",
        "",
        ".",
        "a\0b",
        "boot.py",
        "lopower.json",
        "lopower_a/manifest.json",
        "lopower/x.py",
    ],
)
def test_paths_that_are_refused(name: str) -> None:
    with pytest.raises(FilesystemError):
        filesystem.build(SIZE, architecture="none", settings=b"{}", user={name: b""})


def test_names_that_only_look_like_ours() -> None:
    require_module("littlefs")
    assert filesystem.build(SIZE, architecture="none", settings=b"{}", user={"lopower_demo.py": b"", "booth/x": b""})


def test_too_much_for_the_flash() -> None:
    require_module("littlefs")
    with pytest.raises(FilesystemError, match="do not fit") as caught:
        filesystem.littlefs({"big": bytes(SIZE)}, SIZE)
    assert caught.value.hint


def test_a_file_where_a_directory_is() -> None:
    require_module("littlefs")
    with pytest.raises(FilesystemError, match="cannot be made"):
        filesystem.littlefs({"a": b"", "a/b": b""}, SIZE)


def test_erased_blocks_at_the_end_are_left_out() -> None:
    require_module("littlefs")
    image = filesystem.littlefs({"main.py": b"x" * 10_000}, 2 << 20)
    assert len(image) % 4096 == 0
    assert 3 * 4096 <= len(image) < 2 << 20
    assert image[-4096:] != b"\xff" * 4096


def test_the_users_directory(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("main.py", "lib/a.py", "__pycache__/a.pyc", ".git/config", ".env"):
        (tmp_path / name).write_text(name)
    assert filesystem.user_files(tmp_path) == {"main.py": b"main.py", "lib/a.py": b"lib/a.py"}
    with pytest.raises(FilesystemError, match="cannot be read"):
        filesystem.user_files(tmp_path / "missing")


def test_a_directory_that_is_far_too_large(tmp_path: Path) -> None:
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(filesystem.MAX_USER_BYTES + 1)
    with pytest.raises(FilesystemError, match="more than a board"):
        filesystem.user_files(tmp_path)
