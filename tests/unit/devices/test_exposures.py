"""What the tailnet reaches of devices: who is meant by a source, what is kept, and what ends with its device."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.devices.errors import DeviceNotFound, InvalidExposure, NotExposed, PlaceTaken
from lopower.devices.exposures import MAX_SOURCES, MAX_TAGS, Exposure, Source, parse_sources
from tests.support.registries import new_device, open_registry

PHONE = ip_address("100.64.0.7")


@pytest.mark.parametrize(
    ("source", "matches"),
    [
        ("tag:phone", True),
        ("tag:Phone", False),
        ("tag:ph", False),
        ("ada@example.org", True),
        ("ADA@example.org", True),
        ("ada@example.com", False),
        ("100.64.0.0/24", True),
        ("100.64.0.7", True),
        ("100.64.0.8", False),
        ("fd7a:115c:a1e0::/48", False),
    ],
)
def test_who_is_meant(source: str, matches: bool) -> None:
    exposure = Exposure(device_id=1, kind="all", sources=parse_sources([source]))
    assert exposure.permits(PHONE, "Ada@example.org", ("tag:a", "tag:phone")) is matches
    assert not exposure.permits(ip_address("10.0.0.1"), "", ())


def test_without_a_source_everybody_is_meant() -> None:
    assert Exposure(device_id=1, kind="all").permits(PHONE, "", ())


@pytest.mark.parametrize("text", ["", "ada", "tag:", "tag:1", "100.64.0.7/24", "a b@c", "*", "@example.org"])
def test_nobody(text: str) -> None:
    with pytest.raises(InvalidExposure, match="is nobody"):
        Source.parse(text)


@given(st.text(max_size=40))
def test_any_text_is_a_source_that_is_read_back_or_refused(text: str) -> None:
    try:
        source = Source.parse(text)
    except InvalidExposure:
        return
    assert Source.parse(str(source)) == source
    assert len(str(source).split()) == 1


@pytest.mark.parametrize(
    "exposure",
    [
        Exposure(device_id=1, kind="port", port=0, target_port=1),
        Exposure(device_id=1, kind="port", port=1, target_port=65_536),
        Exposure(device_id=1, kind="node", hostname=""),
        Exposure(device_id=1, kind="node", hostname="a.b"),
        Exposure(device_id=1, kind="node", hostname="a", tags=("cook",)),
        Exposure(device_id=1, kind="node", hostname="a", tags=tuple(f"tag:a{n}" for n in range(MAX_TAGS + 1))),
        Exposure(device_id=1, kind="all", sources=(Source(tag="tag:a"),) * (MAX_SOURCES + 1)),
    ],
)
def test_out_of_range(exposure: Exposure) -> None:
    with pytest.raises(InvalidExposure):
        exposure.check()


def test_they_are_kept_and_end_with_their_device(tmp_path: Path) -> None:
    registry = open_registry(tmp_path)
    kitchen, hall = registry.add(new_device("kitchen")), registry.add(new_device("hall"))
    sources = parse_sources(["tag:phone", "ada@example.org", "100.64.0.0/24"])
    wanted = [
        Exposure(device_id=kitchen.id, kind="all", sources=sources),
        Exposure(device_id=kitchen.id, kind="node", hostname="kitchen", tags=("tag:cook", "tag:hot")),
        Exposure(device_id=hall.id, kind="port", port=8080, target_port=80),
        Exposure(device_id=hall.id, kind="port", transport="udp", port=8080, target_port=5683),
    ]
    for exposure in wanted:
        registry.expose(exposure)
    replaced = replace(wanted[2], target_port=81)
    registry.expose(replaced)
    registry.close()

    registry = open_registry(tmp_path)
    assert {entry.place: entry for entry in registry.exposures()} == {
        entry.place: entry for entry in (*wanted, replaced)
    }
    with pytest.raises(PlaceTaken, match="hall is exposed there"):
        registry.expose(replace(wanted[2], device_id=kitchen.id))
    registry.remove("kitchen")
    assert [entry.place for entry in registry.exposures()] == ["tcp:8080", "udp:8080"]
    with pytest.raises(NotExposed):
        registry.unexpose(["tcp:8080", "all"])
    registry.unexpose(["tcp:8080"])
    with pytest.raises(DeviceNotFound):
        registry.expose(wanted[0])
    registry.close()

    registry = open_registry(tmp_path)
    assert [entry.place for entry in registry.exposures()] == ["udp:8080"]
    registry.close()
