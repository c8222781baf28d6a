"""Programs that are sent to boards: MicroPython."""

from __future__ import annotations

from pathlib import Path


def source(name: str) -> str:
    """The text of one."""
    return Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
