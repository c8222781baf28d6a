"""Routes and addresses of the devices' ranges, as they are and by 4via6."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.devices.addresses import Ranges
from lopower.devices.advertising import MAX_SITE, Advertisement, Zone, via_address, via_name
from lopower.devices.errors import InvalidAdvertisement, InvalidZone
from tests.support.registries import new_device, open_registry


def test_the_address_is_the_one_that_tailscale_computes() -> None:
    # `tailscale debug via 7 10.1.1.0/24` prints fd7a:115c:a1e0:b1a:0:7:a01:100/120.
    assert via_address(7, IPv4Address("10.1.1.0")) == ip_address("fd7a:115c:a1e0:b1a:0:7:a01:100")
    routes = Advertisement(7).routes(replace(Ranges(), ipv4=IPv4Network("10.1.1.0/24")))
    assert list(map(str, routes)) == ["fd7a:115c:a1e0:b1a:0:7:a01:100/120"]
    assert via_name(7, IPv4Address("10.1.1.9"), "tail.ts.net") == "10-1-1-9-via-7.tail.ts.net"


@given(st.integers(0, MAX_SITE), st.ip_addresses(v=4))
def test_sites_and_addresses_stay_apart(site: int, address: IPv4Address) -> None:
    packed = via_address(site, address).packed
    assert packed[:8] == bytes.fromhex("fd7a115ca1e00b1a")
    assert (int.from_bytes(packed[8:12], "big"), packed[12:]) == (site, address.packed)


@pytest.mark.parametrize("site", [-1, MAX_SITE + 1])
def test_sites_out_of_range(site: int) -> None:
    with pytest.raises(InvalidAdvertisement, match="out of range"):
        Advertisement(site)


def test_without_ipv4_there_is_nothing_to_map() -> None:
    assert Advertisement(1).routes(replace(Ranges(), ipv4=None)) == ()


@pytest.mark.parametrize("text", ["iot.home.arpa", "IoT.home.arpa.", "a", "x-1.example"])
def test_zones_are_kept_in_lower_case(tmp_path: Path, text: str) -> None:
    registry = open_registry(tmp_path)
    assert registry.zone is None
    registry.set_zone(Zone.parse(text))
    registry.close()
    registry = open_registry(tmp_path)
    assert str(registry.zone) == text.lower().removesuffix(".")
    registry.set_zone(None)
    registry.close()
    registry = open_registry(tmp_path)
    assert registry.zone is None
    registry.close()


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", "-a.example", "a_b.example", "é.example", "x" * 64, "a." * 95 + "a", "home.local"]
)
def test_no_zones(text: str) -> None:
    with pytest.raises(InvalidZone):
        Zone.parse(text)


@pytest.mark.parametrize("advertisement", [None, Advertisement(), Advertisement(0), Advertisement(MAX_SITE)])
def test_it_is_kept_and_names_only_devices_that_are_there(tmp_path: Path, advertisement: Advertisement | None) -> None:
    registry = open_registry(tmp_path)
    registry.add(new_device("kitchen"))
    registry.add(new_device("hall"))
    registry.set_enabled("hall", False)
    registry.set_advertisement(Advertisement(3))
    registry.set_advertisement(advertisement)
    registry.close()
    registry = open_registry(tmp_path)
    assert registry.advertisement == advertisement
    if advertisement is not None:
        found = advertisement.destinations(registry.devices())
        assert len(found) == (2 if advertisement.site is None else 1)
        assert all(network.prefixlen == network.max_prefixlen for network in found)
        routes = advertisement.routes(registry.ranges)
        assert all(any(a.version == b.version and a.subnet_of(b) for b in routes) for a in found)  # type: ignore[arg-type]
    registry.close()
