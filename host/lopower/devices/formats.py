"""The texts of a configuration: wg-quick's and the phone apps' conf, JSON, ESPHome's YAML, Arduino's C++."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from lopower.devices.errors import ConfigurationUnavailable

if TYPE_CHECKING:
    from lopower.devices.configurations import Configuration, ServerEndpoint


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
    """ESPHome's `wireguard` component: IPv4 only.

    Raises:
        ConfigurationUnavailable: the device has no IPv4.
    """
    address, network = _ipv4(configuration, "ESPHome's wireguard component")
    endpoint = _endpoint(configuration)
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

    Raises:
        ConfigurationUnavailable: the device has no IPv4, or a preshared key, or the server no IPv4 endpoint.
    """
    address, _ = _ipv4(configuration, "Arduino's WireGuard-ESP32 library")
    endpoint = _endpoint(configuration)
    if ":" in endpoint.host:
        raise ConfigurationUnavailable(
            f"Arduino's WireGuard-ESP32 library dials IPv4 only, and the server's endpoint is {endpoint}; "
            "give it another with `--endpoint HOST`"
        )
    if configuration.preshared_key is not None:
        raise ConfigurationUnavailable(
            f"Arduino's WireGuard-ESP32 library takes no preshared key, and {configuration.name} has one: it would "
            f"never connect. `lopower device remove {configuration.name}`, then add it again with --no-psk"
        )
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


def _ipv4(configuration: Configuration, library: str) -> tuple[IPv4Address, IPv4Network]:
    if configuration.ipv4 is None or configuration.network is None:
        raise ConfigurationUnavailable(
            f"{library} carries IPv4 only, and {configuration.name} has no IPv4 address; "
            f"`lopower device remove {configuration.name}`, then add it again with one"
        )
    return configuration.ipv4, configuration.network


def _endpoint(configuration: Configuration) -> ServerEndpoint:
    """The first that is no IPv6 address: lwIP is often built without IPv6."""
    return next(
        (endpoint for endpoint in configuration.endpoints if ":" not in endpoint.host), configuration.endpoints[0]
    )
