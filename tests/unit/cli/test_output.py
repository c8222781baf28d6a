"""Tables, sizes and ages."""

from __future__ import annotations

import pytest

from lopower.cli.output import ago, pairs, size, table


def test_columns_are_as_wide_as_they_need_to_be() -> None:
    assert table(("NAME", "X"), [("a", "1"), ("longer", "22")]) == "NAME    X\na       1\nlonger  22"
    assert pairs([("a", "1"), ("bcd", "")]) == "a    1\nbcd"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (150_000, "150 kB"), (2_500_000_000, "2.5 GB"), (10**13, "10.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0.2, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (200_000, "2 d ago")],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert ago(seconds) == text
