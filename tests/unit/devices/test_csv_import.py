"""Lists of devices in CSV."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from lopower.devices.csv_import import parse_csv
from lopower.devices.errors import InvalidCsv
from lopower.devices.keys import format_key, public_key_of
from tests.support.registries import key_of, parse

KEY = format_key(key_of("kitchen"))
PRESHARED = format_key(key_of("preshared"))


def test_a_name_is_enough() -> None:
    one, other = parse_csv("name\nKitchen\ncellar\n")
    assert (one.device.name, one.line, other.line) == ("kitchen", 2, 3)
    assert one.private_key is not None
    assert one.device.public_key == public_key_of(one.private_key)
    assert one.device.preshared_key is not None
    assert repr(one.private_key) not in repr(one)


def test_all_columns_in_any_order_as_a_spreadsheet_writes_them() -> None:
    text = (
        "\ufeffPublic_Key,Name,preshared_key,ipv4,ipv6,allow,deny,full_tunnel,mtu,persistent_keepalive\r\n"
        f'{KEY}, kitchen ,{PRESHARED},10.90.0.7,fd00::7,"lan; 10.0.0.1:80,443 internet",internet:25,yes,1280,0\r\n'
        "\r\n"
        ",cellar,none,none,,,,no,,\r\n"
    )
    one, other = (imported.device for imported in parse_csv(text))
    assert (one.name, one.public_key, one.preshared_key) == ("kitchen", key_of("kitchen"), key_of("preshared"))
    assert (one.ipv4, one.ipv6) == (IPv4Address("10.90.0.7"), IPv6Address("fd00::7"))
    assert one.rules == parse("lan", "10.0.0.1:80,443", "internet", "deny internet:25")
    assert (one.full_tunnel, one.mtu, one.persistent_keepalive) == (True, 1280, 0)
    assert (other.preshared_key, other.ipv4, other.ipv6, other.full_tunnel) == (None, None, "auto", False)
    assert (other.mtu, other.persistent_keepalive, other.rules) == (None, 25, ())


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "holds no devices"),
        ("name\n", "holds no devices"),
        ("kitchen\ncellar\n", "line 1: unknown column 'kitchen'; there are: name, public_key"),
        ("public_key\n", "line 1: the column 'name' is missing"),
        ("name,name\n", "line 1: a column is named twice"),
        ("name,mtu\nkitchen\n", "line 2: 1 fields, but the first line names 2"),
        ("name,mtu\n\n\nkitchen,abc\n", "line 4, column mtu: 'abc' is not a number"),
        ("name,mtu\nkitchen,\u0661\n", "line 2, column mtu"),
        ("name\na b\n", "line 2, column name: 'a b' cannot be"),
        ("name,mtu\n,1280\n", "line 2, column name"),
        ("name\nkitchen\ncellar\nKITCHEN\n", "line 4: the name 'kitchen' is in line 2 already"),
        ("name,public_key\nkitchen,abc\n", "line 2, column public_key: this is not a key"),
        ("name,ipv4\nkitchen,10.0.0.256\n", "line 2, column ipv4: '10.0.0.256' is not an IPv4 address, nor 'none'"),
        ("name,ipv6\nkitchen,none\n", "line 2, column ipv6: 'none' is not an IPv6 address"),
        ("name,allow\nkitchen,everything\n", "line 2, column allow: 'allow everything' is not a rule"),
        ("name,full_tunnel\nkitchen,maybe\n", "line 2, column full_tunnel: 'maybe' is neither yes nor no"),
        ('name\n"kitchen\n', "line 2: unexpected end of data"),
        ('name\n"kit"chen\n', "line 2: .*expected after"),
        ("name\nkit\x00chen\n", "line 2"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, hint: str) -> None:
    with pytest.raises(InvalidCsv, match=hint):
        parse_csv(text)


def test_a_secret_in_the_wrong_place_is_not_repeated() -> None:
    with pytest.raises(InvalidCsv) as caught:
        parse_csv(f"name,public_key\nkitchen,{KEY}x\n")
    assert KEY not in str(caught.value)
