"""The examples in docs/devices.md are true."""

from __future__ import annotations

import re
from pathlib import Path

from lopower.devices.csv_import import parse_csv
from lopower.devices.policy import Rule
from lopower.devices.policy import __doc__ as grammar

DOCUMENT = (Path(__file__).parents[3] / "docs" / "devices.md").read_text()


def test_rules() -> None:
    table = DOCUMENT.partition("| rule | permits |")[2].partition("\n\n")[0]
    rules = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    assert len(rules) == 8
    for rule in rules:
        assert str(Rule.parse(rule)).removeprefix("allow ") == rule


def test_grammar() -> None:
    lines = re.findall(r"^    (\w+ +=.*)$", DOCUMENT, re.MULTILINE)
    assert len(lines) == 5
    assert grammar is not None
    assert all(line in grammar for line in lines)


def test_list() -> None:
    match = re.search(r"^    name,public_key.*\n(?:    .+\n)+", DOCUMENT, re.MULTILINE)
    assert match is not None
    devices = parse_csv(re.sub(r"^    ", "", match[0], flags=re.MULTILINE))
    assert [imported.device.name for imported in devices] == ["kitchen", "phone", "sensor"]
