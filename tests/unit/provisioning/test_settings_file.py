"""lopower.json from a configuration in wg-quick's format."""

import base64
import json
import traceback

import pytest

from lopower_provisioning.errors import SettingsError
from lopower_provisioning.settings_file import Wifi, from_conf

PRIVATE = base64.b64encode(bytes(range(32))).decode()
PUBLIC = base64.b64encode(bytes(range(32, 64))).decode()
PRESHARED = base64.b64encode(bytes(range(64, 96))).decode()
CONF = f"""# lopower: device kitchen
[Interface]
PrivateKey = {PRIVATE}
Address = fd7a:115c:a1e0:9909::5/128, 10.90.0.5/32
DNS = fd7a:115c:a1e0:9909::1, 10.90.0.1, example.ts.net
MTU = 1420

[Peer]
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
Endpoint = 192.168.1.2:51820
AllowedIPs = fd7a:115c:a1e0::/48, 10.90.0.0/24, 100.64.0.0/10
PersistentKeepalive = 25
"""


def test_all_that_the_device_reads() -> None:
    text = from_conf(CONF, wifi=[Wifi("Home", "correct horse"), Wifi("Guests")], written=1_700_000_000, hostname="k")
    assert json.loads(text) == {
        "private_key": PRIVATE,
        "hostname": "k",
        "written": 1_700_000_000,
        "wifi": [
            {"ssid": "Home", "password": "correct horse", "priority": 2},
            {"ssid": "Guests", "password": None, "priority": 1},
        ],
        "proxies": [
            {
                "public_key": PUBLIC,
                "preshared_key": PRESHARED,
                "addresses": ["fd7a:115c:a1e0:9909::5", "10.90.0.5"],
                "dns": ["fd7a:115c:a1e0:9909::1", "10.90.0.1"],
                "endpoints": ["192.168.1.2:51820"],
                "allowed_ips": ["fd7a:115c:a1e0::/48", "10.90.0.0/24", "100.64.0.0/10"],
                "mtu": 1420,
                "persistent_keepalive": 25,
            }
        ],
    }


def test_what_may_be_missing_and_how_it_may_be_written() -> None:
    text = (
        f"\ufeff[interface]\r\nprivatekey={PRIVATE}\r\naddress=10.90.0.5\r\naddress=fd00::5\r\n[PEER]\r\n"
        f"publickey={PUBLIC} # the proxy\r\nendpoint=proxy.lan:51820\r\npersistentkeepalive=off\r\n"
    )
    proxy = json.loads(from_conf(text, wifi=[], written=0))["proxies"][0]
    assert proxy["addresses"] == ["10.90.0.5", "fd00::5"]
    assert (proxy["dns"], proxy["mtu"], proxy["persistent_keepalive"]) == ([], 1420, 0)
    assert "preshared_key" not in proxy


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (f"PrivateKey = {PRIVATE}\n", "", "PrivateKey is missing"),
        (f"PrivateKey = {PRIVATE}", f"PrivateKey = {PRIVATE[:-4]}", "PrivateKey must be 32 bytes"),
        (f"PresharedKey = {PRESHARED}", f"PresharedKey = {PRESHARED} {PRESHARED}", "PresharedKey must be 32 bytes"),
        ("Endpoint = 192.168.1.2:51820\n", "", "Endpoint is missing"),
        ("10.90.0.5/32", "10.90.0.500", "Address has an entry"),
        ("10.90.0.0/24", "10.90.0.0/64", "AllowedIPs has an entry"),
        ("MTU = 1420", "MTU = 9000", "MTU must be a number from 576 to 1420"),
        ("MTU = 1420", "MTU = ١٤٢٠", "MTU must be a number"),
        ("MTU = 1420", f"PostUp = {PRIVATE}", "line 6 of the configuration is not understood"),
        ("[Peer]", f"[Peer]\nPublicKey = {PUBLIC}\n[Peer]", "one section"),
        ("[Interface]\n", "", "line 2 of the configuration is not understood"),
    ],
)
def test_faults_are_named_and_keys_are_not_shown(old: str, new: str, reason: str) -> None:
    assert old in CONF
    with pytest.raises(SettingsError, match=reason) as caught:
        from_conf(CONF.replace(old, new), wifi=[], written=0)
    shown = "".join(traceback.format_exception_only(caught.value)) + str(caught.value) + repr(caught.value)
    assert PRIVATE[:20] not in shown
    assert PRESHARED[:20] not in shown


@pytest.mark.parametrize(("ssid", "password"), [("", ""), ("x" * 33, ""), ("Home", "short"), ("Home", "x" * 65)])
def test_networks_that_cannot_be(ssid: str, password: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Wifi(ssid, password)
    assert not password or password not in str(caught.value)


def test_a_password_is_not_in_the_repr() -> None:
    assert "correct horse" not in repr(Wifi("Home", "correct horse"))
