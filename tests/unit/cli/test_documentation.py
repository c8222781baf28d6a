"""The documents name every setting, command, option and path that there is."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from lopower.cli.main import build_parser
from lopower.daemon.control import ControlServer
from lopower.daemon.operations import Operations
from lopower.daemon.settings import SETTINGS, Setting

DOCS = Path(__file__).parents[3] / "docs"


def settings_row(setting: Setting) -> str:
    default = f"`{setting.default}`" if setting.default else ""
    help = setting.help.replace("|", "\\|")
    value = f"`{setting.metavar}`".replace("|", "\\|") if setting.metavar else ""
    marks = " ".join(mark for mark, held in (("list", setting.many), ("reload", setting.reloadable)) if held)
    return f"| `{setting.name}` | {value} | {default} | {marks} | {help} |"


def parsers(parser: argparse.ArgumentParser, path: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from parsers(child, f"{path} {name}")


def test_settings() -> None:
    table = "\n".join(map(settings_row, SETTINGS))
    assert table in (DOCS / "settings.md").read_text(), f"docs/settings.md should have:\n{table}"


def test_commands_and_options() -> None:
    text = (DOCS / "cli.md").read_text()
    for path, parser in parsers(build_parser(), "lopower"):
        words = path.split()
        if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
            continue
        assert path in text or f"`{words[-1]} NAME`" in text, path
        if words[1] == "up":
            continue  # the settings
        for action in parser._actions:
            for option in action.option_strings:
                assert option in text or option in ("-h", "--help"), f"{path} {option}"


def test_paths_of_the_control_api() -> None:
    text = (DOCS / "control-api.md").read_text()
    server = ControlServer(cast(Operations, None), path=Path("unused"), mode=0o600, group=None)
    for method, path in server._routes().names:
        assert f"`{method} {path}`" in text
