"""Errors of the daemon's operations."""

from __future__ import annotations


class OperationError(Exception):
    """What was asked for cannot be done now; the text says why.

    Attributes:
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
