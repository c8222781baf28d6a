"""Lists of boards to flash."""

from pathlib import Path

import pytest

from lopower_provisioning import plan
from lopower_provisioning.errors import SettingsError


def read(tmp_path: Path, text: str) -> list[plan.Line]:
    path = tmp_path / "plan.csv"
    path.write_text(text, encoding="utf-8")
    return plan.read(path)


def test_all_columns_and_none(tmp_path: Path) -> None:
    lines = read(
        tmp_path,
        "\ufeffName,port,mac,wifi,board,image,main\r\n"
        'kitchen,/dev/ttyUSB0,,"Home; Guests",ESP32_GENERIC,,app\r\n'
        "\r\n"
        ",,24-0A-C4-00-00-01,,,images/one.bin,\r\n",
    )
    assert lines[0] == plan.Line(
        "kitchen", "/dev/ttyUSB0", None, ("Home", "Guests"), "ESP32_GENERIC", None, tmp_path / "app"
    )
    assert lines[1] == plan.Line(None, None, "24:0a:c4:00:00:01", (), None, tmp_path / "images/one.bin", None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no boards"),
        ("name,port\n", "holds no boards"),
        ("name,colour\na,b\n", "unknown column 'colour'"),
        ("port,port\na,b\n", "named twice"),
        ("name,port\na\n", "line 2: 1 fields, but 2 columns"),
        ("name,port,mac\na,,\n", "line 2: a board needs either"),
        ("name,port,mac\na,COM3,24:0a:c4:00:00:01\n", "line 2: a board needs either"),
        ("name,port\na,COM3\na,COM4\n", "two boards with the name 'a'"),
        ("name,port\na,COM3\nb,COM3\n", "two boards with the port 'COM3'"),
        ('name,port\n"a,COM3\n', "line"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        read(tmp_path, text)


def test_too_many_and_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="more than 256"):
        read(tmp_path, "port\n" + "\n".join(f"COM{number}" for number in range(257)))
    with pytest.raises(SettingsError, match="cannot be read"):
        plan.read(tmp_path / "none")
