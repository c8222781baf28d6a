"""/lopower.json, which the device reads at its start, from a configuration in the format of wg-quick(8).

Texts here hold keys and passwords: no error quotes a value, and no repr shows one.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from lopower_provisioning.errors import SettingsError

_MAX_SSID_BYTES: Final = 32  # IEEE 802.11 section 9.4.2.2
_PASSPHRASE_BYTES: Final = range(8, 65)  # WPA2: 8 to 63 characters, or 64 hexadecimal digits
_INTERFACE: Final = frozenset({"privatekey", "address", "dns", "mtu"})
_PEER: Final = frozenset({"publickey", "presharedkey", "endpoint", "allowedips", "persistentkeepalive"})


@dataclass(frozen=True, slots=True)
class Wifi:
    """A network to join. An empty password is an open network.

    Raises SettingsError for a name or a password that no network can have.
    """

    ssid: str
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.ssid.encode()) <= _MAX_SSID_BYTES:
            raise SettingsError("the name of a Wi-Fi network has 1 to 32 bytes")
        if self.password and len(self.password.encode()) not in _PASSPHRASE_BYTES:
            raise SettingsError(f"the password of the Wi-Fi network {self.ssid!r} has 8 to 63 characters")


def from_conf(text: str, *, wifi: Iterable[Wifi], written: int, hostname: str | None = None) -> bytes:
    """The content of /lopower.json.

    Args:
        text: one [Interface] with its PrivateKey, and one [Peer]: the proxy.
        wifi: networks, the preferred first.
        written: seconds since 1970, now: the floor of the handshakes' time stamps, with which a board that was flashed
            again, and has no clock, is still newer than what the proxy has seen of its key.
        hostname: the name that the board gives to the Wi-Fi's DHCP server.

    Raises SettingsError, whose text names the line's key and never its value.
    """
    interface, peer = _sections(text)
    proxy: dict[str, Any] = {
        "public_key": _key(peer, "PublicKey"),
        "addresses": _addresses(interface, "Address"),
        "dns": [entry for entry in _list(interface, "DNS") if _is_address(entry)],  # the others are search domains
        "endpoints": [_required(peer, "Endpoint")],
        "allowed_ips": _networks(peer, "AllowedIPs"),
        "mtu": _number(interface, "MTU", 1420, range(576, 1421)),
        "persistent_keepalive": _number(peer, "PersistentKeepalive", 25, range(65536)),
    }
    if "presharedkey" in peer:
        proxy["preshared_key"] = _key(peer, "PresharedKey")
    content: dict[str, Any] = {"private_key": _key(interface, "PrivateKey"), "proxies": [proxy], "written": written}
    networks = list(wifi)
    content["wifi"] = [
        {"ssid": network.ssid, "password": network.password or None, "priority": len(networks) - place}
        for place, network in enumerate(networks)
    ]
    if hostname is not None:
        content["hostname"] = hostname
    return json.dumps(content).encode()


def _sections(text: str) -> tuple[dict[str, str], dict[str, str]]:
    sections: dict[str, list[dict[str, str]]] = {"[interface]": [], "[peer]": []}
    known = {"[interface]": _INTERFACE, "[peer]": _PEER}
    name = ""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if line.lower() in sections:
            name = line.lower()
            sections[name].append({})
            continue
        key, equals, value = line.partition("=")
        key = key.strip().lower()
        if not equals or not name or key not in known[name]:
            raise SettingsError(f"line {number} of the configuration is not understood")
        entry, value = sections[name][-1], value.strip()
        entry[key] = f"{entry[key]}, {value}" if key in entry else value  # wg-quick(8): lists may be repeated
    for name, found in sections.items():
        if len(found) != 1:
            raise SettingsError(f"the configuration must have one section {name.title()}, it has {len(found)}")
    return sections["[interface]"][0], sections["[peer]"][0]


def _required(section: dict[str, str], name: str) -> str:
    value = section.get(name.lower(), "")
    if not value:
        raise SettingsError(f"{name} is missing in the configuration")
    return value


def _list(section: dict[str, str], name: str) -> list[str]:
    return [entry.strip() for entry in section.get(name.lower(), "").split(",") if entry.strip()]


def _key(section: dict[str, str], name: str) -> str:
    value = _required(section, name)
    try:
        right = len(base64.b64decode(value, validate=True)) == 32
    except (binascii.Error, ValueError):
        right = False
    if not right:
        raise SettingsError(f"{name} must be 32 bytes in base64")
    return value


def _addresses(section: dict[str, str], name: str) -> list[str]:
    found = _list(section, name)
    if not found:
        raise SettingsError(f"{name} is missing in the configuration")
    for entry in found:
        if not _is_address(entry.partition("/")[0]):
            raise SettingsError(f"{name} has an entry that is no address")
    return [entry.partition("/")[0] for entry in found]


def _networks(section: dict[str, str], name: str) -> list[str]:
    try:
        return [str(ipaddress.ip_network(entry, strict=False)) for entry in _list(section, name)]
    except ValueError:
        raise SettingsError(f"{name} has an entry that is no network") from None


def _number(section: dict[str, str], name: str, default: int, allowed: range) -> int:
    value = section.get(name.lower())
    if value is None:
        return default
    if value.lower() == "off":  # wg(8) of PersistentKeepalive
        value = "0"
    if not (value.isascii() and value.isdigit() and len(value) < 6 and int(value) in allowed):
        raise SettingsError(f"{name} must be a number from {allowed.start} to {allowed.stop - 1}")
    return int(value)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
