"""Where settings come from: flags, environment, file, default; and what no single setting shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lopower.daemon.paths import MAX_SOCKET_PATH_BYTES, candidates, socket_of
from lopower.daemon.settings import SETTINGS, Setting, Settings, SettingsError, parse_item
from lopower.daemon.settings_file import read


def resolve(
    *,
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    config: Path | None = None,
    is_root: bool | None = None,
) -> Settings:
    """Settings from flags, environment, file and defaults.

    Args:
        flags: by setting's name: text, a list of texts, or True for a switch; None or absent: not given.
        environ: the environment.
        config: a file that must exist; None: `LOPOWER_CONFIG`, else the default place, where it may be missing.
        is_root: None: ask the process.

    Raises:
        SettingsError: the first setting that cannot be used.
    """
    home = candidates(environ, os.geteuid() == 0 if is_root is None else is_root)[0]
    if config is None and environ.get("LOPOWER_CONFIG"):
        config = Path(environ["LOPOWER_CONFIG"])
    file = config if config is not None else home.config
    found = read(file, must_exist=config is not None)
    chosen: dict[str, Any] = dict(found or {})
    for setting in SETTINGS:
        given = flags.get(setting.name)
        if given is not None:
            chosen[setting.name] = _from_flag(setting, given)
        elif environ.get(setting.variable):
            chosen[setting.name] = _from_text(setting, environ[setting.variable], setting.variable)
        elif setting.name not in chosen:
            chosen[setting.name] = _default(setting)
    chosen["state_dir"] = chosen["state_dir"] or home.state_dir
    chosen["socket"] = chosen["socket"] or socket_of(chosen["state_dir"])
    settings = Settings(config=file if found is not None else None, **chosen)
    _check(settings)
    return settings


def _from_flag(setting: Setting, given: object) -> Any:
    if isinstance(given, bool):
        return given
    if setting.many:
        items: Iterable[object] = given if isinstance(given, (list, tuple)) else [given]
        return tuple(_absolute(setting, parse_item(setting, str(item), setting.flag)) for item in items)
    return _absolute(setting, parse_item(setting, str(given), setting.flag))


def _from_text(setting: Setting, text: str, where: str) -> Any:
    if setting.many:
        return tuple(_absolute(setting, parse_item(setting, item, where)) for item in text.split())
    return _absolute(setting, parse_item(setting, text.strip(), where))


def _default(setting: Setting) -> Any:
    if not setting.default:
        return () if setting.many else None
    return _from_text(setting, setting.default, "default")


def _absolute(setting: Setting, value: Any) -> Any:
    return Path.cwd() / value if setting.kind == "path" else value


def _check(settings: Settings) -> None:
    """What no single setting shows."""
    if settings.control_mode == 0o600 and settings.control_group is not None:
        raise SettingsError(
            f"control_group is {settings.control_group!r}, but control_mode 0600 shuts the group out: "
            "leave one of them away, or set control_mode to 0660"
        )
    length = len(os.fsencode(settings.socket))
    if length > MAX_SOCKET_PATH_BYTES:
        raise SettingsError(
            f"the path of the control socket has {length} bytes, and the kernel takes {MAX_SOCKET_PATH_BYTES}: "
            f"choose a shorter one with --socket ({settings.socket})"
        )
    suffixes = [route.partition("=")[0] for route in settings.dns_route]
    for suffix in suffixes:
        if suffixes.count(suffix) > 1:
            raise SettingsError(
                f"dns_route: there are two routes for {suffix!r}; one may name several resolvers, with commas between"
            )
