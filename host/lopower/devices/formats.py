"""The texts of a configuration: wg-quick's and the phone apps' conf, JSON, ESPHome's YAML, Arduino's C++."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from lopower.devices.errors import ConfigurationUnavailable

if TYPE_CHECKING:
    from lopower.devices.addresses import IPAddress, IPNetwork
    from lopower.devices.server_facts import ServerEndpoint

_LIBRARIES: Final = {"esphome": "ESPHome's wireguard component", "arduino": "Arduino's WireGuard-ESP32 library"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All that a configuration holds but the private key, the same for all formats. Keys are not in the repr.

    Attributes:
        name: the device's.
        preshared_key: in base64, or None; `server_public_key` likewise.
        addresses: the device's, IPv4 first.
        dns: the gateway's addresses, of the families the device has.
        endpoints: as `ServerFacts`.
        persistent_keepalive: seconds; 0: none.
        network: the range its IPv4 address is from, or None.
    """

    name: str
    server_public_key: str
    preshared_key: str | None = field(repr=False)
    addresses: tuple[IPAddress, ...]
    dns: tuple[IPAddress, ...]
    search_domain: str | None
    mtu: int
    endpoints: tuple[ServerEndpoint, ...]
    persistent_keepalive: int
    allowed_ips: tuple[IPNetwork, ...]
    full_tunnel: bool
    network: IPv4Network | None

    @property
    def ipv4(self) -> IPv4Address | None:
        """Its IPv4 address."""
        first = self.addresses[0]
        return first if isinstance(first, IPv4Address) else None


def conf(configuration: Configuration, private_key: str, *, compact: bool = False) -> str:
    """The format of wg-quick(8) and of WireGuard's apps.

    Args:
        compact: without comments and blanks that a QR code would have to carry.
    """
    equals, comma = ("=", ",") if compact else (" = ", ", ")
    lines = []
    if not compact:
        lines += [
            f"# lopower: device {configuration.name}",
            f"# server {configuration.server_public_key} at {', '.join(map(str, configuration.endpoints))}",
        ]
    dns = [*map(str, configuration.dns)] + ([configuration.search_domain] if configuration.search_domain else [])
    lines += [
        "[Interface]",
        f"PrivateKey{equals}{private_key}",
        f"Address{equals}{comma.join(f'{address}/{address.max_prefixlen}' for address in configuration.addresses)}",
        f"DNS{equals}{comma.join(dns)}",
        f"MTU{equals}{configuration.mtu}",
    ]
    if not compact:
        lines.append("")
    lines += ["[Peer]", f"PublicKey{equals}{configuration.server_public_key}"]
    if configuration.preshared_key is not None:
        lines.append(f"PresharedKey{equals}{configuration.preshared_key}")
    lines += [
        f"Endpoint{equals}{configuration.endpoints[0]}",
        f"AllowedIPs{equals}{comma.join(map(str, configuration.allowed_ips))}",
    ]
    if configuration.persistent_keepalive:
        lines.append(f"PersistentKeepalive{equals}{configuration.persistent_keepalive}")
    return "\n".join(lines) + "\n"


def as_json(configuration: Configuration, private_key: str | None) -> str:
    """For programs: all values, and all endpoints; an unknown private key is null."""
    content = {
        "name": configuration.name,
        "private_key": private_key,
        "addresses": [f"{address}/{address.max_prefixlen}" for address in configuration.addresses],
        "dns": [str(address) for address in configuration.dns],
        "search_domain": configuration.search_domain,
        "mtu": configuration.mtu,
        "server": {
            "public_key": configuration.server_public_key,
            "preshared_key": configuration.preshared_key,
            "endpoints": [str(endpoint) for endpoint in configuration.endpoints],
            "allowed_ips": [str(network) for network in configuration.allowed_ips],
            "persistent_keepalive": configuration.persistent_keepalive,
        },
    }
    return json.dumps(content, indent=2) + "\n"


def esphome(configuration: Configuration, private_key: str) -> str:
    """ESPHome's `wireguard` component: IPv4 only, which `check_ipv4` has seen to."""
    address, network = _ipv4(configuration)
    endpoint = _endpoint(configuration.endpoints)
    # lwIP sends into the tunnel what lies in the interface's network; the component has no other routes.
    netmask = IPv4Address(0) if configuration.full_tunnel else network.netmask
    allowed = [entry for entry in configuration.allowed_ips if isinstance(entry, IPv4Network)]
    lines = [
        f"# lopower: device {configuration.name}, for ESPHome. Its wireguard component carries IPv4 only.",
        "# It connects once the clock is set, so there must be a time component that works without the tunnel,",
        "# for example `platform: sntp`.",
        "wireguard:",
        f"  address: {address}",
        f"  netmask: {netmask}",
        f'  private_key: "{private_key}"',
        f'  peer_endpoint: "{endpoint.host}"',
        f"  peer_port: {endpoint.port}",
        f'  peer_public_key: "{configuration.server_public_key}"',
    ]
    if configuration.preshared_key is not None:
        lines.append(f'  peer_preshared_key: "{configuration.preshared_key}"')
    lines += ["  peer_allowed_ips:", *(f"    - {entry}" for entry in allowed)]
    if configuration.persistent_keepalive:
        lines.append(f"  peer_persistent_keepalive: {configuration.persistent_keepalive}s")
    if not configuration.full_tunnel and any(not entry.subnet_of(network) for entry in allowed):
        lines += [
            f"# The netmask sends {network} through the tunnel, and nothing else. To open connections to the other",
            "# networks above, write `netmask: 0.0.0.0`; then the device reaches only what is listed above.",
        ]
    return "\n".join(lines) + "\n"


def arduino(configuration: Configuration, private_key: str) -> str:
    """Arduino's WireGuard-ESP32 library: IPv4 only, no preshared key, all traffic through the tunnel.

    What it cannot do `check_ipv4` and `check_arduino` have refused.
    """
    address, _ = _ipv4(configuration)
    endpoint = _endpoint(configuration.endpoints)
    return "\n".join(
        (
            f"// lopower: device {configuration.name}, for Arduino's WireGuard-ESP32 library, which carries IPv4 only.",
            "// The library takes no preshared key, so this device has none. It sends everything but the local network",
            "// through the tunnel, whatever the server permits. Set the clock first (configTime), then begin.",
            "#include <WireGuard-ESP32.h>",
            "",
            f"static const IPAddress LOPOWER_ADDRESS({str(address).replace('.', ', ')});",
            f'static const char LOPOWER_PRIVATE_KEY[] = "{private_key}";',
            f'static const char LOPOWER_SERVER[] = "{endpoint.host}";',
            f'static const char LOPOWER_SERVER_PUBLIC_KEY[] = "{configuration.server_public_key}";',
            f"static const uint16_t LOPOWER_SERVER_PORT = {endpoint.port};",
            "static WireGuard lopower;",
            "",
            "static inline bool lopower_begin() {",
            "  return lopower.begin(LOPOWER_ADDRESS, LOPOWER_PRIVATE_KEY, LOPOWER_SERVER, LOPOWER_SERVER_PUBLIC_KEY,",
            "                       LOPOWER_SERVER_PORT);",
            "}",
            "",
        )
    )


def check_ipv4(format: str, name: str, has_ipv4: bool) -> None:
    """Refuse a format for IPv4 alone to a device without.

    Raises:
        ConfigurationUnavailable
    """
    if not has_ipv4:
        raise ConfigurationUnavailable(
            f"{_LIBRARIES[format]} carries IPv4 only, and {name} has no IPv4 address; add it with one, "
            "or choose another format"
        )


def check_arduino(name: str, has_preshared_key: bool, endpoints: Sequence[ServerEndpoint]) -> None:
    """Refuse a configuration that could never connect.

    Raises:
        ConfigurationUnavailable
    """
    library = _LIBRARIES["arduino"]
    if has_preshared_key:
        raise ConfigurationUnavailable(
            f"{library} takes no preshared key, and {name} has one, so it would never connect; "
            "add the device with --no-psk"
        )
    if endpoints and ":" in _endpoint(endpoints).host:
        raise ConfigurationUnavailable(
            f"{library} dials IPv4 only, and the server's endpoint is {endpoints[0]}; "
            "give it another with `--endpoint HOST`"
        )


def _ipv4(configuration: Configuration) -> tuple[IPv4Address, IPv4Network]:
    assert configuration.ipv4 is not None
    assert configuration.network is not None
    return configuration.ipv4, configuration.network


def _endpoint(endpoints: Sequence[ServerEndpoint]) -> ServerEndpoint:
    """The first that is no IPv6 address: lwIP is often built without IPv6."""
    return next((endpoint for endpoint in endpoints if ":" not in endpoint.host), endpoints[0])
