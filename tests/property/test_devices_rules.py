"""Rules survive being written and read; no text does more than be refused."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any, Literal

from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.devices.errors import InvalidName, InvalidRule
from lopower.devices.names import RESERVED, parse_name
from lopower.devices.policy import Rule

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda name: name not in RESERVED)
NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)), st.tuples(st.ip_addresses(v=6), st.integers(0, 128))
).map(lambda pair: ip_network((int(pair[0]) if pair[0].version == 4 else pair[0].packed, pair[1]), strict=False))


@st.composite
def ports(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    bounds = sorted(draw(st.sets(st.integers(1, 65535), max_size=12)))
    ranges = list(zip(bounds[::2], bounds[1::2], strict=False))
    apart = ranges[:1]
    for first, last in ranges[1:]:
        if first > apart[-1][1] + 1:
            apart.append((first, last))
    return tuple(apart)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    subject: dict[str, Any] = draw(
        st.one_of(
            st.fixed_dictionaries({"network": NETWORKS}),
            st.fixed_dictionaries({"keyword": st.sampled_from(["internet", "lan"])}),
            st.fixed_dictionaries({"device": NAMES}),
        )
    )
    ranges = draw(ports())
    protocol: Literal["tcp", "udp"] | None = draw(st.sampled_from(["tcp", "udp", None])) if ranges else None
    return Rule(action=draw(st.sampled_from(["allow", "deny"])), ports=ranges, protocol=protocol, **subject)


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(rules())
def test_a_rule_reads_back_as_itself(rule: Rule) -> None:
    assert Rule.parse(str(rule)) == rule


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(rules(), st.sampled_from(["tcp", "udp"]), st.integers(1, 65535))
def test_coverage_is_membership(rule: Rule, protocol: str, port: int) -> None:
    numbers = {number for first, last in rule.ports for number in range(first, last + 1)}
    expected = not rule.ports or (port in numbers and rule.protocol in (None, protocol))
    assert rule.covers_port(protocol, port) == expected


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.one_of(st.text(max_size=80), st.text("0123456789abcdef.:/[]-,allowdenyvic \t", max_size=60)))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except InvalidRule:
        return
    assert Rule.parse(str(rule)) == rule


@settings(deadline=None)  # a busy machine is slow, not wrong
@given(st.text(max_size=70))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidName:
        return
    assert name == text.lower()
    assert parse_name(name) == name
    assert name.encode("ascii").replace(b"-", b"x").isalnum()
