"""Flashing where no daemon is reached: from the output of `lopower server show`, into a list for `device add --csv`.

The addresses that a daemon would give are chosen here: IPv4 from the end of the range downwards, where the daemon goes
last, and IPv6 at random. The list holds public keys alone, no secret: such devices have no preshared key.
"""

from __future__ import annotations

import csv
import io
import ipaddress
import json
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Final

from lopower_provisioning.errors import ProvisioningError, RefusedError, SettingsError
from lopower_provisioning.settings_file import Tunnel
from lopower_provisioning.targets import Confirm

COLUMNS: Final = ("name", "public_key", "preshared_key", "ipv4", "ipv6", "mac")
KEEPALIVE_SECONDS: Final = 25
_LABELS: Final = {  # of the text for people -> member of the JSON
    "public key": "public_key",
    "endpoints": "endpoints",
    "ranges": "ranges",
    "gateway": "gateways",
    "MTU": "mtu",
    "allowed IPs": "allowed_ips",
}
_list_lock: Final = threading.Lock()  # several boards are flashed at once, into one list


@dataclass(frozen=True, slots=True)
class Server:
    """A server as `lopower server show` describes it."""

    public_key: str
    endpoints: tuple[str, ...]
    ipv4: IPv4Network | None
    ipv6: IPv6Network
    gateways: tuple[str, ...]
    mtu: int
    allowed_ips: tuple[str, ...]


def parse_server(text: str) -> Server:
    """Read what `lopower server show` printed, with or without --json.

    Raises SettingsError.
    """
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else _from_lines(text)
        if "ranges" not in content:
            content["ranges"] = [content[name] for name in ("range_ipv4", "range_ipv6") if content[name]]
            content["gateways"] = [content[name] for name in ("gateway_ipv4", "gateway_ipv6") if content[name]]
        ranges = [ipaddress.ip_network(entry) for entry in content["ranges"]]
        server = Server(
            public_key=str(content["public_key"]),
            endpoints=tuple(map(str, content["endpoints"])),
            ipv4=next((entry for entry in ranges if isinstance(entry, IPv4Network)), None),
            ipv6=next(entry for entry in ranges if isinstance(entry, IPv6Network)),
            gateways=tuple(str(ipaddress.ip_address(entry)) for entry in content["gateways"]),
            mtu=int(content["mtu"]),
            allowed_ips=tuple(str(ipaddress.ip_network(entry)) for entry in content["allowed_ips"]),
        )
    except (ValueError, KeyError, TypeError, StopIteration, RecursionError):
        raise SettingsError("this is not what `lopower server show` prints", "lopower server show > server") from None
    if not server.endpoints:
        raise SettingsError(
            "the server does not know at which address devices reach it", "start it with --endpoint HOST"
        )
    return server


def _from_lines(text: str) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for line in text.splitlines():
        label, _, value = line.partition("  ")
        member = _LABELS.get(label.strip())
        if member is not None:
            entries = [entry.strip() for entry in value.split(",")]
            content[member] = value.strip() if member in ("public_key", "mtu") else entries
    return content


class OfflineTarget:
    """A server that is not asked, and a list of devices that it will be given.

    Args:
        path: the list; it is made, or goes on.
    """

    own_key: str | None = None
    name: str | None = None
    domains: tuple[str, ...] = ()

    def __init__(self, server: Server, path: Path) -> None:
        self._server = server
        self._path = path
        self._written = False
        self._enrolled = ""

    def prepare(self, name: str, same_board: bool, confirm: Confirm) -> None:
        with _list_lock:
            present = next((row for row in self._rows() if row["name"] == name), None)
        if present is None or same_board:
            return
        if not confirm(f"The list has a device {name} already. Put this board in its place?", "its line is replaced"):
            raise RefusedError(f"{self._path} has a device {name} already", "choose another name, or say --yes")

    def enrol(self, name: str, mac: str, public_key: str) -> Tunnel:
        with _list_lock:
            rows = [row for row in self._rows() if row["name"] != name and row["mac"] != mac]
            ipv4, ipv6 = self._addresses(rows)
            rows.append(
                {
                    "name": name, "public_key": public_key, "preshared_key": "none",
                    "ipv4": "none" if ipv4 is None else str(ipv4), "ipv6": str(ipv6), "mac": mac,
                }
            )  # fmt: skip
            self._write(rows)
            self._written, self._enrolled = True, name
        own = [address for address in (ipv4, ipv6) if address is not None]
        versions = {address.version for address in own}
        networks = [*self._server.allowed_ips, *(f"{address}/{address.max_prefixlen}" for address in own)]
        proxy: dict[str, Any] = {
            "public_key": self._server.public_key,
            "addresses": [str(address) for address in own],
            "dns": [entry for entry in self._server.gateways if ipaddress.ip_address(entry).version in versions],
            "endpoints": list(self._server.endpoints),
            "allowed_ips": networks,
            "mtu": min(self._server.mtu, 1420),
            "persistent_keepalive": KEEPALIVE_SECONDS,
        }
        return Tunnel(proxy, None, name)

    def take_back(self) -> None:
        if self._written:
            with _list_lock:
                self._write([row for row in self._rows() if row["name"] != self._enrolled])
            self._written = False

    def wait(self, name: str, progress: Callable[[float], None]) -> None:
        return None  # the server does not know it yet

    def _addresses(self, rows: list[dict[str, str]]) -> tuple[IPv4Address | None, IPv6Address]:
        taken = {row["ipv4"] for row in rows} | set(self._server.gateways)
        ipv4 = None
        if self._server.ipv4 is not None:
            hosts = range(int(self._server.ipv4.broadcast_address) - 1, int(self._server.ipv4.network_address), -1)
            ipv4 = next((address for number in hosts if str(address := IPv4Address(number)) not in taken), None)
            if ipv4 is None:
                raise ProvisioningError(f"the range {self._server.ipv4} has no free address for another device")
        # At random among as many as the prefix leaves, 64 bits of them at most; the daemon gives out the first ones.
        count = min(1 << 64, self._server.ipv6.num_addresses)
        return ipv4, self._server.ipv6[count // 2 + secrets.randbelow(count // 2)]

    def _rows(self) -> list[dict[str, str]]:
        try:
            text = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{self._path} cannot be read: {error}") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        if reader.fieldnames is None or set(reader.fieldnames) != set(COLUMNS):
            raise SettingsError(
                f"{self._path} is not a list that this command wrote", "name another file: --devices FILE"
            )
        return [{name: row[name] or "" for name in COLUMNS} for row in reader]

    def _write(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        scratch = self._path.with_name(f".{self._path.name}.new")
        try:
            scratch.write_text(text.getvalue(), encoding="utf-8")
            os.replace(scratch, self._path)
        except OSError as error:
            raise SettingsError(f"{self._path} cannot be written: {error.strerror}") from None
