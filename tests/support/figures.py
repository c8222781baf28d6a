"""Figures that tests of the bench record, and nobody asserts."""

from __future__ import annotations

from collections.abc import Callable

Figure = Callable[[str, float, str], None]
"""Name, value, unit."""
