"""Names are DNS labels (RFC 1123)."""

from __future__ import annotations

import pytest

from lopower.devices.errors import InvalidName
from lopower.devices.names import parse_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("kitchen", "kitchen"), ("Kitchen", "kitchen"), ("a", "a"), ("3d-printer", "3d-printer"), ("x" * 63, "x" * 63)],
)
def test_labels_are_names_in_lower_case(text: str, name: str) -> None:
    assert parse_name(text) == name


@pytest.mark.parametrize(
    "text",
    ["", "-a", "a-", "a.b", "a b", "x" * 64, "k\u00fcche", "\u212aitchen", "42", "a_b", "a\n", "..", "*", "\x00"],
)
def test_others_are_refused_with_the_rule(text: str) -> None:
    with pytest.raises(InvalidName, match="1 to 63 letters, digits and hyphens"):
        parse_name(text)


@pytest.mark.parametrize("text", ["gateway", "Gateway", "localhost", "local", "invalid", "onion"])
def test_names_with_a_meaning_are_reserved(text: str) -> None:
    with pytest.raises(InvalidName, match="reserved"):
        parse_name(text)
