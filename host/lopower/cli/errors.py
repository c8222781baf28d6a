"""How a command fails: one exception, and the exit codes that docs/cli.md lists."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOT_RUNNING: Final = 3
FORBIDDEN: Final = 4
NOT_FOUND: Final = 5
INTERRUPTED: Final = 130


class CommandError(Exception):
    """The command failed.

    Attributes:
        hint: what to do next.
        code: the exit code.
    """

    def __init__(self, message: str, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code
