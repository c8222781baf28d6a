"""Which control sockets are tried: options, variables, settings files, and both usual places."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from lopower.cli.options import sockets
from lopower.daemon.settings import SettingsError

SYSTEM = Path("/run/lopower/lopower.sock")


def tried(
    tmp_path: Path, *, is_root: bool = False, environ: dict[str, str] | None = None, **options: str
) -> list[Path]:
    return sockets(Namespace(**options), {"HOME": str(tmp_path), **(environ or {})}, is_root)


def test_both_usual_places_ones_own_first(tmp_path: Path) -> None:
    own = tmp_path / ".local/state/lopower/lopower.sock"
    assert tried(tmp_path) == [own, SYSTEM]
    assert tried(tmp_path, is_root=True) == [SYSTEM, own]


def test_options_beat_variables_and_are_exclusive(tmp_path: Path) -> None:
    environ = {"LOPOWER_STATE_DIR": "/other", "LOPOWER_SOCKET": "/other.sock"}
    assert tried(tmp_path, environ=environ, socket="/one.sock") == [Path("/one.sock")]
    assert tried(tmp_path, environ=environ) == [Path("/other.sock")]
    assert tried(tmp_path, environ={"LOPOWER_STATE_DIR": "/other"}) == [Path("/other/lopower.sock")]
    assert tried(tmp_path, state_dir="/var/lib/lopower") == [SYSTEM]


def test_settings_files_are_followed(tmp_path: Path) -> None:
    file = tmp_path / ".config/lopower/lopower.toml"
    file.parent.mkdir(parents=True)
    file.write_text('state_dir = "/elsewhere"\n')
    assert tried(tmp_path)[0] == Path("/elsewhere/lopower.sock")
    file.write_text('socket = "/elsewhere.sock"\n')
    assert tried(tmp_path)[0] == Path("/elsewhere.sock")
    assert tried(tmp_path, config=str(file)) == [Path("/elsewhere.sock")]
    with pytest.raises(SettingsError, match="there is no such file"):
        tried(tmp_path, config=str(tmp_path / "none.toml"))
