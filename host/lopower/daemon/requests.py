"""The bodies of the control API's requests, checked."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Literal, get_args

from lopower.daemon.setting_values import split_host
from lopower.devices.configurations import Format
from lopower.devices.csv_import import ImportedDevice
from lopower.devices.device import DEFAULT_PERSISTENT_KEEPALIVE, NewDevice, ServedPort
from lopower.devices.exposures import Exposure, Kind, parse_sources
from lopower.devices.keys import generate_preshared_key, generate_private_key, parse_key, public_key_of
from lopower.devices.policy import parse_rules

OutputFormat = Format | Literal["qr", "png"]
OUTPUT_FORMATS: Final[tuple[OutputFormat, ...]] = ("conf", "qr", "png", "json", "esphome", "arduino")

_JSON_NAMES: Final[dict[type, str]] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list of texts",
}


_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443


class RequestError(Exception):
    """A request that cannot be understood; the text says what is permitted."""


class Fields:
    """Takes the members of a JSON object one by one; `end` refuses what is left over."""

    def __init__(self, body: object, what: str) -> None:
        if not isinstance(body, Mapping):
            raise RequestError(f"{what} must be a JSON object")
        self._what = what
        self._rest: dict[str, Any] = dict(body)
        self._known: list[str] = []

    def take(self, name: str, kind: type, default: Any = None, *, required: bool = False) -> Any:
        """The member `name`, or the default where it is absent or null."""
        self._known.append(name)
        value = self._rest.pop(name, None)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if value is None:
            if required:
                raise RequestError(f"{self._what} lacks {name!r}")
            return default
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        if not fits or (kind is list and not all(isinstance(item, str) for item in value)):
            raise RequestError(f"{name!r} in {self._what} must be {_JSON_NAMES[kind]}")
        return value

    def end(self) -> None:
        """Refuse members that were not asked for."""
        if self._rest:
            odd = ", ".join(map(repr, sorted(self._rest)))
            raise RequestError(f"{self._what} has no member {odd}; it has: {', '.join(self._known)}")


def parse_device(body: object) -> ImportedDevice:
    """A device to be added, from its JSON; a key pair is made for one without a public key.

    Raises:
        RequestError, RegistryError: it cannot be understood.
    """
    fields = Fields(body, "a device")
    name: str = fields.take("name", str, required=True)
    public_key: str | None = fields.take("public_key", str)
    preshared_key: bool = fields.take("preshared_key", bool, True)
    addresses: list[str] = fields.take("addresses", list, [])
    rules: list[str] = fields.take("rules", list, [])
    full_tunnel: bool = fields.take("full_tunnel", bool, False)
    mtu: int | None = fields.take("mtu", int)
    keepalive: int = fields.take("persistent_keepalive", int, DEFAULT_PERSISTENT_KEEPALIVE)
    fields.end()
    ipv4, ipv6 = _addresses(addresses)
    private_key = generate_private_key() if public_key is None else None
    device = NewDevice(
        name=name,
        public_key=parse_key(public_key) if public_key is not None else public_key_of(private_key or b""),
        preshared_key=generate_preshared_key() if preshared_key else None,
        ipv4=ipv4,
        ipv6=ipv6,
        rules=parse_rules(rules),
        full_tunnel=full_tunnel,
        mtu=mtu,
        persistent_keepalive=keepalive,
    )
    return ImportedDevice(device=device, private_key=private_key, line=0)


def parse_format(text: str) -> OutputFormat:
    """A format that configurations are handed out in.

    Raises:
        RequestError: there is no such format.
    """
    for known in OUTPUT_FORMATS:
        if text == known:
            return known
    raise RequestError(f"there is no format {text!r}; there are: {', '.join(OUTPUT_FORMATS)}")


def parse_served(body: object) -> ServedPort:
    """`{"port": 1883, "protocol": "tcp", "target": "127.0.0.1:1883"}`; protocol and target may be left away.

    Raises:
        RequestError: it cannot be understood.
    """
    fields = Fields(body, "a served port")
    port: int = fields.take("port", int, required=True)
    protocol = parse_protocol(fields.take("protocol", str, "tcp"))
    target: str = fields.take("target", str, "")
    fields.end()
    if not 1 <= port <= 65535:
        raise RequestError(f"{port} is not a port; ports are 1 to 65535")
    return ServedPort(protocol=protocol, port=port, target=_target(target, port))


def parse_exposure(body: object) -> tuple[str, Exposure]:
    """A device's name, and what of it is to be exposed; the exposure does not know the device's id yet.

    Raises:
        RequestError, RegistryError: it cannot be understood.
    """
    fields = Fields(body, "an exposure")
    name: str = fields.take("device", str, required=True)
    kind: str = fields.take("kind", str, "all")
    protocol = parse_protocol(fields.take("protocol", str, "tcp"))
    port: int = fields.take("port", int, 0)
    target_port: int = fields.take("target_port", int, _HTTP_PORT if kind == "https" else port)
    hostname: str = fields.take("hostname", str, "")
    tags: list[str] = fields.take("tags", list, [])
    sources: list[str] = fields.take("from", list, [])
    fields.end()
    known: Kind | None = next((word for word in get_args(Kind) if word == kind), None)
    if known is None:
        raise RequestError(f"there is no kind {kind!r}; there are: {', '.join(get_args(Kind))}")
    if (tags or hostname) and known != "node":
        raise RequestError("a host's name and tags go with the kind 'node', and with no other")
    if (port != 0) != (known == "port"):
        raise RequestError("a port goes with the kind 'port', and with no other")
    return name, Exposure(
        device_id=0,
        kind=known,
        transport="tcp" if known == "https" else protocol,
        port=_HTTPS_PORT if known == "https" else port,
        target_port=target_port,
        hostname=hostname.lower(),
        tags=tuple(dict.fromkeys(tags)),
        sources=parse_sources(sources),
    )


def parse_protocol(text: str) -> Literal["tcp", "udp"]:
    """`tcp` or `udp`.

    Raises:
        RequestError: neither.
    """
    if text == "tcp":
        return "tcp"
    if text == "udp":
        return "udp"
    raise RequestError(f"{text!r} is not a protocol that can be served; it is tcp or udp")


def _addresses(texts: list[str]) -> tuple[IPv4Address | Literal["auto"] | None, IPv6Address | Literal["auto"]]:
    ipv4: IPv4Address | Literal["auto"] | None = "auto"
    ipv6: IPv6Address | Literal["auto"] = "auto"
    for text in texts:
        if text == "ipv6-only":
            ipv4 = None
            continue
        try:
            address = ip_address(text)
        except ValueError:
            raise RequestError(f"{text!r} is not an IP address, nor ipv6-only") from None
        if isinstance(address, IPv4Address):
            taken, ipv4 = ipv4 != "auto", address
        else:
            taken, ipv6 = ipv6 != "auto", address
        if taken:
            raise RequestError("a device has one IPv4 and one IPv6 address; more of one kind were given")
    return ipv4, ipv6


def _target(text: str, port: int) -> tuple[IPv4Address | IPv6Address, int]:
    """`ADDR`, `PORT`, `ADDR:PORT` or `[ADDR]:PORT`; by default the same port of this host."""
    if text.isascii() and text.isdecimal():
        text = f"127.0.0.1:{text}"
    try:
        host, named = split_host(text or "127.0.0.1", "ADDR[:PORT]")
        return ip_address("127.0.0.1" if host == "localhost" else host), named or port
    except ValueError:
        raise RequestError(
            f"{text!r} is not a target; it is PORT, ADDRESS or ADDRESS:PORT, with an IP address"
        ) from None
