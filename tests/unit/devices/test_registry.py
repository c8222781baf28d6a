"""The registry's operations: what they change, what they refuse, and that both outlive it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from lopower.devices.addresses import DEFAULT_IPV4, DEFAULT_IPV6, RETIREMENT
from lopower.devices.device import NewDevice, ServedPort
from lopower.devices.errors import (
    AddressesExhausted,
    AddressTaken,
    DeviceNotFound,
    DevicesStranded,
    InvalidAddress,
    InvalidDevice,
    InvalidKey,
    InvalidName,
    InvalidRange,
    InvalidRule,
    KeyTaken,
    NameTaken,
    PortNotServed,
    RegistryError,
)
from lopower.devices.policy import MAX_RULES_PER_DEVICE
from lopower.devices.registry import Registry
from tests.support.registries import SERVER_PUBLIC_KEY, Clock, key_of, new_device, open_registry, parse


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Iterator[Registry]:
    registry = open_registry(tmp_path, clock=clock)
    yield registry
    before = registry.devices(), registry.served_ports(), registry.ranges, registry.timestamps_reserved_until
    registry.close()
    registry = open_registry(tmp_path, clock=clock)
    assert before == (
        registry.devices(),
        registry.served_ports(),
        registry.ranges,
        registry.timestamps_reserved_until,
    ), "what is in memory is not what is on disk"
    registry.close()


def test_a_device_is_added_with_defaults(registry: Registry, clock: Clock) -> None:
    device = registry.add(new_device("Kitchen"))
    assert device.name == "kitchen"
    assert device.ipv4 == IPv4Address("10.90.0.2")
    assert device.ipv6 == IPv6Address("fd7a:115c:a1e0:9909::2")
    assert device.enabled
    assert device.preshared_key is not None
    assert len(device.preshared_key) == 32
    assert device.persistent_keepalive == 25
    assert device.created_at.timestamp() == clock.now
    assert registry.get("KITCHEN") == registry.find("kitchen") == device
    assert registry.find("cellar") is None


def test_keys_are_not_in_a_device_s_repr(registry: Registry) -> None:
    device = registry.add(new_device("kitchen"))
    for text in (repr(device), repr(new_device("kitchen", preshared_key=device.preshared_key))):
        assert repr(device.preshared_key) not in text
        assert repr(device.public_key) not in text


def test_all_values_are_kept(registry: Registry) -> None:
    registry.add(new_device("cellar"))
    device = registry.add(
        new_device(
            "kitchen",
            "internet:443/tcp",
            "deny device:cellar",
            preshared_key=None,
            ipv4=None,
            ipv6=IPv6Address("fd7a:115c:a1e0:9909::abcd"),
            full_tunnel=True,
            mtu=1280,
            persistent_keepalive=0,
        )
    )
    assert list(map(str, device.rules)) == ["allow internet:443/tcp", "deny device:cellar"]
    assert (device.ipv4, device.mtu, device.full_tunnel, device.persistent_keepalive) == (None, 1280, True, 0)


@pytest.mark.parametrize(
    ("new", "error", "hint"),
    [
        (new_device("kitchen", public_key=key_of("x")), NameTaken, "there is a device 'kitchen' already"),
        (new_device("KITCHEN", public_key=key_of("x")), NameTaken, "there is a device 'kitchen' already"),
        (new_device("a.b"), InvalidName, "cannot be a device's name"),
        (new_device("x", public_key=key_of("kitchen")), KeyTaken, "kitchen has this public key already"),
        (new_device("x", public_key=SERVER_PUBLIC_KEY), InvalidKey, "the server's own"),
        (new_device("x", public_key=bytes(32)), InvalidKey, "not all of them zero"),
        (new_device("x", public_key=b"short"), InvalidKey, "32 bytes"),
        (new_device("x", preshared_key=b"short"), InvalidKey, "preshared key"),
        (new_device("x", ipv4=IPv4Address("10.90.0.2")), AddressTaken, "a device has it"),
        (new_device("x", ipv4=IPv4Address("10.90.0.1")), InvalidAddress, "the gateway's"),
        (new_device("x", ipv4=IPv4Address("10.91.0.9")), InvalidAddress, r"in 10\.90\.0\.0/24"),
        (new_device("x", ipv6=IPv6Address("fd00::9")), InvalidAddress, "in fd7a:115c:a1e0:9909::/64"),
        (new_device("x", "device:nobody"), DeviceNotFound, "names a device that does not exist"),
        (new_device("x", mtu=1279), InvalidDevice, "1280 to 65535"),
        (new_device("x", persistent_keepalive=65536), InvalidDevice, "0 .off. to 65535"),
        (
            new_device("x", *(f"10.1.{i // 256}.{i % 256}" for i in range(MAX_RULES_PER_DEVICE + 1))),
            InvalidRule,
            "rules at most",
        ),
    ],
)
def test_what_cannot_be_added(registry: Registry, new: NewDevice, error: type[RegistryError], hint: str) -> None:
    """Whatever is refused leaves everything as it was: the next device gets the next address."""
    registry.add(new_device("kitchen"))
    with pytest.raises(error, match=hint):
        registry.add_many([new_device("first"), new])
    assert [device.name for device in registry.devices()] == ["kitchen"]
    assert registry.add(new_device("next")).ipv4 == IPv4Address("10.90.0.3")


def test_many_are_added_together_and_may_name_each_other(registry: Registry) -> None:
    added = registry.add_many(
        [new_device("a", "device:b"), new_device("b", "device:a", ipv4=IPv4Address("10.90.0.2")), new_device("c")]
    )
    assert [str(device.ipv4) for device in added] == ["10.90.0.3", "10.90.0.2", "10.90.0.4"]
    assert registry.add_many([]) == []


@pytest.mark.parametrize(
    ("pair", "error"),
    [
        ([new_device("a"), new_device("A", public_key=key_of("x"))], NameTaken),
        ([new_device("a"), new_device("b", public_key=key_of("a"))], KeyTaken),
        (
            [new_device("a", ipv4=IPv4Address("10.90.0.9")), new_device("b", ipv4=IPv4Address("10.90.0.9"))],
            AddressTaken,
        ),
    ],
)
def test_devices_added_together_must_differ(
    registry: Registry, pair: list[NewDevice], error: type[RegistryError]
) -> None:
    with pytest.raises(error):
        registry.add_many(pair)
    assert registry.devices() == []


def test_an_unknown_device_is_answered_with_a_similar_name(registry: Registry) -> None:
    with pytest.raises(DeviceNotFound, match="no device 'kitchn'; `lopower device list`"):
        registry.get("kitchn")
    registry.add(new_device("kitchen"))
    with pytest.raises(DeviceNotFound, match="did you mean 'kitchen'"):
        registry.get("kitchn")


def test_a_removed_device_s_addresses_rest_for_a_day_over_restarts(tmp_path: Path, clock: Clock) -> None:
    registry = open_registry(tmp_path, clock=clock)
    registry.add_many([new_device("a"), new_device("b")])
    assert registry.remove("a").name == "a"
    registry.close()
    registry = open_registry(tmp_path, clock=clock)
    assert registry.add(new_device("c")).ipv4 == IPv4Address("10.90.0.4")
    with pytest.raises(AddressTaken, match="within the last 24 hours"):
        registry.add(new_device("d", ipv4=IPv4Address("10.90.0.2")))
    clock.now += RETIREMENT
    device = registry.add(new_device("d"))
    assert (device.ipv4, device.ipv6) == (IPv4Address("10.90.0.2"), IPv6Address("fd7a:115c:a1e0:9909::2"))
    registry.remove("d")  # retired a second time
    registry.close()


def test_an_id_is_never_used_again(registry: Registry) -> None:
    first = registry.add(new_device("a"))
    registry.remove("a")
    assert registry.add(new_device("a")).id > first.id


def test_rules_follow_a_renamed_device_and_end_with_a_removed_one(registry: Registry) -> None:
    """A later device of the same name does not inherit what the first was permitted."""
    registry.add(new_device("printer"))
    registry.add(new_device("phone", "device:printer:631/tcp", "lan", "deny device:printer"))
    registry.rename("printer", "Copier")
    assert list(map(str, registry.get("phone").rules)) == [
        "allow device:copier:631/tcp",
        "allow lan",
        "deny device:copier",
    ]
    registry.remove("copier")
    assert list(map(str, registry.get("phone").rules)) == ["allow lan"]
    registry.add(new_device("copier"))
    assert list(map(str, registry.get("phone").rules)) == ["allow lan"]


def test_a_device_may_name_itself_and_be_renamed_and_removed(registry: Registry) -> None:
    registry.add(new_device("a"))
    registry.set_rules("a", parse("device:a"))
    assert [rule.device for rule in registry.rename("a", "b").rules] == ["b"]
    registry.remove("b")


def test_renaming(registry: Registry) -> None:
    device = registry.add(new_device("a"))
    registry.add(new_device("b"))
    assert registry.rename("a", "A") == device
    with pytest.raises(NameTaken):
        registry.rename("a", "b")
    with pytest.raises(InvalidName):
        registry.rename("a", "gateway")
    assert registry.rename("a", "c") == replace(device, name="c")
    assert registry.find("a") is None


def test_a_key_is_replaced(tmp_path: Path) -> None:
    """Everything else stays, and the old key's time stamp is not held against the new one."""
    with closing(open_registry(tmp_path)) as registry:
        device = registry.add(new_device("a", "lan"))
        other = registry.add(new_device("b"))
        registry.store_timestamps([(device.public_key, bytes([9] * 12))])
        new = key_of("a's new board")
        replaced = registry.replace_key("a", new)
        assert replaced == replace(device, public_key=new, last_timestamp=None)
        assert registry.replace_key("a", new) is replaced
        for key, error in ((other.public_key, KeyTaken), (bytes(32), InvalidKey), (SERVER_PUBLIC_KEY, InvalidKey)):
            with pytest.raises(error):
                registry.replace_key("a", key)
        registry.store_timestamps([(device.public_key, bytes([9] * 12))])
    with closing(open_registry(tmp_path)) as registry:
        assert registry.get("a") == replaced
        assert registry.replace_key("b", device.public_key).public_key == device.public_key


def test_rules_are_replaced(registry: Registry) -> None:
    registry.add(new_device("a", "lan"))
    assert registry.set_rules("a", parse("internet", "10.0.0.1:80")).rules == parse("internet", "10.0.0.1:80")
    with pytest.raises(DeviceNotFound, match="add that first"):
        registry.set_rules("a", parse("device:z"))
    assert registry.get("a").rules == parse("internet", "10.0.0.1:80")
    assert registry.set_rules("a", ()).rules == ()


def test_switches_and_digests(registry: Registry) -> None:
    registry.add(new_device("a"))
    assert not registry.set_enabled("a", False).enabled
    assert registry.set_enabled("a", True).enabled
    assert registry.set_configuration_digest("a", "0f" * 32).configuration_digest == "0f" * 32


def test_time_stamps_only_grow_until_reset(registry: Registry) -> None:
    device = registry.add(new_device("a"))
    registry.store_timestamps([(device.public_key, b"\x40" + bytes(11)), (key_of("nobody"), b"\x7f" * 12)])
    registry.store_timestamps([(device.public_key, b"\x40" + bytes(10) + b"\x02")])
    registry.store_timestamps([(device.public_key, b"\x40" + bytes(10) + b"\x01")])
    assert registry.get("a").last_timestamp == b"\x40" + bytes(10) + b"\x02"
    assert registry.reset_timestamp("a").last_timestamp is None
    with pytest.raises(ValueError, match="12 bytes"):
        registry.store_timestamps([(device.public_key, b"short")])


def test_endpoints_are_kept(registry: Registry) -> None:
    device = registry.add(new_device("a"))
    registry.store_endpoints([(device.public_key, ("2001:db8::1", 40000)), (key_of("nobody"), ("192.0.2.1", 1))])
    assert registry.get("a").last_endpoint == ("2001:db8::1", 40000)


def test_our_own_time_stamps_are_reserved_ahead_and_never_fewer(registry: Registry) -> None:
    assert registry.timestamps_reserved_until == 0
    registry.reserve_timestamps(1_800_000_000_123_456_789)
    registry.reserve_timestamps(5)
    assert registry.timestamps_reserved_until == 1_800_000_000_123_456_789


def test_served_ports(registry: Registry) -> None:
    mqtt = ServedPort(protocol="tcp", port=1883, target=(IPv4Address("127.0.0.1"), 1883))
    moved = ServedPort(protocol="tcp", port=1883, target=(IPv6Address("::1"), 1884))
    coap = ServedPort(protocol="udp", port=5683, target=(IPv4Address("192.168.1.2"), 5683))
    registry.serve(coap)
    registry.serve(mqtt)
    registry.serve(moved)
    assert registry.served_ports() == [moved, coap]
    assert registry.unserve("udp", 5683) == coap
    with pytest.raises(PortNotServed, match="5683/udp is not offered"):
        registry.unserve("udp", 5683)


def test_exhaustion_names_the_way_out_and_ipv6_alone_still_works(registry: Registry, clock: Clock) -> None:
    registry.set_ranges(IPv4Network("10.90.0.0/30"), DEFAULT_IPV6)
    registry.add(new_device("a"))
    with pytest.raises(AddressesExhausted, match=r"`lopower up --ipv4 10\.90\.0\.0/29`.*--address ipv6-only"):
        registry.add(new_device("b"))
    assert registry.add(new_device("b", ipv4=None)).ipv4 is None
    registry.remove("a")
    with pytest.raises(AddressesExhausted, match="wait until 2027-01-16 08:00 UTC"):
        registry.add(new_device("c"))
    registry.set_ranges(IPv4Network("10.90.0.0/29"), DEFAULT_IPV6)
    assert registry.add(new_device("c")).ipv4 == IPv4Address("10.90.0.3"), "the retired one rests in the wider range"


def test_a_range_can_be_widened_moved_while_empty_and_switched_off(registry: Registry) -> None:
    assert registry.ranges.ipv4 == DEFAULT_IPV4
    registry.set_ranges(IPv4Network("192.168.77.0/24"), DEFAULT_IPV6)
    device = registry.add(new_device("a"))
    registry.set_ranges(IPv4Network("192.168.76.0/23"), DEFAULT_IPV6)
    assert registry.get("a") == device
    assert registry.add(new_device("b")).ipv4 == IPv4Address("192.168.76.2")
    registry.remove("a")
    registry.remove("b")
    registry.set_ranges(None, DEFAULT_IPV6)
    assert registry.add(new_device("c")).ipv4 is None
    with pytest.raises(InvalidAddress, match="IPv4 is switched off"):
        registry.add(new_device("d", ipv4=IPv4Address("192.168.76.9")))


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "hint"),
    [
        (IPv4Network("10.91.0.0/24"), DEFAULT_IPV6, r"^10\.91\.0\.0/24 would take away the IPv4 addresses of a, b;"),
        (IPv4Network("10.90.0.0/29"), DEFAULT_IPV6, "addresses of b;"),
        (IPv4Network("10.90.0.0/28"), DEFAULT_IPV6, "addresses of b;"),
        (None, DEFAULT_IPV6, "switching IPv4 off would take away the IPv4 addresses of a, b;"),
        (DEFAULT_IPV4, IPv6Network("fd00::/64"), "the IPv6 addresses of a, b;"),
        (DEFAULT_IPV4, "random", "the IPv6 addresses of a, b;"),
    ],
)
def test_a_change_that_would_strand_devices_names_them(
    registry: Registry, ipv4: IPv4Network | None, ipv6: IPv6Network, hint: str
) -> None:
    registry.add_many([new_device("b", ipv4=IPv4Address("10.90.0.15")), new_device("a")])
    with pytest.raises(DevicesStranded, match=hint):
        registry.set_ranges(ipv4, ipv6)
    assert registry.ranges.ipv4 == DEFAULT_IPV4
    assert registry.ranges.ipv6 == DEFAULT_IPV6


def test_the_new_gateway_s_address_must_not_be_a_device_s(registry: Registry) -> None:
    registry.add(new_device("a", ipv4=IPv4Address("10.90.0.129")))
    with pytest.raises(DevicesStranded, match="addresses of a;"):
        registry.set_ranges(IPv4Network("10.90.0.128/25"), DEFAULT_IPV6)


def test_a_range_no_device_can_have_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidRange, match="the tailnet's"):
        registry.set_ranges(IPv4Network("100.100.0.0/24"), DEFAULT_IPV6)


def test_a_long_list_of_stranded_devices_is_cut(registry: Registry) -> None:
    registry.add_many([new_device(f"device-{number:02}") for number in range(15)])
    with pytest.raises(DevicesStranded, match="device-09 and 5 more") as caught:
        registry.set_ranges(None, DEFAULT_IPV6)
    assert len(caught.value.names) == 15


def test_a_random_range_is_drawn_once(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    drawn = registry.set_ranges(DEFAULT_IPV4, "random").ipv6
    assert drawn.subnet_of(IPv6Network("fd00::/8"))
    assert drawn.prefixlen == 64
    registry.add(new_device("a"))
    registry.close()
    registry = open_registry(tmp_path)
    assert registry.set_ranges(DEFAULT_IPV4, "random").ipv6 == drawn
    registry.close()


def test_threads_get_different_addresses(registry: Registry) -> None:
    def add(thread: int) -> None:
        for number in range(10):
            registry.add(new_device(f"device-{thread}-{number}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({device.ipv4 for device in registry.devices()}) == 40


def test_ten_thousand_devices(registry: Registry) -> None:
    registry.set_ranges(IPv4Network("10.90.0.0/16"), DEFAULT_IPV6)
    added = registry.add_many([new_device(f"device-{number}") for number in range(10_000)])
    assert len({device.ipv4 for device in added}) == 10_000
    registry.store_timestamps([(device.public_key, b"\x40" * 12) for device in added])
    assert registry.get("device-9999").last_timestamp == b"\x40" * 12
