"""What the settings may hold: one function per kind of value, text to value.

Each raises ValueError with a sentence that says what is permitted; `settings` puts in front of it where the text stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from lopower.devices.policy import Rule

DEFAULT_PORT: Final = 51820
_LABEL: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII | re.IGNORECASE)


class HostPort(NamedTuple):
    """A host in text, IPv6 without brackets, and a port; 0 where none was named."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


def path(text: str) -> Path:
    """A file or directory; `~` is the home directory."""
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is not a path")
    return Path(text).expanduser()


def switch(text: str) -> bool:
    """true or false."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def choice(*permitted: str) -> Callable[[str], str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in permitted:
            raise ValueError(f"{text!r} is not permitted; it is one of: {', '.join(permitted)}")
        return text

    return parse


def split_host(text: str, form: str) -> tuple[str, int]:
    """Host and port; 0 without a port."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f"{text!r}: an IPv6 address with a port is written [ADDRESS]:PORT")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        if not port:
            raise ValueError(f"{text!r}: the port is missing; it is written {form}")
    if not port:
        return host, 0
    return host, port_number(port)


def port_number(text: str) -> int:
    """From 1 to 65535."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return int(text)


def listen(text: str) -> HostPort:
    """`ADDR:PORT`, `:PORT`, `ADDR`, `[ADDR]:PORT`; an empty host is every address of both IP versions."""
    host, port = split_host(text, "ADDR:PORT")
    if host:
        try:
            host = str(ip_address(host))
        except ValueError:
            raise ValueError(
                f"{host!r} is not an IP address of this host; write ADDR:PORT, or :PORT for all addresses"
            ) from None
    return HostPort(host, port or DEFAULT_PORT)


def endpoint(text: str) -> HostPort:
    """`HOST[:PORT]`: what devices can dial, so never an unspecified address."""
    host, port = split_host(text, "HOST[:PORT]")
    try:
        known: IPv4Address | IPv6Address = ip_address(host)
    except ValueError:
        return HostPort(domain(host), port)
    if known.is_unspecified or known.is_multicast:
        raise ValueError(f"{host} is no address that devices could dial; name this host as they see it")
    return HostPort(str(known), port)


def domain(text: str) -> str:
    """A domain name, without the final dot."""
    name = text.removesuffix(".").lower()
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is neither an IP address nor a domain name")
    if labels[-1].isdecimal():
        raise ValueError(f"{text!r} is not an IP address; four numbers from 0 to 255 make one")
    return name


def label(text: str) -> str:
    """One label of a domain name (RFC 1123 section 2.1)."""
    name = text.lower()
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        raise ValueError(f"{text!r} is not a host's name: letters, digits and hyphens, at most 63")
    return name


def control_url(text: str) -> str:
    """The URL of a control server."""
    if not re.fullmatch(r"https?://[^\s/?#@]+/?", text):
        raise ValueError(f"{text!r} is not the URL of a control server, such as https://headscale.example.net")
    return text.removesuffix("/")


def tag(text: str) -> str:
    """A tag, as Tailscale writes them."""
    if not re.fullmatch(r"tag:[a-zA-Z][a-zA-Z0-9-]*", text):
        raise ValueError(f"{text!r} is not a tag, which looks like tag:iot")
    return text


def exit_node(text: str) -> str:
    """A node's name or address; whether there is one is the tailnet's to say."""
    try:
        return str(ip_address(text))
    except ValueError:
        return domain(text)


def node_limit(text: str) -> int:
    """From 0 to 60: the sidecar takes 64."""
    if not (text.isascii() and text.isdecimal() and int(text) <= 60):
        raise ValueError(f"{text!r} is not a number from 0 to 60")
    return int(text)


def address(text: str) -> IPv4Address | IPv6Address:
    """An address of this host, to send from."""
    try:
        known = ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if known.is_unspecified or known.is_multicast:
        raise ValueError(f"{text} is no address to send from")
    return known


def network(text: str) -> IPv4Network | IPv6Network:
    """Where senders are: a network, or one address."""
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address or network, such as 203.0.113.7 or 192.168.0.0/16: {error}") from None


def ipv4_range(text: str) -> IPv4Network:
    """A range that devices can have, such as 10.90.0.0/24."""
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not an IPv4 range, which looks like 10.90.0.0/24: {error}") from None
    _check_range(network)
    return network


def ipv6_range(text: str) -> IPv6Network | Literal["random"]:
    """A range that devices can have, or the word `random`."""
    if text == "random":
        return "random"
    try:
        network = IPv6Network(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is neither `random` nor an IPv6 range such as fd12:3456:789a:1::/64: {error}"
        ) from None
    _check_range(network)
    return network


def _check_range(network: IPv4Network | IPv6Network) -> None:
    from lopower.devices.addresses import check_range
    from lopower.devices.errors import InvalidRange

    try:
        check_range(network)
    except InvalidRange as error:
        raise ValueError(str(error)) from None


def mtu(text: str) -> int:
    """From 1280, which RFC 8200 section 5 demands of every link with IPv6, to jumbo frames."""
    if not (text.isascii() and text.isdecimal() and 1280 <= int(text) <= 9000):
        raise ValueError(f"{text!r}: the MTU is a number from 1280 to 9000")
    return int(text)


def allow(text: str) -> Rule:
    """A rule that allows."""
    return _rule("allow", text)


def deny(text: str) -> Rule:
    """A rule that denies."""
    return _rule("deny", text)


def _rule(action: str, text: str) -> Rule:
    from lopower.devices.errors import InvalidRule
    from lopower.devices.policy import Rule

    try:
        return Rule.parse(text if text.split(maxsplit=1)[:1] == [action] else f"{action} {text}")
    except InvalidRule as error:
        raise ValueError(str(error)) from None


def dns_route(text: str) -> str:
    """`SUFFIX=ADDR[:PORT][,…]`; kept as text, for `lopower.dns.config.parse_route`."""
    from lopower.dns.config import parse_route

    parse_route(text)
    return text


def https_resolver(text: str) -> str:
    """A URL with an address for a host: a name would have to be resolved first."""
    match = re.fullmatch(r"https://(\[[0-9a-fA-F:.]+\]|[0-9.]+)(?::([0-9]{1,5}))?/\S*", text)
    try:
        if match is None:
            raise ValueError
        ip_address(match[1].strip("[]"))
    except ValueError:
        raise ValueError(
            f"{text!r} is not https://ADDRESS/PATH with an IP address, such as https://8.8.8.8/dns-query"
        ) from None
    if match[2]:
        port_number(match[2])
    return text


def group(text: str) -> str:
    """The name of a group; whether it exists is found out when the socket is made."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*\$?", text):
        raise ValueError(f"{text!r} is not the name of a group")
    return text


def mode(text: str) -> int:
    """0600 or 0660: the socket administers devices, so never others'."""
    if text not in ("0600", "0660"):
        raise ValueError(f"{text!r} is not permitted; it is one of: 0600, 0660")
    return int(text, 8)
