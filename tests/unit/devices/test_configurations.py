"""What a configuration says, in each format, and when it is outdated."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from lopower.devices.addresses import Ranges
from lopower.devices.configurations import (
    FORMATS,
    Format,
    check_format,
    configuration_of,
    digest,
    png,
    qr,
    render,
)
from lopower.devices.errors import ConfigurationUnavailable
from lopower.devices.keys import format_key
from lopower.devices.server_facts import ServerEndpoint
from lopower_hil.virtual_device.configuration import DeviceConfiguration
from tests.support.registries import SERVER_PUBLIC_KEY, device, new_device, parse, server_facts

PRIVATE = bytes(range(1, 33))
PRESHARED = bytes(range(101, 133))


def test_conf() -> None:
    own = device("kitchen", 2, preshared_key=PRESHARED)
    server = server_facts(search_domain="example.ts.net", endpoints=[ServerEndpoint("2001:db8::7", 443)])
    assert render(own, server, "conf", PRIVATE) == (
        "# lopower: device kitchen\n"
        f"# server {format_key(SERVER_PUBLIC_KEY)} at [2001:db8::7]:443\n"
        "[Interface]\n"
        f"PrivateKey = {format_key(PRIVATE)}\n"
        "Address = 10.90.0.2/32, fd7a:115c:a1e0:9909::2/128\n"
        "DNS = 10.90.0.1, fd7a:115c:a1e0:9909::1, example.ts.net\n"
        "MTU = 1420\n"
        "\n"
        "[Peer]\n"
        f"PublicKey = {format_key(SERVER_PUBLIC_KEY)}\n"
        f"PresharedKey = {format_key(PRESHARED)}\n"
        "Endpoint = [2001:db8::7]:443\n"
        "AllowedIPs = 10.90.0.1/32, 10.90.0.2/32, fd7a:115c:a1e0:9909::1/128, fd7a:115c:a1e0:9909::2/128\n"
        "PersistentKeepalive = 25\n"
    )


def test_conf_is_what_the_virtual_device_reads() -> None:
    own = device("kitchen", 2, "internet", preshared_key=PRESHARED, mtu=1280, persistent_keepalive=0)
    read = DeviceConfiguration.parse(render(own, server_facts(), "conf", PRIVATE))
    assert (read.private_key, read.preshared_key) == (PRIVATE, PRESHARED)
    assert (read.mtu, read.persistent_keepalive) == (1280, None)
    assert read.allowed_ips == configuration_of(own, server_facts()).allowed_ips


def test_an_unknown_private_key_is_a_placeholder() -> None:
    own = device("kitchen", 2)
    for format in FORMATS:
        text = render(own, server_facts(), format)
        assert "<private key of kitchen>" in text or json.loads(text)["private_key"] is None


def test_a_device_without_ipv4() -> None:
    own = device("kitchen", 2, ipv4=None)
    text = render(own, server_facts(), "conf", PRIVATE)
    assert "Address = fd7a:115c:a1e0:9909::2/128\nDNS = fd7a:115c:a1e0:9909::1\n" in text
    assert "10.90" not in text


def test_json() -> None:
    own = device("kitchen", 2, preshared_key=PRESHARED)
    endpoints = [ServerEndpoint("vpn.example.org", 51820), ServerEndpoint("192.0.2.1", 51820)]
    content = json.loads(render(own, server_facts(endpoints=endpoints), "json", PRIVATE))
    assert content == {
        "name": "kitchen",
        "private_key": format_key(PRIVATE),
        "addresses": ["10.90.0.2/32", "fd7a:115c:a1e0:9909::2/128"],
        "dns": ["10.90.0.1", "fd7a:115c:a1e0:9909::1"],
        "search_domain": None,
        "mtu": 1420,
        "server": {
            "public_key": format_key(SERVER_PUBLIC_KEY),
            "preshared_key": format_key(PRESHARED),
            "endpoints": ["vpn.example.org:51820", "192.0.2.1:51820"],
            "allowed_ips": list(map(str, configuration_of(own, server_facts()).allowed_ips)),
            "persistent_keepalive": 25,
        },
    }


def test_esphome() -> None:
    own = device("kitchen", 2, preshared_key=PRESHARED)
    endpoints = [ServerEndpoint("2001:db8::7", 51820), ServerEndpoint("192.0.2.1", 51821)]
    text = render(own, server_facts(endpoints=endpoints), "esphome", PRIVATE)
    assert [line for line in text.splitlines() if not line.startswith("#")] == [
        "wireguard:",
        "  address: 10.90.0.2",
        "  netmask: 255.255.255.0",
        f'  private_key: "{format_key(PRIVATE)}"',
        '  peer_endpoint: "192.0.2.1"',
        "  peer_port: 51821",
        f'  peer_public_key: "{format_key(SERVER_PUBLIC_KEY)}"',
        f'  peer_preshared_key: "{format_key(PRESHARED)}"',
        "  peer_allowed_ips:",
        "    - 10.90.0.1/32",
        "    - 10.90.0.2/32",
        "  peer_persistent_keepalive: 25s",
    ]


def test_esphome_says_what_its_netmask_keeps_out() -> None:
    text = render(device("kitchen", 2, "192.168.7.0/24"), server_facts(), "esphome", PRIVATE)
    assert "- 192.168.7.0/24" in text
    assert "write `netmask: 0.0.0.0`" in text
    text = render(device("kitchen", 2, full_tunnel=True), server_facts(), "esphome", PRIVATE)
    assert "netmask: 0.0.0.0\n" in text
    assert "write" not in text


def test_arduino() -> None:
    text = render(device("kitchen", 2), server_facts(), "arduino", PRIVATE)
    assert "LOPOWER_ADDRESS(10, 90, 0, 2);" in text
    assert f'LOPOWER_PRIVATE_KEY[] = "{format_key(PRIVATE)}";' in text
    assert 'LOPOWER_SERVER[] = "vpn.example.org";' in text
    assert f'LOPOWER_SERVER_PUBLIC_KEY[] = "{format_key(SERVER_PUBLIC_KEY)}";' in text
    assert "LOPOWER_SERVER_PORT = 51820;" in text
    assert "takes no preshared key" in text
    assert "fd7a" not in text


@pytest.mark.parametrize(
    ("format", "values", "facts", "hint"),
    [
        ("arduino", {"preshared_key": PRESHARED}, {}, "takes no preshared key.*--no-psk"),
        ("arduino", {"preshared_key": None, "ipv4": None}, {}, "carries IPv4 only"),
        ("esphome", {"ipv4": None}, {}, "ESPHome's wireguard component carries IPv4 only, and kitchen has no IPv4"),
        ("esphome", {}, {"ranges": Ranges(ipv4=None)}, "carries IPv4 only"),
        ("arduino", {"preshared_key": None}, {"endpoints": [ServerEndpoint("2001:db8::7", 1)]}, "dials IPv4 only"),
    ],
)
def test_a_format_that_cannot_work_is_refused_before_the_device_is_added(
    format: Format, values: dict[str, Any], facts: dict[str, Any], hint: str
) -> None:
    with pytest.raises(ConfigurationUnavailable, match=hint):
        check_format(new_device("kitchen", **values), server_facts(**facts), format)
    with pytest.raises(ConfigurationUnavailable, match=hint):
        render(device("kitchen", 2, **values), server_facts(**facts), format)


def test_without_an_endpoint_there_is_no_configuration() -> None:
    with pytest.raises(ConfigurationUnavailable, match="--endpoint HOST"):
        render(device("kitchen", 2), server_facts(endpoints=[]), "conf", PRIVATE)


def test_a_digest_changes_with_what_a_configuration_says_and_with_nothing_else() -> None:
    own = device("kitchen", 2, "lan", preshared_key=PRESHARED)
    phone = device("phone", 3)
    server = server_facts([own, phone], lan=[IPv4Network("192.168.1.0/24")])
    now = digest(own, server)
    same = [
        (replace(own, name="cellar", enabled=False, last_timestamp=bytes(12), configuration_digest=now), server),
        (own, replace(server, endpoints=[*server.endpoints, ServerEndpoint("192.0.2.1", 1)])),
        (own, replace(server, devices=[own, phone, device("other", 4)])),
        (replace(own, rules=parse("lan:80")), server),
    ]
    assert {digest(*pair) for pair in same} == {now}
    different = [
        (replace(own, rules=()), server),
        (replace(own, full_tunnel=True), server),
        (replace(own, mtu=1280), server),
        (replace(own, persistent_keepalive=0), server),
        (replace(own, preshared_key=None), server),
        (own, replace(server, public_key=bytes(range(32)))),
        (own, replace(server, endpoints=[ServerEndpoint("192.0.2.1", 1)])),
        (own, replace(server, lan=[IPv4Network("192.168.2.0/24")])),
        (own, replace(server, mtu=1400)),
        (own, replace(server, search_domain="example.ts.net")),
        (own, replace(server, rules=parse("internet"))),
        (own, replace(server, devices=[own, replace(phone, rules=parse("device:kitchen"))])),
    ]
    digests = [digest(*pair) for pair in different]
    assert now not in digests
    assert len(set(digests)) == len(different)


def test_keys_are_not_in_the_repr() -> None:
    configuration = configuration_of(device("kitchen", 2, preshared_key=PRESHARED), server_facts())
    assert format_key(PRESHARED) not in repr(configuration)


def test_codes_are_black_on_white_with_a_quiet_zone() -> None:
    code = qr(device("kitchen", 2), server_facts(), PRIVATE)
    lines = code.splitlines()
    assert all(line.startswith("\x1b[38;2;0;0;0;48;2;255;255;255m") and line.endswith("\x1b[0m") for line in lines)
    bare = [line.removeprefix("\x1b[38;2;0;0;0;48;2;255;255;255m").removesuffix("\x1b[0m") for line in lines]
    assert len({len(line) for line in bare}) == 1
    assert all(line.startswith("    ") and line.endswith("    ") for line in bare)
    assert not any(line.strip() for line in (*bare[:2], *bare[-2:]))


def test_what_is_too_large_for_a_code_is_refused_with_a_way_out() -> None:
    rules = [f"172.{16 + number // 128}.{number % 128 * 2}.0/24" for number in range(250)]
    own = device("kitchen", 2, *rules)
    for draw in (qr, png):
        with pytest.raises(ConfigurationUnavailable, match="too large for a QR code; use `--format conf`"):
            draw(own, server_facts(), PRIVATE)
