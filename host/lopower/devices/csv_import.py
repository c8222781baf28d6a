"""Lists of devices in CSV (RFC 4180), as spreadsheets write them.

The first line names the columns, in any order: `name`, and any of `public_key` (without it a key pair is made),
`preshared_key` (`none`: without one; empty: a random one), `ipv4` (`none`: IPv6 only), `ipv6`, `allow` and `deny`
(rules separated by semicolons or blanks), `full_tunnel` (yes or no), `mtu`, `persistent_keepalive`. An empty field is
the default. `mac` is for people: which board it is; it is not kept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from lopower.devices.device import NewDevice
from lopower.devices.errors import InvalidAddress, InvalidCsv, InvalidDevice, RegistryError
from lopower.devices.keys import generate_private_key, parse_key, public_key_of
from lopower.devices.names import parse_name
from lopower.devices.policy import parse_rules

# A file of this size is a mistake: the largest fleets have tens of thousands of devices. Bytes and lines.
MAX_BYTES: Final = 32 * 1024 * 1024
MAX_DEVICES: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedDevice:
    """One line.

    Attributes:
        device: to be added.
        private_key: made here, for a line without a public key; None: the device has its own.
        line: its number in the file, from 1.
    """

    device: NewDevice
    private_key: bytes | None = field(repr=False)
    line: int


def parse_csv(text: str) -> list[ImportedDevice]:
    """Read a list of devices.

    Raises:
        InvalidCsv: something in it is wrong; the message names the line, and the column.
    """
    if len(text) > MAX_BYTES:
        raise InvalidCsv(f"the list is larger than {MAX_BYTES // 1024 // 1024} MB")
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    columns: list[str] = []
    imported: list[ImportedDevice] = []
    first_line: dict[str, int] = {}
    try:
        for record in reader:
            line = reader.line_num
            fields = [entry.strip() for entry in record]
            if not any(fields) or (fields[0].startswith("#") and not columns):
                continue
            if not columns:
                columns = _parse_header([entry.lower() for entry in fields], line)
                continue
            if len(fields) != len(columns):
                raise InvalidCsv(f"line {line}: {len(fields)} fields, but the first line names {len(columns)} columns")
            one = _parse_line({name: value for name, value in zip(columns, fields, strict=True) if value}, line)
            earlier = first_line.setdefault(one.device.name, line)
            if earlier != line:
                raise InvalidCsv(f"line {line}: the name {one.device.name!r} is in line {earlier} already")
            imported.append(one)
            if len(imported) > MAX_DEVICES:
                raise InvalidCsv(f"line {line}: more than {MAX_DEVICES} devices")
    except csv.Error as error:
        raise InvalidCsv(f"line {reader.line_num}: {error}") from None
    if not imported:
        raise InvalidCsv("the list holds no devices; its first line names the columns, each further line is a device")
    return imported


def _parse_header(columns: list[str], line: int) -> list[str]:
    unknown = [name for name in columns if name not in _ALL_COLUMNS]
    if unknown:
        raise InvalidCsv(f"line {line}: unknown column {unknown[0]!r}; there are: {', '.join(_ALL_COLUMNS)}")
    if "name" not in columns:
        raise InvalidCsv(f"line {line}: the column 'name' is missing; the first line names the columns")
    if len(set(columns)) < len(columns):
        raise InvalidCsv(f"line {line}: a column is named twice")
    return columns


def _parse_line(fields: Mapping[str, str], line: int) -> ImportedDevice:
    values: dict[str, Any] = {}
    column = "name"
    try:
        values["name"] = parse_name(fields.get("name", ""))
        for column, text in fields.items():
            if column in _PARSERS:
                values[column] = _PARSERS[column](text)
        for column in ("allow", "deny"):
            rules = [f"{column} {text}" for text in fields.get(column, "").replace(";", " ").split()]
            values["rules"] = (*values.get("rules", ()), *parse_rules(rules))
    except RegistryError as error:
        raise InvalidCsv(f"line {line}, column {column}: {error}") from None
    private_key = None
    if "public_key" not in values:
        private_key = generate_private_key()
        values["public_key"] = public_key_of(private_key)
    return ImportedDevice(device=NewDevice(**values), private_key=private_key, line=line)


def _parse_preshared_key(text: str) -> bytes | None:
    return None if text.lower() == "none" else parse_key(text)


def _parse_ipv4(text: str) -> IPv4Address | None:
    if text.lower() == "none":
        return None
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise InvalidAddress(f"{text!r} is not an IPv4 address, nor 'none'") from None


def _parse_ipv6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise InvalidAddress(f"{text!r} is not an IPv6 address") from None


def _parse_switch(text: str) -> bool:
    value = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}.get(text.lower())
    if value is None:
        raise InvalidDevice(f"{text!r} is neither yes nor no")
    return value


def _parse_number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise InvalidDevice(f"{text!r} is not a number from 0 to 65535")
    return int(text)


_PARSERS: Final[Mapping[str, Callable[[str], object]]] = {
    "public_key": parse_key,
    "preshared_key": _parse_preshared_key,
    "ipv4": _parse_ipv4,
    "ipv6": _parse_ipv6,
    "full_tunnel": _parse_switch,
    "mtu": _parse_number,
    "persistent_keepalive": _parse_number,
}
_ALL_COLUMNS: Final = ("name", *_PARSERS, "allow", "deny", "mac")
