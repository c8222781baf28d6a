"""Enrolment without a daemon: what a server said of itself, and the list for it."""

import json
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from lopower.cli.server import _text
from lopower.devices.csv_import import parse_csv
from lopower_provisioning.errors import ProvisioningError, RefusedError, SettingsError
from lopower_provisioning.offline import OfflineTarget, parse_server
from tests.unit.provisioning.test_settings_file import PRIVATE, PUBLIC

SERVER = {
    "public_key": PUBLIC, "endpoints": ["192.168.1.2:51820", "[2001:db8::2]:51820"], "warning": "", "port": 51820,
    "range_ipv4": "10.90.0.0/29", "range_ipv6": "fd7a:115c:a1e0:9909::/64", "gateway_ipv4": "10.90.0.1",
    "gateway_ipv6": "fd7a:115c:a1e0:9909::1", "mtu": 1420, "allowed_ips": ["10.90.0.1/32", "100.64.0.0/10"],
    "rules": [], "search_domains": [],
}  # fmt: skip
KEY = PRIVATE


def target(path: Path) -> OfflineTarget:
    return OfflineTarget(parse_server(json.dumps(SERVER)), path)


def no(question: str, consequence: str) -> bool:
    return False


def test_text_and_json_say_the_same() -> None:
    assert parse_server(_text(SERVER)) == parse_server(json.dumps(SERVER, indent=2))
    assert parse_server(json.dumps({**SERVER, "range_ipv4": None, "gateway_ipv4": None})).ipv4 is None


@pytest.mark.parametrize("text", ["", "{}", "[1", "public key  x", json.dumps({**SERVER, "mtu": None})])
def test_something_else(text: str) -> None:
    with pytest.raises(SettingsError, match="not what"):
        parse_server(text)


def test_a_server_without_an_endpoint() -> None:
    with pytest.raises(SettingsError, match="at which address"):
        parse_server(json.dumps({**SERVER, "endpoints": []}))


def test_the_list_is_one_that_the_server_takes(tmp_path: Path) -> None:
    """Addresses of their own, from the end of the range; what is taken back is not in it."""
    path = tmp_path / "devices.csv"
    first = target(path).enrol("one", "24:0a:c4:00:00:01", PUBLIC)
    other = target(path)
    other.enrol("two", "24:0a:c4:00:00:02", KEY)
    other.take_back()
    target(path).enrol("three", "24:0a:c4:00:00:03", KEY)
    devices = [entry.device for entry in parse_csv(path.read_text())]
    assert [(device.name, str(device.ipv4)) for device in devices] == [("one", "10.90.0.6"), ("three", "10.90.0.5")]
    assert all(device.preshared_key is None for device in devices)
    assert first.addresses == ["10.90.0.6", str(devices[0].ipv6)]
    assert isinstance(devices[0].ipv6, IPv6Address)
    assert devices[0].ipv6 in IPv6Network("fd7a:115c:a1e0:9909::/64")
    assert {"10.90.0.6/32", "100.64.0.0/10"} <= set(first.proxy["allowed_ips"])
    assert first.proxy["dns"] == ["10.90.0.1", "fd7a:115c:a1e0:9909::1"]


def test_the_same_board_again_and_the_name_of_another(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    target(path).enrol("one", "24:0a:c4:00:00:01", PUBLIC)
    target(path).prepare("one", True, no)
    target(path).enrol("one", "24:0a:c4:00:00:01", KEY)
    assert len(parse_csv(path.read_text())) == 1
    with pytest.raises(RefusedError, match="has a device one already"):
        target(path).prepare("one", False, no)
    target(path).prepare("one", False, lambda question, consequence: True)


def test_a_range_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    for number in range(5):
        target(path).enrol(f"d{number}", f"24:0a:c4:00:00:0{number}", KEY)
    with pytest.raises(ProvisioningError, match="no free address"):
        target(path).enrol("d5", "24:0a:c4:00:00:05", KEY)


def test_a_list_of_another_make(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("name,allow\nkitchen,lan\n")
    with pytest.raises(SettingsError, match="not a list that this command wrote"):
        target(path).prepare("one", False, no)
    assert path.read_text() == "name,allow\nkitchen,lan\n"
