"""A list of boards to flash: CSV (RFC 4180), one line each.

Columns, in any order: `name`, `port` or `mac`, `wifi` (names, separated by semicolons), `board`, `image`, `main`. An
empty field is what the command's option says. Relative paths are meant from the list's directory.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lopower_provisioning.errors import SettingsError

MAX_BOARDS: Final = 256
_COLUMNS: Final = ("name", "port", "mac", "wifi", "board", "image", "main")


@dataclass(frozen=True, slots=True)
class Line:
    """One board; None where the list says nothing."""

    name: str | None
    port: str | None
    mac: str | None
    wifi: tuple[str, ...]
    board: str | None
    image: Path | None
    main: Path | None


def read(path: Path) -> list[Line]:
    """The lines of a list.

    Raises SettingsError, which names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8", "save the list as CSV UTF-8") from None
    rows = [(number, row) for number, row in _rows(path, text) if any(row)]
    if len(rows) < 2:
        raise SettingsError(f"{path} holds no boards", f"its first line names the columns: {', '.join(_COLUMNS)}")
    columns = [name.lower() for name in rows[0][1]]
    unknown = [name for name in columns if name not in _COLUMNS]
    if unknown or len(set(columns)) != len(columns):
        wrong = unknown[0] if unknown else "one that is named twice"
        raise SettingsError(f"{path}: unknown column {wrong!r}; there are: {', '.join(_COLUMNS)}")
    if len(rows) - 1 > MAX_BOARDS:
        raise SettingsError(f"{path} has more than {MAX_BOARDS} boards")
    lines = [_line(path, number, columns, row) for number, row in rows[1:]]
    for what in ("name", "port", "mac"):
        values = [value for line in lines if (value := getattr(line, what)) is not None]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise SettingsError(f"{path} has two boards with the {what} {twice!r}")
    return lines


def _rows(path: Path, text: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, [entry.strip() for entry in row]) for row in reader]
    except csv.Error as error:
        raise SettingsError(f"{path}, line {reader.line_num}: {error}") from None


def _line(path: Path, number: int, columns: list[str], row: list[str]) -> Line:
    if len(row) != len(columns):
        raise SettingsError(f"{path}, line {number}: {len(row)} fields, but {len(columns)} columns")
    fields = {name: value or None for name, value in zip(columns, row, strict=True)}
    if (fields.get("port") is None) == (fields.get("mac") is None):
        raise SettingsError(f"{path}, line {number}: a board needs either a port or a mac")
    mac = fields.get("mac")

    def place(name: str) -> Path | None:
        value = fields.get(name)
        return None if value is None else path.parent / value

    return Line(
        name=fields.get("name"),
        port=fields.get("port"),
        mac=None if mac is None else mac.lower().replace("-", ":"),
        wifi=tuple(entry.strip() for entry in (fields.get("wifi") or "").split(";") if entry.strip()),
        board=fields.get("board"),
        image=place("image"),
        main=place("main"),
    )
