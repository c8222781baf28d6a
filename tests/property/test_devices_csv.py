"""Any list that a spreadsheet may write is read back; no text does more than be refused."""

from __future__ import annotations

import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.devices.csv_import import parse_csv
from lopower.devices.errors import InvalidCsv
from lopower.devices.keys import format_key
from lopower.devices.names import RESERVED
from lopower.devices.policy import Rule

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda name: name not in RESERVED)
KEYS = st.binary(min_size=32, max_size=32).filter(any)
RULES = st.lists(
    st.sampled_from(["lan", "internet:80,443/tcp", "10.0.0.0/8", "[fd00::/8]:1-9", "device:x"]), max_size=4
)
LINES = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES}, optional={"public_key": KEYS, "preshared_key": KEYS, "allow": RULES, "deny": RULES}
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda line: line["name"],
)
COLUMNS = st.permutations(["name", "public_key", "preshared_key", "allow", "deny"])


def written(value: object) -> str:
    if isinstance(value, bytes):
        return format_key(value)
    return " ".join(value) if isinstance(value, list) else str(value)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(LINES, COLUMNS, st.sampled_from(["excel", "unix"]))
def test_lists_read_back(lines: list[dict[str, object]], columns: list[str], dialect: str) -> None:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, dialect=dialect)
    writer.writeheader()
    for line in lines:
        writer.writerow({column: written(value) for column, value in line.items()})
    for line, imported in zip(lines, parse_csv(file.getvalue()), strict=True):
        device = imported.device
        assert device.name == line["name"]
        assert ("public_key" in line) == (imported.private_key is None)
        assert device.public_key == line.get("public_key", device.public_key)
        assert device.preshared_key == line.get("preshared_key", device.preshared_key)
        texts = [f"{verb} {text}" for verb in ("allow", "deny") for text in line.get(verb, ())]  # type: ignore[attr-defined]
        assert device.rules == tuple(dict.fromkeys(map(Rule.parse, texts)))


ALMOST = st.text('name,\n\r";#mtuipv4 0', max_size=80).map(lambda rest: "name,mtu\n" + rest)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.one_of(st.text(max_size=200), ALMOST))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        imported = parse_csv(text)
    except InvalidCsv:
        return
    assert imported
