"""Why a device does not connect: one test for each reason, and their order."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

from lopower.daemon.diagnosis import RECENT_SECONDS, SESSION_SECONDS, Diagnosis, diagnose
from lopower.daemon.setting_values import HostPort
from lopower.daemon.statistics import DeviceStatistics, InterfaceStatistics
from lopower.devices.device import Device

PLACE = HostPort("192.0.2.9", 40000)
DEVICE = Device(
    id=1,
    name="kitchen",
    public_key=b"k" * 32,
    preshared_key=b"p" * 32,
    ipv4=IPv4Address("10.90.0.2"),
    ipv6=IPv6Address("fd00::2"),
    enabled=True,
    rules=(),
    full_tunnel=False,
    mtu=None,
    persistent_keepalive=25,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


def judge(device: Device = DEVICE, interface: InterfaceStatistics | None = None, **statistics: object) -> Diagnosis:
    return diagnose(
        device,
        DeviceStatistics(**statistics),  # type: ignore[arg-type]
        interface or InterfaceStatistics(uptime=300.0, port=51820),
        server_key=b"s" * 32,
        endpoint="pi.example.net:51820",
    )


def codes(diagnosis: Diagnosis) -> list[str]:
    return [finding.code for finding in diagnosis.findings]


def test_disabled() -> None:
    found = judge(replace(DEVICE, enabled=False), latest_handshake=1.0)
    assert (found.state, codes(found)) == ("disabled", ["disabled"])
    assert found.findings[0].advice == "lopower device enable kitchen"


def test_connected_as_long_as_a_session_can_live() -> None:
    counters = {"initiations_received": 1, "handshakes_completed": 1}
    before = judge(latest_handshake=SESSION_SECONDS - 0.1, last_packet=1.0, endpoint=PLACE, counters=counters)
    at = judge(latest_handshake=SESSION_SECONDS, last_packet=1.0, endpoint=PLACE, counters=counters)
    assert (before.state, before.findings, at.state) == ("connected", (), "idle")
    assert "192.0.2.9:40000" in before.summary


def test_no_packet_ever_came() -> None:
    found = judge()
    assert (found.state, codes(found)) == ("never", ["no_packet"])
    assert "firewall" in found.findings[0].advice
    assert "pi.example.net:51820" in found.findings[0].advice


def test_wrong_server_key() -> None:
    found = judge(interface=InterfaceStatistics(port=51820, recent_wrong_mac1=((PLACE, 5.0),)))
    assert (found.state, codes(found)) == ("failing", ["wrong_server_key"])
    assert "PublicKey" in found.findings[0].advice


def test_unknown_public_key() -> None:
    found = judge(interface=InterfaceStatistics(port=51820, recent_unknown=((b"u" * 32, PLACE, 5.0),)))
    assert codes(found) == ["unknown_public_key"]
    assert "dXV1dXV1" in found.findings[0].text


def test_strangers_of_long_ago_say_nothing() -> None:
    interface = InterfaceStatistics(port=51820, recent_unknown=((b"u" * 32, PLACE, RECENT_SECONDS),))
    assert codes(judge(interface=interface)) == ["no_packet"]


def test_a_stranger_at_the_devices_last_address_comes_first() -> None:
    interface = InterfaceStatistics(
        port=51820,
        recent_wrong_mac1=((HostPort("198.51.100.1", 1), 5.0),),
        recent_unknown=((b"u" * 32, PLACE, 5.0),),
    )
    assert codes(judge(interface=interface)) == ["wrong_server_key", "unknown_public_key"]
    known = replace(DEVICE, last_endpoint=(PLACE.host, 1))
    assert codes(judge(known, interface)) == ["unknown_public_key", "wrong_server_key"]


def test_valid_initiations_that_are_never_confirmed() -> None:
    found = judge(endpoint=PLACE, counters={"initiations_received": 3, "responses_sent": 3})
    assert (found.state, codes(found)) == ("failing", ["never_confirmed"])
    assert "preshared key is missing or another one" in found.findings[0].text
    assert "does not reach it" in found.findings[0].text
    without = judge(replace(DEVICE, preshared_key=None), endpoint=PLACE, counters={"initiations_received": 1})
    assert "here it has none" in without.findings[0].text


def test_the_clock_went_back_and_the_way_out() -> None:
    found = judge(counters={"initiations_received": 3, "timestamp_not_newer": 3})
    assert (found.state, codes(found)) == ("failing", ["clock_went_back"])
    assert "lopower device reset-clock kitchen" in found.findings[0].advice
    # Whatever a replay adds to the counter, a device that is connected has no such problem.
    assert judge(latest_handshake=1.0, endpoint=PLACE, counters={"timestamp_not_newer": 1}).state == "connected"


def test_an_inner_address_not_its_own() -> None:
    found = judge(latest_handshake=1.0, endpoint=PLACE, counters={"source_not_allowed": 2})
    assert (found.state, codes(found)) == ("connected", ["address_not_its_own"])
    assert "10.90.0.2 and fd00::2" in found.findings[0].text


def test_no_keepalive_behind_nat() -> None:
    counters = {"handshakes_completed": 1, "initiations_sent": 4}
    found = judge(
        replace(DEVICE, persistent_keepalive=0),
        latest_handshake=500.0,
        last_packet=400.0,
        endpoint=PLACE,
        counters=counters,
    )
    assert (found.state, codes(found)) == ("idle", ["no_keepalive"])
    assert "4 times we called it" in found.findings[0].text


def test_a_device_that_went_silent() -> None:
    found = judge(latest_handshake=500.0, last_packet=400.0, endpoint=PLACE, counters={"handshakes_completed": 1})
    assert (found.state, codes(found)) == ("idle", ["silent"])
    assert "7 min" in found.summary
