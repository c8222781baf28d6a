"""The configuration that a virtual device is made from."""

from __future__ import annotations

import base64
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from lopower_hil.virtual_device import ConfigurationError, DeviceConfiguration

PRIVATE, PUBLIC, SHARED = (bytes([number]) * 32 for number in (1, 2, 3))
WHOLE = f"""
# lopower: device kitchen
[Interface]
PrivateKey = {base64.b64encode(PRIVATE).decode()}
Address = 10.90.0.2/32, fd7a:115c:a1e0:9909::2/128
DNS = 10.90.0.1, fd7a:115c:a1e0:9909::1, home.example
MTU = 1380

[Peer]
PublicKey = {base64.b64encode(PUBLIC).decode()}
PresharedKey = {base64.b64encode(SHARED).decode()}
Endpoint = [2001:db8::1]:51820
AllowedIPs = 10.90.0.1/32, ::/0
PersistentKeepalive = 25
"""


def test_everything_that_device_add_prints_is_understood() -> None:
    parsed = DeviceConfiguration.parse(WHOLE)
    assert parsed == DeviceConfiguration(
        private_key=PRIVATE,
        server_public_key=PUBLIC,
        preshared_key=SHARED,
        addresses=(ip_interface("10.90.0.2/32"), ip_interface("fd7a:115c:a1e0:9909::2/128")),
        dns=(ip_address("10.90.0.1"), ip_address("fd7a:115c:a1e0:9909::1")),
        allowed_ips=(ip_network("10.90.0.1/32"), ip_network("::/0")),
        endpoint=("2001:db8::1", 51820),
        persistent_keepalive=25,
        mtu=1380,
    )


def test_what_may_be_missing() -> None:
    kept = [
        line for line in WHOLE.splitlines() if line.split(" ")[0] not in ("PresharedKey", "MTU", "PersistentKeepalive")
    ]
    parsed = DeviceConfiguration.parse("\n".join(kept))
    assert (parsed.preshared_key, parsed.mtu, parsed.persistent_keepalive) == (None, 1420, None)


def test_keys_are_not_in_the_repr() -> None:
    shown = repr(DeviceConfiguration.parse(WHOLE))
    for key in (PRIVATE, SHARED):
        assert repr(key) not in shown
        assert base64.b64encode(key).decode() not in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("PrivateKey = AAAA", "32 bytes"),
        ("PrivateKey = !", "32 bytes"),
        ("Address = 10.90.0.300/32", "10.90.0.300"),
        ("Endpoint = example.org:port", "port"),
        ("Endpoint", "not a setting"),
    ],
)
def test_what_is_wrong_is_said(line: str, said: str) -> None:
    key = line.split(" ")[0]
    broken = "\n".join(line if old.split(" ")[0] == key else old for old in WHOLE.splitlines())
    with pytest.raises(ConfigurationError, match=said):
        DeviceConfiguration.parse(broken)


@pytest.mark.parametrize("key", ["PrivateKey", "PublicKey", "Endpoint"])
def test_what_is_missing_is_named(key: str) -> None:
    broken = "\n".join(line for line in WHOLE.splitlines() if line.split(" ")[0] != key)
    with pytest.raises(ConfigurationError, match=key.lower()):
        DeviceConfiguration.parse(broken)
