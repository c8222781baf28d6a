"""`lopower up`: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

_COMMON = ("state_dir", "socket")


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command; its options are the settings."""
    from lopower.daemon.settings import SETTINGS

    parser.description = "Run the daemon in the foreground until Ctrl-C. `lopower service install` keeps it running."
    parser.epilog = (
        "Every option is also a variable (LOPOWER_STATE_DIR) and a key of the settings file (state_dir); "
        "see `lopower config init`. Options marked ... may be repeated."
    )
    group = parser.add_argument_group("settings")
    for setting in SETTINGS:
        if setting.name in _COMMON:
            continue
        names = ["-v", setting.flag] if setting.name == "verbose" else [setting.flag]
        text = setting.help + (f" Default: {setting.default}." if setting.default and setting.kind != "switch" else "")
        text = text.replace("%", "%%")
        if setting.kind == "switch":
            group.add_argument(*names, dest=setting.name, action="store_true", default=None, help=text)
        elif setting.many:
            metavar = f"{setting.metavar} ..."
            group.add_argument(*names, dest=setting.name, action="append", metavar=metavar, help=text)
        else:
            group.add_argument(*names, dest=setting.name, metavar=setting.metavar, help=text)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the daemon; returns when it has ended."""
    from lopower.daemon.settings import SETTINGS, Settings
    from lopower.daemon.settings_sources import resolve

    flags = {setting.name: getattr(arguments, setting.name, None) for setting in SETTINGS}
    config = getattr(arguments, "config", None)

    def load_settings() -> Settings:
        return resolve(flags=flags, environ=os.environ, config=None if config is None else Path(config))

    settings = load_settings()

    from lopower.daemon import main

    return main.run(settings, load_settings)
