"""What commands print: tables, ages, sizes, JSON, and the same again and again."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

_HOME_AND_CLEAR: Final = "\x1b[H\x1b[J"


def say(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """One line for people, on standard error: pipes carry results alone."""
    sys.stderr.write(text + "\n")


def show_json(document: object) -> None:
    """A document, indented."""
    say(json.dumps(document, indent=2, ensure_ascii=False))


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be; no line for nothing."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """Names and values, aligned."""
    known = list(items)
    width = max((len(name) for name, _ in known), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}".rstrip() for name, value in known)


def span(seconds: float | None) -> str:
    """A length of time, short."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def ago(seconds: float | None) -> str:
    """When something was."""
    return "never" if seconds is None else f"{span(seconds)} ago"


def utc(seconds: int) -> str | None:
    """Seconds since 1970 as ISO 8601; None for 0, which clocks that are not set say, and for what no clock says."""
    from datetime import UTC, datetime

    if not 0 < seconds < 1 << 33:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def size(count: int) -> str:
    """Bytes, short."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def show(documents: Iterable[Any], as_json: bool, watching: bool, text: Callable[[Any], str]) -> None:
    """One document, or a stream of them: as text or JSON, on a terminal each in the place of the last."""
    for document in documents:
        if as_json and watching:
            say(json.dumps(document, ensure_ascii=False))
        elif as_json:
            show_json(document)
        else:
            in_place = watching and sys.stdout.isatty()
            say((_HOME_AND_CLEAR if in_place else "") + text(document) + ("\n" if watching and not in_place else ""))
        sys.stdout.flush()
