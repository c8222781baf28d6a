"""Saved Wi-Fi networks, and passwords that are given."""

import io
import stat
import sys
from pathlib import Path

import pytest

from lopower_provisioning import wifi_store
from lopower_provisioning.errors import SettingsError
from lopower_provisioning.settings_file import StaticAddress, Wifi

HOME, GUESTS = Wifi("Home", "correct horse"), Wifi("Guests")


def test_saved_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "lopower" / "wifi.json"
    assert wifi_store.load(path) == []
    wifi_store.save(path, [HOME])
    wifi_store.save(path, [GUESTS])
    wifi_store.save(path, [Wifi("Home", "another horse")])
    assert wifi_store.load(path) == [Wifi("Home", "another horse"), GUESTS]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["wifi.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"networks": 1}', '{"networks": [{"ssid": "a"}]}', "\x00"])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wifi.json"
    path.write_text(content)
    with pytest.raises(SettingsError):
        wifi_store.load(path)


def test_where_passwords_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beats the variable; an empty one is one network without a password."""
    file = tmp_path / "passwords"
    file.write_text("one\r\n\ntwo")
    environ = {"LOPOWER_WIFI_PASSWORD": "of the variable"}
    assert wifi_store.given_passwords(str(file), environ) == ["one", "", "two"]
    assert wifi_store.given_passwords(None, environ) == ["of the variable"]
    assert wifi_store.given_passwords(None, {"LOPOWER_WIFI_PASSWORD": ""}) == [""]
    assert wifi_store.given_passwords(None, {}) is None
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed\n"))
    assert wifi_store.given_passwords("-", environ) == ["typed"]
    with pytest.raises(SettingsError, match="cannot be read"):
        wifi_store.given_passwords(str(tmp_path / "none"), {})


def test_which_networks() -> None:
    saved = [HOME, GUESTS]
    static = StaticAddress.parse("192.168.1.50/24,192.168.1.1")
    assert wifi_store.named([], None, saved, None) == (saved, [])
    assert wifi_store.named(["Guests", "New"], None, saved, static) == ([Wifi("Guests", "", static)], ["New"])
    assert wifi_store.named(["New"], ["long enough"], saved, None) == ([Wifi("New", "long enough")], [])
    with pytest.raises(SettingsError, match="2 Wi-Fi passwords for 1"):
        wifi_store.named(["New"], ["long enough", "another one"], saved, None)
    with pytest.raises(SettingsError, match="no network that it is for"):
        wifi_store.named([], ["long enough"], saved, None)


def test_fixed_addresses() -> None:
    assert StaticAddress.parse("10.0.0.9/8, 10.0.0.1, 9.9.9.9") == StaticAddress(
        "10.0.0.9", "255.0.0.0", "10.0.0.1", "9.9.9.9"
    )
    for text in ("10.0.0.9", "10.0.0.9/8", "10.0.0.9,10.0.0.1", "10.0.0.9/8,gateway", "10.0.0.9/8,10.0.0.1,1,2"):
        with pytest.raises(SettingsError, match="not a fixed address"):
            StaticAddress.parse(text)
    with pytest.raises(SettingsError, match="is not in the network"):
        StaticAddress.parse("10.0.0.9/24,10.0.1.1")
