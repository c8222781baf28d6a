"""The gateway's page: which of its forms a client gets, and that names in it are only text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.bridge.gateway_http import PageFacts, choose_type, render, utc_text

FACTS = PageFacts(
    device="<b>&",
    addresses=["10.90.0.2"],
    gateway=["10.90.0.1"],
    time="2026-01-01T00:00:00Z",
    time_synchronized=True,
    policy=["a", "<script>"],
    services=[],
    tailnet="none",
)


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/html", "text/html"),
        ("text/*", "text/plain"),
        ("application/json", "application/json"),
        ("application/*", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("application/json;q=0.5, text/html;q=0.4", "application/json"),
        ("text/html;q=0, */*", "text/plain"),
        ("TEXT/HTML", "text/html"),
        ("image/png", "text/plain"),
        ("text/html;q=nonsense", "text/plain"),
        (",,;;q=,", "text/plain"),
    ],
)
def test_accept(accept: str, media: str) -> None:
    assert choose_type(accept) == media


@given(st.text(max_size=200))
def test_any_accept_header_gets_one_of_the_three(accept: str) -> None:
    assert choose_type(accept) in ("text/html", "application/json", "text/plain")


def test_names_are_text_and_nothing_else() -> None:
    page = render(FACTS, "text/html")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<title>&lt;b&gt;&amp;" in page


def test_json_says_it_all() -> None:
    assert json.loads(render(FACTS, "application/json"))["policy"] == ["a", "<script>"]


def test_text_is_for_reading() -> None:
    text = render(FACTS, "text/plain")
    assert text.splitlines()[:4] == ["<b>&, connected through lopower", "", "Addresses:", "  10.90.0.2"]
    assert "lopower serve PORT" in text


def test_time_is_utc() -> None:
    assert utc_text(1_790_000_000.9) == "2026-09-21T14:13:20Z"
