"""The rules, with a real registry and a data plane that only records."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path

import pytest

from lopower.daemon.endpoints import Endpoints, NoEndpointError
from lopower.daemon.errors import OperationError
from lopower.daemon.requests import RequestError, parse_device, parse_served
from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings_sources import resolve
from lopower.devices.errors import ConfigurationUnavailable, DeviceNotFound, NameTaken
from lopower.devices.keys import format_key, generate_private_key, parse_key, public_key_of
from lopower.devices.policy import Rule
from tests.support.control_plane import ControlPlane, control_plane


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as made:
        yield made


async def add(plane: ControlPlane, *names: str, form: str = "conf", **more: object) -> list[dict[str, object]]:
    requests = [parse_device({"name": name, **more}) for name in names]
    return await plane.operations.add_devices(requests, form, False)  # type: ignore[arg-type]


async def test_a_device_is_added_live_and_its_private_key_is_kept_nowhere(plane: ControlPlane) -> None:
    [document] = await add(plane, "kitchen")
    text = str(document["text"])
    private_key = next(line for line in text.splitlines() if line.startswith("PrivateKey")).split(" = ")[1]
    assert plane.runtime.events == ["added kitchen"]
    assert plane.registry.get("kitchen").public_key == public_key_of(b64decode(private_key))
    for file in plane.settings.state_dir.iterdir():
        if file.is_file():
            content = file.read_bytes()
            assert private_key.encode() not in content
            assert b64decode(private_key) not in content


async def test_many_are_added_all_or_none(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    with pytest.raises(NameTaken):
        await add(plane, "garden", "kitchen")
    assert [device.name for device in plane.registry.devices()] == ["kitchen"]
    assert plane.runtime.events == ["added kitchen"]


async def test_a_device_whose_configuration_does_not_exist_is_not_added(plane: ControlPlane) -> None:
    with pytest.raises(ConfigurationUnavailable, match="IPv4 only"):
        await add(plane, "kitchen", form="esphome", addresses=["ipv6-only"])
    with pytest.raises(ConfigurationUnavailable, match="private key"):
        await add(plane, "kitchen", form="qr", public_key=format_key(public_key_of(generate_private_key())))
    assert plane.registry.devices() == []
    assert plane.runtime.events == []


async def test_arduino_gets_no_preshared_key_and_says_so(plane: ControlPlane) -> None:
    [document] = await add(plane, "kitchen", form="arduino")
    assert plane.registry.get("kitchen").preshared_key is None
    assert document["notes"] == ["arduino takes no preshared key, so kitchen has none"]


async def test_without_an_endpoint_nothing_is_added(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Endpoints:
        raise NoEndpointError("no default route")

    monkeypatch.setattr(plane.operations, "_find_endpoints", none)
    with pytest.raises(NoEndpointError):
        await add(plane, "kitchen")
    assert plane.registry.devices() == []
    assert plane.operations.server()["warning"] == "no default route"
    assert plane.operations.status()["warnings"] == ["no default route"]


async def test_outdated_until_the_new_configuration_is_taken(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    assert [entry["outdated"] for entry in plane.operations.devices()] == [False]
    await plane.operations.change_rules("kitchen", [Rule.parse("allow 203.0.113.0/24")], [])
    assert [entry["outdated"] for entry in plane.operations.devices()] == [True]
    document = await plane.operations.configuration("kitchen", "conf")
    assert "<private key of kitchen>" in document["text"]
    assert "203.0.113.0/24" in document["text"]
    assert [entry["outdated"] for entry in plane.operations.devices()] == [False]


async def test_rules_about_a_device_outdate_its_configuration_as_well(plane: ControlPlane) -> None:
    """The device that is reached must accept the other's address as a source, so its AllowedIPs change."""
    await add(plane, "printer", "kitchen", "hall")
    await plane.operations.change_rules("kitchen", [Rule.parse("device:printer")], [])
    outdated = {entry["name"]: entry["outdated"] for entry in plane.operations.devices()}
    assert outdated == {"hall": False, "kitchen": True, "printer": True}
    await plane.operations.change_rules("kitchen", [], [Rule.parse("device:printer")])
    assert not any(entry["outdated"] for entry in plane.operations.devices())


async def test_another_endpoint_outdates_all(plane: ControlPlane) -> None:
    await add(plane, "kitchen", "garden")
    plane.endpoints[:] = [HostPort("198.51.100.1", 51820)]
    assert [entry["outdated"] for entry in plane.operations.devices()] == [True, True]
    assert plane.operations.status()["devices"]["outdated"] == 2


async def test_a_device_that_is_renamed_or_removed_takes_others_rules_along(plane: ControlPlane) -> None:
    await add(plane, "printer")
    await add(plane, "kitchen", rules=["device:printer"])
    plane.runtime.events.clear()
    await plane.operations.rename_device("printer", "laser")
    assert sorted(plane.runtime.events) == ["changed kitchen", "changed laser"]
    assert plane.operations.device("kitchen")["rules"] == ["allow device:laser"]
    plane.runtime.events.clear()
    await plane.operations.remove_device("laser")
    assert sorted(plane.runtime.events) == ["changed kitchen", "removed laser"]
    assert plane.operations.device("kitchen")["rules"] == []


async def test_a_device_gets_another_key(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    plane.runtime.events.clear()
    key = format_key(public_key_of(generate_private_key()))
    document = await plane.operations.replace_key("kitchen", parse_key(key))
    assert (document["public_key"], plane.runtime.events) == (key, ["changed kitchen"])


async def test_what_every_device_may_reach_is_what_one_without_rules_does(plane: ControlPlane) -> None:
    configuration = str((await add(plane, "kitchen"))[0]["text"])
    allowed = plane.operations.server()["allowed_ips"]
    own = [f"{plane.registry.get('kitchen').ipv4}/32", f"{plane.registry.get('kitchen').ipv6}/128"]
    listed = next(line for line in configuration.splitlines() if line.startswith("AllowedIPs"))
    wanted = [ip_network(text.strip()) for text in listed.partition("=")[2].split(",")]
    mine = [ip_network(text) for text in (*allowed, *own)]
    assert wanted == [
        *collapse_addresses(network for network in mine if isinstance(network, IPv4Network)),
        *collapse_addresses(network for network in mine if isinstance(network, IPv6Network)),
    ]


async def test_what_the_data_plane_stores_itself_is_no_change(plane: ControlPlane) -> None:
    await add(plane, "kitchen", "garden")
    device = plane.registry.get("kitchen")
    plane.runtime.events.clear()
    lock = plane.operations._change
    async with lock:
        change = asyncio.ensure_future(plane.operations.set_enabled("garden", False))
        await asyncio.sleep(0)
        plane.registry.store_timestamps([(device.public_key, b"\x40" + bytes(11))])
    await change
    assert plane.runtime.events == ["changed garden"]


async def test_reset_clock_shows_in_what_changed(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    device = plane.registry.get("kitchen")
    plane.registry.store_timestamps([(device.public_key, b"\x40" + bytes(11))])
    await plane.operations.reset_clock("kitchen")
    assert plane.registry.get("kitchen").last_timestamp is None
    assert plane.runtime.previous is not None
    assert plane.runtime.previous.last_timestamp == b"\x40" + bytes(11)


async def test_a_rule_that_is_not_there_cannot_be_taken_away(plane: ControlPlane) -> None:
    await add(plane, "kitchen", rules=["lan"])
    with pytest.raises(OperationError) as caught:
        await plane.operations.change_rules("kitchen", [], [Rule.parse("allow internet")])
    assert caught.value.hint == "its rules: allow lan"
    document = await plane.operations.change_rules("kitchen", [], [Rule.parse("allow lan")])
    assert document["rules"] == []


async def test_served_ports(plane: ControlPlane) -> None:
    await plane.operations.serve(parse_served({"port": 1883}))
    await plane.operations.serve(parse_served({"port": 53, "protocol": "udp", "target": "[2001:db8::1]:5353"}))
    assert plane.operations.served() == [
        {"protocol": "tcp", "port": 1883, "target": "127.0.0.1:1883"},
        {"protocol": "udp", "port": 53, "target": "[2001:db8::1]:5353"},
    ]
    assert [entry.port for entry in plane.runtime.served] == [1883, 53]
    await plane.operations.unserve("tcp", 1883)
    assert [entry.port for entry in plane.runtime.served] == [53]


async def test_reload_puts_into_force_what_can_be_and_names_the_rest(plane: ControlPlane, tmp_path: Path) -> None:
    flags = {"state_dir": str(plane.settings.state_dir), "allow": ["lan"], "mtu": "1300"}
    plane.next_settings.append(resolve(flags=flags, environ={"HOME": str(tmp_path)}, is_root=False))
    assert plane.operations.reload() == {"reloaded": ["allow"], "need_restart": ["mtu"]}
    assert plane.runtime.settings is not None
    assert [str(rule) for rule in plane.runtime.settings.allow] == ["allow lan"]
    assert plane.runtime.settings.mtu == 1420


async def test_ping_needs_an_enabled_device_and_bounds(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    assert await plane.operations.ping("kitchen", 1, 1.0, 1.0) == [
        {"sequence": 1, "seconds": 0.0125, "address": "10.90.0.2"}
    ]
    await plane.operations.set_enabled("kitchen", False)
    with pytest.raises(OperationError, match="disabled"):
        await plane.operations.ping("kitchen", 1, 1.0, 1.0)
    with pytest.raises(OperationError, match="from 1 to 100"):
        await plane.operations.ping("kitchen", 101, 1.0, 1.0)
    with pytest.raises(DeviceNotFound):
        await plane.operations.ping("nobody", 1, 1.0, 1.0)


async def test_device_show_has_diagnosis_and_no_secret(plane: ControlPlane) -> None:
    await add(plane, "kitchen")
    document = plane.operations.device("kitchen")
    assert (document["state"], document["findings"][0]["code"]) == ("never", "no_packet")
    key = plane.registry.get("kitchen").preshared_key
    assert key is not None
    assert format_key(key) not in str(document)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "must be a JSON object"),
        ({}, "lacks 'name'"),
        ({"name": 7}, "must be a text"),
        ({"name": "a", "mtu": True}, "must be a whole number"),
        ({"name": "a", "rules": [1]}, "a list of texts"),
        ({"name": "a", "psk": True}, "has no member 'psk'; it has: name, public_key"),
        ({"name": "a", "addresses": ["10.90.0.2", "10.90.0.3"]}, "one IPv4 and one IPv6"),
        ({"name": "a", "addresses": ["printer"]}, "not an IP address"),
    ],
)
def test_requests_that_cannot_be_understood(body: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        parse_device(body)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("", ("127.0.0.1", 80)),
        ("8080", ("127.0.0.1", 8080)),
        ("localhost:8080", ("127.0.0.1", 8080)),
        ("192.0.2.1", ("192.0.2.1", 80)),
        ("2001:db8::1", ("2001:db8::1", 80)),
        ("[2001:db8::1]:8080", ("2001:db8::1", 8080)),
    ],
)
def test_targets(target: str, expected: tuple[str, int]) -> None:
    assert parse_served({"port": 80, "target": target}).target == (ip_address(expected[0]), expected[1])


@pytest.mark.parametrize(
    "body", [{"port": 0}, {"port": 70000}, {"port": 80, "target": "a.example:80"}, {"port": 80, "protocol": "sctp"}]
)
def test_ports_that_cannot_be_served(body: object) -> None:
    with pytest.raises(RequestError):
        parse_served(body)


async def test_a_thousand_devices_are_listed_without_computing_all_configurations_again(plane: ControlPlane) -> None:
    await add(plane, *(f"d{number}" for number in range(200)))
    plane.operations.devices()
    digests = dict(plane.operations._digests)
    assert len(digests) == 200
    plane.operations.status()
    assert plane.operations._digests == digests
    plane.operations.settings = replace(plane.operations.settings, mtu=1300)
    assert plane.operations.status()["devices"]["outdated"] == 200
