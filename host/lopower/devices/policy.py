"""The rules of who may reach what: their grammar, and which ports they cover. Which rule wins is decided by the bridge.

    rule     = [ ("allow" | "deny") " " ] subject [ ":" ports [ "/" ("tcp" | "udp") ] ]
    subject  = CIDR | "internet" | "lan" | "device:" NAME
    CIDR     = IPv4 | IPv4 "/" LENGTH | "[" IPv6 "]" | "[" IPv6 "/" LENGTH "]"
    ports    = range *( "," range )
    range    = PORT [ "-" PORT ]

An IPv6 network without ports needs no brackets; one written with its length may have its ports behind that
(`fd00::/64:80`). A rule without a verb allows. A rule without ports covers everything, ICMP echo included; one with
ports covers TCP and UDP, or the one it names. `internet` is public unicast, `lan` the networks the host is attached to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, Literal

from lopower.devices.errors import InvalidName, InvalidRule
from lopower.devices.names import parse_name

IPNetwork = IPv4Network | IPv6Network
Action = Literal["allow", "deny"]
Keyword = Literal["internet", "lan"]
PortRange = tuple[int, int]

# Rules are evaluated one after the other for each new flow.
MAX_RULES_PER_DEVICE: Final = 256
MAX_PORT_RANGES: Final = 64
_MAX_TEXT: Final = 1024

_ACTIONS: Final[dict[str, Action]] = {"allow": "allow", "deny": "deny"}
_KEYWORDS: Final[dict[str, Keyword]] = {"internet": "internet", "lan": "lan"}
_PORTS: Final = re.compile(r"([0-9,\-\s]+)(?:/(\w+))?")
_SUBJECTS: Final = "a network (192.168.1.0/24, [fd00::/64]), 'internet', 'lan' or 'device:NAME'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. Exactly one of `network`, `keyword` and `device` is set.

    Attributes:
        action: `allow` or `deny`.
        network: the destinations.
        keyword: `internet` or `lan`.
        device: the name of another device.
        ports: inclusive ranges, ascending, apart from each other; empty: all ports, and echo.
        protocol: `tcp` or `udp`; None: both. Only with ports.
    """

    action: Action = "allow"
    network: IPNetwork | None = None
    keyword: Keyword | None = None
    device: str | None = None
    ports: tuple[PortRange, ...] = ()
    protocol: Literal["tcp", "udp"] | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read a rule.

        Raises:
            InvalidRule: it does not follow the grammar; the message says what was expected.
        """
        if len(text) > _MAX_TEXT:
            raise InvalidRule(f"a rule is at most {_MAX_TEXT} characters long, not {len(text)}")
        head, *rest = text.split(maxsplit=1)[:2] or [""]
        action = _ACTIONS.get(head.lower())
        body = rest[0].strip() if action is not None and rest else text.strip() if action is None else ""
        if not body:
            raise InvalidRule(f"{text!r} is not a rule: it names nothing; expected {_SUBJECTS}")
        subject, ports = _split(body, text)
        ranges, protocol = _parse_ports(ports, text) if ports is not None else ((), None)
        return _rule(action or "allow", subject, ranges, protocol, text)

    def __str__(self) -> str:
        """The rule in its canonical form, which `parse` reads back."""
        if self.network is not None:
            host = self.network.prefixlen == self.network.max_prefixlen
            subject = str(self.network.network_address) if host else str(self.network)
            if self.network.version == 6 and self.ports:
                subject = f"[{subject}]"
        else:
            subject = self.keyword or f"device:{self.device}"
        ports = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in self.ports)
        protocol = f"/{self.protocol}" if self.protocol else ""
        return f"{self.action} {subject}{':' if ports else ''}{ports}{protocol}"

    @property
    def denies(self) -> bool:
        """Whether this rule forbids what it covers."""
        return self.action == "deny"

    def covers_port(self, protocol: str, port: int | None) -> bool:
        """Whether the rule is about this protocol (`tcp`, `udp`, `icmp`) and port (None for icmp)."""
        if not self.ports:
            return True
        if port is None or (self.protocol is not None and self.protocol != protocol):
            return False
        return any(first <= port <= last for first, last in self.ports)


def parse_rules(texts: list[str] | tuple[str, ...]) -> tuple[Rule, ...]:
    """Read several rules, without repetitions, in order.

    Raises:
        InvalidRule: one of them is malformed, or there are more than `MAX_RULES_PER_DEVICE`.
    """
    rules = tuple(dict.fromkeys(map(Rule.parse, texts)))
    if len(rules) > MAX_RULES_PER_DEVICE:
        raise InvalidRule(f"{len(rules)} rules are too many; at most {MAX_RULES_PER_DEVICE} are possible")
    return rules


def _split(body: str, text: str) -> tuple[str, str | None]:
    """The subject, and the ports if there are any."""
    if body.startswith("["):
        subject, bracket, rest = body[1:].partition("]")
        if not bracket:
            raise InvalidRule(f"{text!r} is not a rule: the bracket is not closed")
        length, colon, ports = rest.partition(":")
        if length and not length.startswith("/"):
            raise InvalidRule(f"{text!r} is not a rule: {length!r} follows the bracket; expected ':PORTS'")
        return subject + length, ports if colon else None
    if body.lower().startswith("device:"):
        name, colon, ports = body[len("device:") :].partition(":")
        return "device:" + name, ports if colon else None
    address, slash, rest = body.partition("/")
    if address.count(":") > 1:  # IPv6: colons in front of the length are the address's own
        length, colon, ports = rest.partition(":")
        return address + slash + length, ports if colon else None
    subject, colon, ports = body.partition(":")
    return subject, ports if colon else None


def _rule(
    action: Action,
    subject: str,
    ports: tuple[PortRange, ...],
    protocol: Literal["tcp", "udp"] | None,
    text: str,
) -> Rule:
    if subject.startswith("device:"):
        try:
            name = parse_name(subject[len("device:") :])
        except InvalidName as error:
            raise InvalidRule(f"{text!r} is not a rule: {error}") from None
        return Rule(action=action, device=name, ports=ports, protocol=protocol)
    keyword = _KEYWORDS.get(subject.lower())
    if keyword is not None:
        return Rule(action=action, keyword=keyword, ports=ports, protocol=protocol)
    return Rule(action=action, network=_parse_network(subject, text), ports=ports, protocol=protocol)


def _parse_network(subject: str, text: str) -> IPNetwork:
    address, slash, length = subject.partition("/")
    if "%" in address or (slash and not (length.isascii() and length.isdecimal())):
        raise InvalidRule(f"{text!r} is not a rule: {subject!r} is not a network; expected {_SUBJECTS}")
    try:
        network = ip_network(subject, strict=False)
    except ValueError:
        raise InvalidRule(f"{text!r} is not a rule: {subject!r} is none of {_SUBJECTS}") from None
    if ip_network(address) != ip_network(network.network_address):
        raise InvalidRule(
            f"{text!r} is not a rule: {subject} has bits set behind its length; "
            f"the network is {network}, the single address {address}"
        )
    return network


def _parse_ports(ports: str, text: str) -> tuple[tuple[PortRange, ...], Literal["tcp", "udp"] | None]:
    match = _PORTS.fullmatch(ports)
    if match is None:
        raise InvalidRule(f"{text!r} is not a rule: {ports!r} are not ports; expected e.g. 80, 80,443 or 8000-8100/tcp")
    protocol = match[2].lower() if match[2] else None
    if protocol not in (None, "tcp", "udp"):
        raise InvalidRule(f"{text!r} is not a rule: {protocol!r} is not a protocol; expected 'tcp' or 'udp'")
    ranges = []
    for part in match[1].split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidRule(f"{text!r} is not a rule: {part!r} is not a port or a range of ports")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= 65535:
            raise InvalidRule(f"{text!r} is not a rule: ports are 1 to 65535 and ascend, unlike {part.strip()!r}")
        ranges.append((low, high))
    merged = _merge(ranges)
    if len(merged) > MAX_PORT_RANGES:
        raise InvalidRule(f"{text!r} is not a rule: more than {MAX_PORT_RANGES} ranges of ports")
    return merged, protocol  # type: ignore[return-value]  # narrowed above; mypy does not follow `in`


def _merge(ranges: list[PortRange]) -> tuple[PortRange, ...]:
    merged: list[PortRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)
