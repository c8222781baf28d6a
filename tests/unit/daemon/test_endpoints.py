"""What devices dial."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lopower.daemon import endpoints
from lopower.daemon.endpoints import NoEndpointError, find, has_lease
from lopower.daemon.settings import Settings
from lopower.daemon.settings_sources import resolve

IPAddress = IPv4Address | IPv6Address


def settings(tmp_path: Path, **flags: object) -> Settings:
    return resolve(flags=flags, environ={"HOME": str(tmp_path)}, is_root=False)


def routed(destination: IPAddress) -> IPAddress | None:
    return IPv4Address("192.0.2.7") if destination.version == 4 else IPv6Address("2001:db8::7")


def unrouted(destination: IPAddress) -> None:
    return None


def test_endpoints_by_setting_take_the_port_that_is_listened_on(tmp_path: Path) -> None:
    chosen = settings(tmp_path, endpoint=["pi.example.net", "192.0.2.1:6000", "[2001:db8::1]:7000"])
    assert [str(endpoint) for endpoint in find(chosen, 5000, unrouted).addresses] == [
        "pi.example.net:5000",
        "192.0.2.1:6000",
        "[2001:db8::1]:7000",
    ]


def test_one_address_that_is_listened_on_is_the_endpoint(tmp_path: Path) -> None:
    assert list(map(str, find(settings(tmp_path, listen="127.0.0.1:5000"), 5000, unrouted).addresses)) == [
        "127.0.0.1:5000"
    ]


@pytest.mark.parametrize("listen", [":5000", "0.0.0.0:5000", "[::]:5000"])
def test_otherwise_the_default_routes_address_and_never_an_unspecified_one(tmp_path: Path, listen: str) -> None:
    found = find(settings(tmp_path, listen=listen), 5000, routed)
    assert list(map(str, found.addresses)) == ["192.0.2.7:5000", "[2001:db8::7]:5000"]


def test_no_default_route_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoEndpointError, match=r"no default route.*--endpoint"):
        find(settings(tmp_path), 5000, unrouted)


def test_a_lease_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "_LEASES", ((str(tmp_path / "none"), "*", b""), (str(tmp_path), "*.leases", b"")))
    (tmp_path / "dhclient.leases").write_text("lease {\n  fixed-address 192.0.2.7;\n}\n")
    assert "may change" in find(settings(tmp_path), 5000, routed).warning
    assert not has_lease(IPv4Address("192.0.2.70"))
    assert not has_lease(IPv4Address("2.0.2.7"))
