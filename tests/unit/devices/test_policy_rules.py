"""The grammar of rules, and which ports they cover."""

from __future__ import annotations

import pytest

from lopower.devices.errors import InvalidRule
from lopower.devices.policy import MAX_RULES_PER_DEVICE, Rule, parse_rules


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.168.1.0/24", "allow 192.168.1.0/24"),
        ("192.168.1.5", "allow 192.168.1.5"),
        ("192.168.1.5/32:80", "allow 192.168.1.5:80"),
        ("192.168.1.0/24:443,80", "allow 192.168.1.0/24:80,443"),
        ("10.0.0.0/8:8000-8100/tcp", "allow 10.0.0.0/8:8000-8100/tcp"),
        ("10.0.0.1:80,81,82-90,85", "allow 10.0.0.1:80-90"),
        ("deny 10.0.0.0/8", "deny 10.0.0.0/8"),
        ("DENY  internet:25/TCP", "deny internet:25/tcp"),
        ("allow lan", "allow lan"),
        ("LAN:1883", "allow lan:1883"),
        ("device:Kitchen", "allow device:kitchen"),
        ("device:kitchen:80/udp", "allow device:kitchen:80/udp"),
        ("fd00::/8", "allow fd00::/8"),
        ("[fd00::/8]:80", "allow [fd00::/8]:80"),
        ("[fd00::]/8:80", "allow [fd00::/8]:80"),
        ("fd00::/8:80", "allow [fd00::/8]:80"),
        ("fd00::1:80", "allow fd00::1:80"),
        ("[fd00::1]:80", "allow [fd00::1]:80"),
        ("[fd00::1]", "allow fd00::1"),
        ("0.0.0.0/0", "allow 0.0.0.0/0"),
        ("::/0", "allow ::/0"),
        (" internet ", "allow internet"),
    ],
)
def test_rules_have_a_canonical_form(text: str, canonical: str) -> None:
    rule = Rule.parse(text)
    assert str(rule) == canonical
    assert Rule.parse(canonical) == rule


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "names nothing"),
        ("allow", "names nothing"),
        ("deny ", "names nothing"),
        ("allow allow lan", "none of"),
        ("everything", "none of a network"),
        ("10.0.0.0/33", "none of a network"),
        ("10.0.0.5/24", r"the network is 10\.0\.0\.0/24, the single address 10\.0\.0\.5"),
        ("fd00::1/64", "the network is fd00::/64"),
        ("10.0.0.0/255.0.0.0", "not a network"),
        ("10.0.0.0/-1", "not a network"),
        ("10.0.0.0/\u0661", "not a network"),
        ("fe80::1%eth0", "not a network"),
        ("[fd00::1", "not closed"),
        ("[fd00::1]80", "expected ':PORTS'"),
        ("10.0.0.1:", "not ports"),
        ("10.0.0.1:0", "1 to 65535"),
        ("10.0.0.1:65536", "1 to 65535"),
        ("10.0.0.1:90-80", "ascend"),
        ("10.0.0.1:80,,81", "not a port"),
        ("10.0.0.1:80-", "not a port"),
        ("10.0.0.1:http", "not ports"),
        ("10.0.0.1:80/sctp", "expected 'tcp' or 'udp'"),
        ("internet/tcp", "not a network"),
        ("device:", "cannot be a device's name"),
        ("device:a b", "cannot be a device's name"),
        ("device:gateway", "reserved"),
        ("lan;internet", "none of a network"),
        ("x" * 2000, "at most 1024 characters"),
        ("10.0.0.1:" + ",".join(str(port) for port in range(1, 400, 2)), "at most|more than"),
    ],
)
def test_what_is_no_rule_is_refused_with_a_reason(text: str, hint: str) -> None:
    with pytest.raises(InvalidRule, match=hint):
        Rule.parse(text)


def test_ports_and_protocols() -> None:
    everything, web, ntp = map(Rule.parse, ("lan", "lan:80,8000-8100", "lan:123/udp"))
    assert everything.covers_port("icmp", None)
    assert everything.covers_port("tcp", 1)
    assert web.covers_port("tcp", 80)
    assert web.covers_port("udp", 8050)
    assert not web.covers_port("tcp", 81)
    assert not web.covers_port("tcp", 8101)
    assert not web.covers_port("icmp", None)
    assert ntp.covers_port("udp", 123)
    assert not ntp.covers_port("tcp", 123)


def test_lists_keep_their_order_and_lose_repetitions() -> None:
    assert list(map(str, parse_rules(["lan", "internet", "allow lan"]))) == ["allow lan", "allow internet"]


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(InvalidRule, match="too many"):
        parse_rules([f"10.0.{i // 256}.{i % 256}" for i in range(MAX_RULES_PER_DEVICE + 1)])
