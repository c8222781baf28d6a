"""Which address the next device gets."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest

from lopower.devices.addresses import RETIREMENT, AddressPool, Ranges, check_range, draw_ipv6
from lopower.devices.errors import InvalidRange


def pool(network: str) -> AddressPool[IPv4Address]:
    return AddressPool(IPv4Network(network), IPv4Address)


def test_addresses_follow_the_gateway_and_end_before_broadcast() -> None:
    addresses = pool("10.90.0.0/29")
    taken = [str(addresses.take_lowest(0)) for _ in range(5)]
    assert taken == ["10.90.0.2", "10.90.0.3", "10.90.0.4", "10.90.0.5", "10.90.0.6"]
    assert addresses.take_lowest(0) is None


def test_ipv6_has_no_broadcast() -> None:
    addresses = AddressPool(IPv6Network("fd00::/126"), IPv6Address)
    assert [str(addresses.take_lowest(0)) for _ in range(2)] == ["fd00::2", "fd00::3"]
    assert addresses.take_lowest(0) is None


@pytest.mark.parametrize("address", ["10.90.0.0", "10.90.0.1", "10.90.0.7", "10.90.0.8", "10.89.255.255"])
def test_addresses_that_no_device_can_have(address: str) -> None:
    assert IPv4Address(address) not in pool("10.90.0.0/29")


def test_retired_addresses_wait_exactly_a_day() -> None:
    addresses = pool("10.90.0.0/30")
    address = addresses.take_lowest(0)
    assert address is not None
    addresses.retire(address, 1000)
    assert addresses.take_lowest(1000 + RETIREMENT - 1) is None
    assert addresses.free_from(1000) == 1000 + RETIREMENT
    assert addresses.take_lowest(1000 + RETIREMENT) == address


def test_a_clock_that_goes_back_frees_nothing_early() -> None:
    addresses = pool("10.90.0.0/29")
    one, other = addresses.take_lowest(0), addresses.take_lowest(0)
    assert one is not None
    assert other is not None
    addresses.retire(one, 1_000_000)
    addresses.retire(other, 10)
    assert addresses.is_free(other, 10 + RETIREMENT)
    assert not addresses.is_free(one, 10 + RETIREMENT)


def test_what_is_given_back_is_the_next() -> None:
    addresses = pool("10.90.0.0/29")
    first = addresses.take_lowest(0)
    assert first is not None
    addresses.take_lowest(0)
    addresses.give_back(first)
    assert addresses.take_lowest(0) == first


def test_defaults() -> None:
    assert list(map(str, Ranges().networks)) == ["10.90.0.0/24", "fd7a:115c:a1e0:9909::/64"]
    assert list(map(str, Ranges().gateways)) == ["10.90.0.1", "fd7a:115c:a1e0:9909::1"]
    assert list(map(str, Ranges(ipv4=None).gateways)) == ["fd7a:115c:a1e0:9909::1"]


@pytest.mark.parametrize(
    ("network", "hint"),
    [
        ("100.64.0.0/24", "the tailnet's"),
        ("100.0.0.0/8", "the tailnet's"),
        ("100.127.255.0/30", "the tailnet's"),
        ("10.0.0.0/31", "length must be 8 to 30"),
        ("0.0.0.0/0", "length must be 8 to 30"),
        ("127.0.0.0/24", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/8", "multicast"),
        ("255.255.255.0/24", "multicast"),
        ("fe80::/64", "link-local"),
        ("ff02::/64", "multicast"),
        ("::/64", "no host"),
        ("fd00::/127", "length must be 8 to 126"),
    ],
)
def test_ranges_that_devices_cannot_have(network: str, hint: str) -> None:
    with pytest.raises(InvalidRange, match=hint):
        check_range(ip_network(network))


@pytest.mark.parametrize("network", ["10.90.0.0/24", "10.0.0.0/8", "100.128.0.0/16", "192.168.9.0/30", "fd00::/64"])
def test_ranges_that_they_can_have(network: str) -> None:
    check_range(ip_network(network))


def test_a_drawn_range_is_a_unique_local_64_outside_the_tailnet() -> None:
    """RFC 4193 section 3.1: fd00::/8; the one that lies in the tailnet's prefix is drawn again."""
    draws = iter([bytes.fromhex("7a115ca1e00001"), bytes.fromhex("0123456789abcd")])
    assert str(draw_ipv6(lambda count: next(draws)[:count])) == "fd01:2345:6789:abcd::/64"
