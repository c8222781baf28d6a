"""/lopower.json, which the device reads at its start, from a configuration in the format of wg-quick(8) or in JSON.

Texts here hold keys and passwords: no error quotes a value, and no repr shows one.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lopower_provisioning.errors import SettingsError

_MAX_SSID_BYTES: Final = 32  # IEEE 802.11 section 9.4.2.2
_PASSPHRASE_BYTES: Final = range(8, 65)  # WPA2: 8 to 63 characters, or 64 hexadecimal digits
_INTERFACE: Final = frozenset({"privatekey", "address", "dns", "mtu"})
_PEER: Final = frozenset({"publickey", "presharedkey", "endpoint", "allowedips", "persistentkeepalive"})


@dataclass(frozen=True, slots=True)
class StaticAddress:
    """What the board has instead of asking DHCP, as texts."""

    address: str
    netmask: str
    gateway: str
    dns: str

    @classmethod
    def parse(cls, text: str) -> StaticAddress:
        """Read ADDRESS/PREFIX,GATEWAY[,DNS]; without DNS the gateway is asked.

        Raises SettingsError if it is not that, or if the gateway is not in the address's network.
        """
        try:
            address, gateway, *dns = text.split(",")
            interface = ipaddress.IPv4Interface(address.strip())
            router = ipaddress.IPv4Address(gateway.strip())
            resolver = ipaddress.IPv4Address(dns[0].strip()) if dns else router
        except ValueError:
            interface = None
        if interface is None or len(dns) > 1 or "/" not in address:
            raise SettingsError(
                f"{text!r} is not a fixed address", "it is ADDRESS/PREFIX,GATEWAY[,DNS]: 192.168.1.50/24,192.168.1.1"
            )
        if router not in interface.network:
            raise SettingsError(f"the gateway {router} is not in the network {interface.network}")
        return cls(str(interface.ip), str(interface.netmask), str(router), str(resolver))


@dataclass(frozen=True, slots=True)
class Wifi:
    """A network to join. An empty password is an open network.

    Raises SettingsError for a name or a password that no network can have.
    """

    ssid: str
    password: str = field(default="", repr=False)
    static: StaticAddress | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.ssid.encode()) <= _MAX_SSID_BYTES:
            raise SettingsError("the name of a Wi-Fi network has 1 to 32 bytes")
        if self.password and len(self.password.encode()) not in _PASSPHRASE_BYTES:
            raise SettingsError(f"the password of the Wi-Fi network {self.ssid!r} has 8 to 63 characters")


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A device's side of a tunnel.

    Attributes:
        proxy: an entry of the settings' `proxies`; it may hold a preshared key.
        private_key: in base64; None: the board makes its own.
        name: the device's, if the configuration says it.
    """

    proxy: dict[str, Any] = field(repr=False)
    private_key: str | None = field(repr=False)
    name: str | None = None

    @property
    def addresses(self) -> list[str]:
        """The device's, inside."""
        return list(self.proxy["addresses"])


def tunnel_from_conf(text: str) -> Tunnel:
    """Read a configuration: one [Interface] with its PrivateKey, and one [Peer]: the proxy.

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
    return Tunnel(proxy, _key(interface, "PrivateKey"), _named(text))


def tunnel_from_json(text: str, private_key: str | None = None) -> Tunnel:
    """Read what `lopower device add --format json` prints: all endpoints, not the preferred one alone.

    Args:
        private_key: the device's, in base64, if it is known and not in `text`.

    Raises SettingsError if it is something else.
    """
    try:
        content = json.loads(text)
        server = content["server"]
        proxy: dict[str, Any] = {
            "public_key": str(server["public_key"]),
            "addresses": [str(entry).partition("/")[0] for entry in content["addresses"]],
            "dns": [str(entry) for entry in content["dns"]],
            "endpoints": [str(entry) for entry in server["endpoints"]],
            "allowed_ips": [str(entry) for entry in server["allowed_ips"]],
            "mtu": min(int(content["mtu"]), 1420),
            "persistent_keepalive": int(server["persistent_keepalive"]),
        }
        if server["preshared_key"] is not None:
            proxy["preshared_key"] = str(server["preshared_key"])
        return Tunnel(proxy, content["private_key"] or private_key, str(content["name"]))
    except (ValueError, KeyError, TypeError):
        raise SettingsError("the daemon's configuration is not understood: it may be another version") from None


def from_conf(text: str, *, wifi: Iterable[Wifi], written: int, hostname: str | None = None) -> bytes:
    """The content of /lopower.json for a configuration; see `tunnel_from_conf` and `settings`."""
    return settings(tunnel_from_conf(text), wifi=wifi, written=written, hostname=hostname)


def changes(tunnel: Tunnel, wifi: Iterable[Wifi]) -> dict[str, Any]:
    """What an update puts in the place of the board's own settings; its private key stays where it is.

    Args:
        tunnel: as it is now.
        wifi: networks instead of those that the board has; empty: it keeps them.
    """
    content: dict[str, Any] = {"proxies": [tunnel.proxy]}
    networks = list(wifi)
    if networks:
        content["wifi"] = [_wifi(network, len(networks) - place) for place, network in enumerate(networks)]
    return content


def settings(
    tunnel: Tunnel | None,
    *,
    wifi: Iterable[Wifi],
    written: int,
    hostname: str | None = None,
    remote_repl: bool = False,
) -> bytes:
    """The content of /lopower.json.

    Args:
        tunnel: None: yet to come; without a private key: the board puts in its own.
        wifi: networks, the preferred first.
        written: seconds since 1970, now: the floor of the handshakes' time stamps, with which a board that was flashed
            again, and has no clock, is still newer than what the proxy has seen of its key.
        hostname: the name that the board gives to the Wi-Fi's DHCP server.
        remote_repl: the proxy's gateway may use the board's console.
    """
    content: dict[str, Any] = {"written": written}
    if tunnel is not None:
        content["proxies"] = [tunnel.proxy]
        if tunnel.private_key is not None:
            content["private_key"] = tunnel.private_key
    networks = list(wifi)
    content["wifi"] = [_wifi(network, len(networks) - place) for place, network in enumerate(networks)]
    if hostname is not None:
        content["hostname"] = hostname
    if remote_repl:
        content["remote_repl"] = True
    return json.dumps(content).encode()


def _wifi(network: Wifi, priority: int) -> dict[str, Any]:
    entry = {"ssid": network.ssid, "password": network.password or None, "priority": priority}
    return entry if network.static is None else {**entry, **asdict(network.static)}


def _named(text: str) -> str | None:
    """The device's name in the comment that `lopower device add` writes."""
    found = re.search(r"^# lopower: device ([a-z0-9-]{1,63})$", text, re.MULTILINE)
    return None if found is None else found[1]


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
