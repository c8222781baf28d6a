"""How the bench fails."""

from __future__ import annotations


class BenchError(Exception):
    """Something of the bench did not do what a test asked of it. The text says what, and what to do."""


class LackingError(BenchError):
    """The bench has not got it: a test that needs it is skipped with this text."""
