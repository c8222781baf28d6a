"""What the demonstration shows: commands, steps and QR codes; in colour and wrapped on a terminal, plain in a pipe."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import Final

INDENT: Final = 44  # where a step's result begins
_GREEN, _RED, _BOLD, _RESET = "\x1b[32m", "\x1b[1;31m", "\x1b[1m", "\x1b[0m"
_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")


def on_terminal() -> bool:
    """Whether somebody watches."""
    return sys.stdout.isatty()


def say(text: str = "") -> None:
    """Lines, now."""
    print(text, flush=True)


def command(text: str) -> None:
    """A command that is run, as the user would type it."""
    say(_painted(f"$ {text}", _BOLD))


def title(text: str) -> None:
    """What the next steps are about."""
    say("\n" + _painted(text, _BOLD))


def step(name: str, seconds: float, result: str, *, failed: bool = False) -> None:
    """How a step ended."""
    head = f"  {'FAIL' if failed else 'ok':<4} {name:<26}{_length(seconds):>8}   "
    lines = [result]
    if on_terminal():
        lines = textwrap.wrap(result, max(_columns() - INDENT, 30), break_on_hyphens=False, break_long_words=False)
    say(f"\n{' ' * INDENT}".join([_mark(head, failed) + lines[0], *lines[1:]]))


def show_qr(code: str) -> None:
    """A QR code as the daemon drew it, if it fits; it is for a camera, so a pipe has none."""
    if not on_terminal():
        return
    lines = code.splitlines()
    width = len(_ESCAPE.sub("", lines[0]))
    if width > _columns():
        say(f"\n(a terminal of {width} columns has a QR code here)")
    else:
        say("\n".join(["", *lines]))


def _length(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _mark(head: str, failed: bool) -> str:
    return head[:2] + _painted(head[2:6], _RED if failed else _GREEN) + head[6:]


def _painted(text: str, colour: str) -> str:
    plain = not on_terminal() or "NO_COLOR" in os.environ
    return text if plain else f"{colour}{text}{_RESET}"


def _columns() -> int:
    return shutil.get_terminal_size().columns
