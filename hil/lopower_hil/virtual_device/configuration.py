"""A wg-quick configuration with one peer, as `lopower device add` prints it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)


class ConfigurationError(ValueError):
    """The configuration cannot be used; the text names the key and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfiguration:
    """One device's side of the tunnel. Keys do not appear in the repr.

    Attributes:
        endpoint: the server's host in text and UDP port.
        persistent_keepalive: seconds, or None.
        mtu: of the tunnel, bytes.
    """

    private_key: bytes = field(repr=False)
    server_public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    dns: tuple[IPv4Address | IPv6Address, ...]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]
    endpoint: tuple[str, int]
    persistent_keepalive: int | None
    mtu: int

    @classmethod
    def parse(cls, text: str) -> DeviceConfiguration:
        """Read a configuration.

        Raises:
            ConfigurationError: a key is missing or malformed.
        """
        values: dict[str, list[str]] = {}
        for raw in text.splitlines():
            line = raw.partition("#")[0].strip()
            if not line or line.startswith("["):
                continue
            key, separator, value = line.partition("=")
            if not separator:
                raise ConfigurationError(f"not a setting: {key.strip()!r}")
            values.setdefault(key.strip().lower(), []).extend(part.strip() for part in value.split(","))

        def one(key: str) -> str:
            found = values.get(key)
            if not found:
                raise ConfigurationError(f"{key} is missing")
            return found[0]

        host, _, port = one("endpoint").rpartition(":")
        try:
            return cls(
                private_key=_key(one("privatekey")),
                server_public_key=_key(one("publickey")),
                preshared_key=_key(values["presharedkey"][0]) if "presharedkey" in values else None,
                addresses=tuple(map(ip_interface, values.get("address", ()))),
                dns=tuple(
                    ip_address(server) for server in values.get("dns", ()) if server[:1].isdigit() or ":" in server
                ),
                allowed_ips=tuple(ip_network(network, strict=False) for network in values.get("allowedips", ())),
                endpoint=(host.strip("[]"), int(port)),
                persistent_keepalive=int(values["persistentkeepalive"][0]) if "persistentkeepalive" in values else None,
                mtu=int(values["mtu"][0]) if "mtu" in values else 1420,
            )
        except ConfigurationError:
            raise
        except ValueError as error:
            raise ConfigurationError(str(error)) from None


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 32:
        raise ConfigurationError("a key is not 32 bytes of base64")
    return key
