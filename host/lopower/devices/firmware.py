"""What a device with our firmware says of itself: which package, which image, and whether an update was given up."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

MAX_BYTES: Final = 1200
"""Of an announcement; the device's own fit into 700."""
_MAX_TEXT: Final = 120
_MAX_SET: Final = 1 << 31


class AnnouncementError(ValueError):
    """It is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Firmware:
    """What it said last.

    Attributes:
        package: version of lopower's package on the board; may be empty.
        image: MicroPython's version and board.
        arch: what the package is compiled for.
        set: number of the set of files that runs; 0: none.
        reset: what the board was started by, in a word.
        repl: whether it lets its gateway use its console.
        gave_up: number of a newer set that was given up; None: none was.
        reason: why.
    """

    package: str = ""
    image: str = ""
    arch: str = ""
    set: int = 0
    reset: str = ""
    repl: bool = False
    gave_up: int | None = None
    reason: str = ""

    def to_json(self) -> str:
        """As `parse` reads it."""
        content: dict[str, Any] = asdict(self)
        gave_up, reason = content.pop("gave_up"), content.pop("reason")
        if gave_up is not None:
            content["gave_up"] = {"set": gave_up, "reason": reason}
        return json.dumps(content)


def parse(text: str | bytes) -> Firmware:
    """Read what a device says; members that are not known are passed over.

    Raises:
        AnnouncementError: it is not such a thing.
    """
    try:
        content = json.loads(text) if len(text) <= MAX_BYTES else None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise AnnouncementError("not a board's announcement")
    gave_up = content.get("gave_up")
    if not isinstance(gave_up, dict):
        gave_up = {}
    number = _number(gave_up.get("set"))
    return Firmware(
        package=_text(content.get("package")),
        image=_text(content.get("image")),
        arch=_text(content.get("arch")),
        set=_number(content.get("set")),
        reset=_text(content.get("reset")),
        repl=content.get("repl") is True,
        gave_up=number or None,
        reason=_text(gave_up.get("reason")) if number else "",
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(letter for letter in value[:_MAX_TEXT] if letter.isprintable())


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_SET else 0
