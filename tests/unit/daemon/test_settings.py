"""Where settings come from, and what they may hold."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path

import pytest

from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings import BY_NAME, SETTINGS, Settings, SettingsError, changes
from lopower.daemon.settings_file import parse, template
from lopower.daemon.settings_sources import resolve

FILE = Path("/etc/lopower/lopower.toml")


def load(tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, **flags: object) -> Settings:
    file = tmp_path / "lopower.toml"
    file.write_text(text)
    return resolve(flags=flags, environ={"HOME": str(tmp_path), **(environ or {})}, config=file, is_root=False)


def test_the_table_and_the_dataclass_name_the_same_settings() -> None:
    assert [field.name for field in fields(Settings)] == ["config", *BY_NAME]


def test_names_are_mechanical() -> None:
    setting = BY_NAME["state_dir"]
    assert (setting.variable, setting.flag) == ("LOPOWER_STATE_DIR", "--state-dir")


def test_flag_beats_variable_beats_file_beats_default(tmp_path: Path) -> None:
    text, environ = "mtu = 1300\n", {"LOPOWER_MTU": "1310"}
    assert load(tmp_path).mtu == 1420
    assert load(tmp_path, text).mtu == 1300
    assert load(tmp_path, text, environ).mtu == 1310
    assert load(tmp_path, text, environ, mtu="1320").mtu == 1320


def test_a_list_is_replaced_as_a_whole(tmp_path: Path) -> None:
    text, environ = 'allow = ["lan", "internet"]', {"LOPOWER_ALLOW": "10.0.0.0/8:80,443 device:printer"}
    assert [str(rule) for rule in load(tmp_path, text).allow] == ["allow lan", "allow internet"]
    assert [str(rule) for rule in load(tmp_path, text, environ).allow] == [
        "allow 10.0.0.0/8:80,443",
        "allow device:printer",
    ]
    assert [str(rule) for rule in load(tmp_path, text, environ, allow=["lan"]).allow] == ["allow lan"]


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.state_dir == tmp_path / ".local/state/lopower"
    assert settings.socket == tmp_path / ".local/state/lopower/lopower.sock"
    assert settings.listen == HostPort("", 51820)
    assert settings.ipv4_range == IPv4Network("10.90.0.0/24")
    assert settings.ipv6 == IPv6Network("fd7a:115c:a1e0:9909::/64")
    assert settings.socket_mode == 0o600
    assert settings.https_resolver == ("https://8.8.8.8/dns-query", "https://1.1.1.1/dns-query")


def test_root_and_the_service_use_the_systems_places() -> None:
    settings = resolve(flags={}, environ={"HOME": "/nowhere"}, is_root=True)
    assert (str(settings.state_dir), str(settings.socket)) == ("/var/lib/lopower", "/run/lopower/lopower.sock")


def test_xdg_directories(tmp_path: Path) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path / "s"), "XDG_CONFIG_HOME": "relative/is/ignored"}
    assert load(tmp_path, "", environ).state_dir == tmp_path / "s/lopower"


def test_the_socket_follows_the_state_directory(tmp_path: Path) -> None:
    assert load(tmp_path, state_dir=str(tmp_path / "x")).socket == tmp_path / "x/lopower.sock"


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    assert load(tmp_path, 'state_dir = "here"').state_dir == tmp_path / "here"


def test_a_group_opens_the_socket_to_it(tmp_path: Path) -> None:
    assert load(tmp_path, control_group="lopower").socket_mode == 0o660
    assert load(tmp_path, control_mode="0660").socket_mode == 0o660
    with pytest.raises(SettingsError, match="shuts the group out"):
        load(tmp_path, control_group="lopower", control_mode="0600")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (":5000", HostPort("", 5000)),
        ("192.0.2.1:5000", HostPort("192.0.2.1", 5000)),
        ("[2001:db8::1]:5000", HostPort("2001:db8::1", 5000)),
        ("2001:db8::1", HostPort("2001:db8::1", 51820)),
        ("0.0.0.0:5000", HostPort("0.0.0.0", 5000)),
    ],
)
def test_listen(tmp_path: Path, text: str, expected: HostPort) -> None:
    assert load(tmp_path, listen=text).listen == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mtu = 100", "1280 to 9000"),
        ('mtu = "1400"', "a number without quotes"),
        ("mtu = true", "a number without quotes"),
        ("no_ipv4 = 1", "true or false, without quotes"),
        ('endpoint = "one"', "a list of texts"),
        ("endpoint = [1]", "a list with 1 in it"),
        ('endpoint = ["0.0.0.0"]', "no address that devices could dial"),
        ('endpoint = ["not a name"]', "neither an IP address nor a domain name"),
        ('endpoint = ["192.0.2.256"]', "not an IP address"),
        ("state_dir = 7", "a text in quotes"),
        ('listen = "eth0:51820"', "not an IP address of this host"),
        ('listen = ":70000"', "a port is a number from 1 to 65535"),
        ('tailnet = "zerotier"', "it is one of: host"),
        ('log_format = "xml"', "it is one of: text, json"),
        ('allow = ["10.0.0.1/8"]', "bits set behind its length"),
        ('allow = ["deny lan"]', "not a rule"),
        ('ipv4 = "100.64.0.0/16"', "tailnet's"),
        ('ipv4 = "10.90.0.0/31"', "length"),
        ('ipv6 = "10.0.0.0/8"', "neither `random` nor an IPv6 range"),
        ('dns_route = ["corp.example"]', "SUFFIX=ADDRESS"),
        ('dns_route = ["a.example=192.0.2.1", "a.example=192.0.2.2"]', "two routes"),
        ('https_resolver = ["https://dns.google/dns-query"]', "with an IP address"),
        ('control_mode = "0666"', "it is one of: 0600, 0660"),
        ('control_group = "a b"', "not the name of a group"),
        ('source_address = ["::"]', "no address to send from"),
        ('trusted_sources = ["203.0.113.7/24"]', "no address or network, such as 203.0.113.7"),
        ('without = ["tcp"]', "it is one of: gro, gso, pktinfo, epoll"),
        ('search_domain = ["-x"]', "domain name"),
    ],
)
def test_bad_values_name_file_line_and_what_is_permitted(tmp_path: Path, line: str, said: str) -> None:
    name = line.split()[0]
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, f"# a comment\n\n{line}\n")
    message = str(caught.value)
    assert said in message
    if "two routes" not in said:
        assert message.startswith(f"{tmp_path}/lopower.toml:3: {name}: ")


def test_bad_flags_and_variables_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^--mtu: "):
        load(tmp_path, mtu="0")
    with pytest.raises(SettingsError, match=r"^LOPOWER_MTU: "):
        load(tmp_path, environ={"LOPOWER_MTU": "much"})


def test_unknown_keys_are_errors_with_a_guess() -> None:
    with pytest.raises(
        SettingsError, match=r"lopower.toml:2: statedir: there is no such setting; did you mean state_dir"
    ):
        parse('mtu = 1400\nstatedir = "/x"\n', FILE)
    with pytest.raises(SettingsError, match=r"lopower.toml:1: zzz: there is no such setting; there are: state_dir,"):
        parse("[zzz]\nmtu = 1400\n", FILE)


def test_broken_toml_names_line_and_column() -> None:
    with pytest.raises(SettingsError, match=r"lopower.toml:2:7: not valid TOML"):
        parse("mtu = 1400\nmtu = \n", FILE)


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lopower config init"):
        resolve(flags={}, environ={"HOME": str(tmp_path)}, config=tmp_path / "none.toml")
    assert resolve(flags={}, environ={"HOME": str(tmp_path)}, is_root=False).config is None


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "lopower.toml"
    file.write_bytes(b"mtu = 1400\n\xff\n")
    with pytest.raises(SettingsError, match=":2: not UTF-8"):
        resolve(flags={}, environ={"HOME": str(tmp_path)}, config=file)
    with pytest.raises(SettingsError, match="cannot be read"):
        resolve(flags={}, environ={"HOME": str(tmp_path)}, config=tmp_path)


def test_the_commented_file_holds_every_setting_and_is_valid_with_all_of_them_on(tmp_path: Path) -> None:
    text = template()
    assert parse(text, FILE) == {}
    uncommented = "\n".join(
        line[1:] if any(line.startswith(f"#{setting.name} = ") for setting in SETTINGS) else line
        for line in text.splitlines()
    )
    assert set(parse(uncommented, FILE)) == set(BY_NAME)
    assert load(tmp_path, uncommented).source_address == (ip_address("192.168.1.2"),)


def test_trusted_sources_are_addresses_and_networks(tmp_path: Path) -> None:
    settings = load(tmp_path, environ={"LOPOWER_TRUSTED_SOURCES": "203.0.113.7 192.168.0.0/16 2001:db8::/32"})
    assert list(map(str, settings.trusted_sources)) == ["203.0.113.7/32", "192.168.0.0/16", "2001:db8::/32"]
    assert changes(load(tmp_path), settings) == (["trusted_sources"], [])


def test_a_socket_path_that_the_kernel_does_not_take(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="choose a shorter one with --socket"):
        load(tmp_path, state_dir="/" + "d" * 120)


def test_changes_are_sorted_into_reloadable_and_not(tmp_path: Path) -> None:
    old, new = load(tmp_path), load(tmp_path, allow=["lan"], verbose=True, mtu="1300")
    assert changes(old, new) == (["allow", "verbose"], ["mtu"])
    assert changes(old, old) == ([], [])


def test_random_ipv6_and_no_ipv4(tmp_path: Path) -> None:
    settings = load(tmp_path, 'ipv6 = "random"', {"LOPOWER_NO_IPV4": "yes"})
    assert (settings.ipv6, settings.ipv4_range) == ("random", None)
