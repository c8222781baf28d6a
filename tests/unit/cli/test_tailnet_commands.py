"""`lopower login`, `logout`, `expose` and the tailnet in `status`, as processes, against a real control plane."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lopower.devices.exposures import Exposure
from tests.support.control_plane import ControlPlane, control_plane
from tests.support.registries import new_device
from tests.support.tsnet_world import TsnetWorld, tsnet_world


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as made:
        yield made


@pytest.fixture
async def tailnet(plane: ControlPlane, tmp_path: Path) -> AsyncIterator[TsnetWorld]:
    async with tsnet_world(tmp_path) as world:
        plane.runtime.driver = world.driver
        plane.registry.add(new_device("kitchen"))
        plane.registry.add(new_device("hall"))
        yield world


async def test_without_a_node_of_ours_the_way_is_told(plane: ControlPlane) -> None:
    for command, hint in (
        (["login"], "tailscale up"),
        (["logout"], "tailscale logout"),
        (["expose", "kitchen"], "start the daemon with --tailnet tsnet"),
        (["expose", "kitchen", "--node"], "start the daemon with --tailnet tsnet"),
        (["expose", "kitchen", "--https"], "start the daemon with --tailnet tsnet"),
        (["expose", "kitchen", "--port", "80", "--from", "tag:phone"], "or name networks"),
        (["advertise"], "start the daemon with --tailnet tsnet"),
    ):
        code, out, err = await plane.lopower(*command)
        assert (code, out) == (1, "")
        assert hint in err
    assert await plane.lopower("expose") == (0, "nothing is exposed; see lopower expose --help\n", "")


async def test_login_by_url_and_key_and_logout(plane: ControlPlane, tailnet: TsnetWorld, tmp_path: Path) -> None:
    code, out, _ = await plane.lopower("logout")
    assert code == 0
    await tailnet.until_state("needs-login")
    code, out, err = await plane.lopower("login")
    assert (code, err) == (0, "")
    assert out.splitlines() == ["not logged in to the tailnet", "open https://login.example/a/2"]
    wrong, right = tmp_path / "wrong", tmp_path / "right"
    wrong.write_text("bad\n")
    right.write_text("good\n")
    code, out, _ = await plane.lopower("login", "--auth-key-file", str(wrong))
    assert "invalid authkey" in out
    await plane.lopower("login", "--auth-key-file", str(right))
    await tailnet.until_state("running")
    code, out, _ = await plane.lopower("login", "--auth-key-file", str(right))
    assert (code, out) == (
        0,
        "in the tailnet example.org as lopower.tail.example, 100.64.0.3, fd7a:115c:a1e0::3\n",
    )


@pytest.mark.parametrize("content", ["", "two words\n", None])
async def test_a_key_file_that_holds_no_key(plane: ControlPlane, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_text(content)
    code, _, err = await plane.lopower("login", "--auth-key-file", str(file))
    assert code == 2
    assert str(file) in err


async def test_expose_list_and_take_back(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    assert await plane.lopower("expose", "kitchen") == (0, "lopower.tail.example reaches kitchen\n", "")
    code, out, _ = await plane.lopower("expose", "hall", "--port", "8080:80", "--from", "tag:phone", "--from", "a@b.c")
    assert (code, out) == (
        0,
        "lopower.tail.example, tcp port 8080 reaches hall, port 80, for tag:phone, a@b.c\n",
    )
    await plane.lopower("expose", "hall", "--port", "5683", "--udp")
    code, out, _ = await plane.lopower("expose", "hall", "--node")
    assert (code, out.splitlines()[0]) == (0, "hall has a node of its own, hall.tail.example")
    assert [entry.place for entry in plane.runtime.exposed] == ["all", "node:2", "tcp:8080", "udp:5683"]
    code, out, _ = await plane.lopower("expose", "--json")
    assert [(entry["device"], entry["place"]) for entry in json.loads(out)["exposures"]] == [
        ("kitchen", "all"),
        ("hall", "node"),
        ("hall", "tcp:8080"),
        ("hall", "udp:5683"),
    ]
    code, out, _ = await plane.lopower("expose")
    assert len(out.splitlines()) == 5

    code, out, _ = await plane.lopower("expose", "hall", "--https")
    assert (code, out.splitlines()[0]) == (0, "https://lopower.tail.example/ reaches hall, port 80")
    assert "enable HTTPS" in out
    await plane.lopower("expose", "hall", "--https", "--off")
    await plane.lopower("expose", "hall", "--port", "8080", "--off")
    assert [entry.place for entry in plane.runtime.exposed] == ["all", "node:2", "udp:5683"]
    await plane.lopower("expose", "hall", "--off")
    assert plane.runtime.exposed == (Exposure(device_id=1, kind="all"),)
    code, _, err = await plane.lopower("expose", "hall", "--off")
    assert (code, "hall is not exposed" in err) == (5, True)
    await plane.lopower("device", "remove", "kitchen")
    assert not plane.runtime.exposed


async def test_what_cannot_be_exposed(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    await plane.lopower("expose", "kitchen")
    for command, code, said in (
        (["expose", "hall"], 1, "kitchen is exposed there already"),
        (["expose", "nobody"], 5, "there is no device 'nobody'"),
        (["expose", "hall", "--port", "0"], 2, "a port goes with"),
        (["expose", "hall", "--port", "70000"], 2, "ports are 1 to 65535"),
        (["expose", "hall", "--port", "http"], 2, "not PORT"),
        (["expose", "hall", "--port", "80", "--node"], 2, "do not go together"),
        (["expose", "hall", "--udp"], 2, "do not go together"),
        (["expose", "--off"], 2, "do not go together"),
        (["expose", "hall", "--from", "everybody"], 2, "is nobody"),
        (["expose", "hall", "--tag", "tag:cook"], 2, "do not go together"),
        (["expose", "hall", "--node", "--tag", "cook"], 2, "is not a tag"),
        (["expose", "hall", "--node", "--hostname", "a.b"], 2, "not a host's name"),
    ):
        got, _, err = await plane.lopower(*command)
        assert (got, said in err) == (code, True), (command, err)


async def test_advertise_and_withdraw(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    code, out, err = await plane.lopower("advertise")
    assert (code, "office advertises 10.90.0.0/24, or a part of it, already" in err) == (1, True)
    code, out, err = await plane.lopower("advertise", "--via", "7")
    assert (code, out.splitlines()[0]) == (0, "fd7a:115c:a1e0:b1a:0:7:a5a:0/120  waits for approval")
    assert "approves routes" in out
    assert "advertisement changed" in plane.runtime.events
    code, out, _ = await plane.lopower("device", "show", "kitchen")
    assert "10-90-0-2-via-7.tail.example, fd7a:115c:a1e0:b1a:0:7:a5a:2" in out
    await tailnet.set_status(routes_approved=["fd7a:115c:a1e0:b1a:0:7:a5a:0/120"])
    await tailnet.until(lambda: bool(tailnet.driver.proxy and tailnet.driver.proxy.routes_approved))
    assert (await plane.lopower("advertise", "--via", "7"))[1] == "fd7a:115c:a1e0:b1a:0:7:a5a:0/120  approved\n"
    code, _, err = await plane.lopower("advertise", "--via", "65536")
    assert (code, "sites are 0 to 65535" in err) == (2, True)
    assert await plane.lopower("advertise", "--off") == (0, "nothing is advertised\n", "")
    assert plane.registry.advertisement is None


async def test_what_is_advertised_stays_until_it_is_told_otherwise(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    await plane.lopower("advertise", "--via", "7")
    code, out, _ = await plane.lopower("advertise")
    assert (code, out.splitlines()[0]) == (0, "fd7a:115c:a1e0:b1a:0:7:a5a:0/120  waits for approval")
    code, out, _ = await plane.lopower("advertise", "--dns", "IoT.home.arpa")
    assert code == 0
    assert "NAME.iot.home.arpa                answered on port 53 of 100.64.0.3, fd7a:115c:a1e0::3" in out
    assert "restricted to iot.home.arpa (split DNS)" in out
    assert str(plane.registry.advertisement) == "via:7"
    code, out, _ = await plane.lopower("device", "show", "kitchen")
    assert "fd7a:115c:a1e0:b1a:0:7:a5a:2, kitchen.iot.home.arpa" in out
    assert "names under iot.home.arpa" in (await plane.lopower("status"))[1]
    code, out, err = await plane.lopower("expose", "kitchen", "--port", "53", "--udp")
    assert (code, "answers for names" in err) == (1, True)
    code, out, _ = await plane.lopower("advertise", "--dns", "--off")
    assert "NAME" not in out
    assert (plane.registry.zone, str(plane.registry.advertisement)) == (None, "via:7")
    await plane.lopower("expose", "kitchen", "--port", "53", "--udp")
    for words, code, said in (
        (["--dns", "iot.home.arpa"], 1, "exposed to kitchen"),
        (["--dns", "printer.local"], 2, "by multicast"),
        (["--dns", "iot.tail.example"], 1, "by themselves"),
        (["--dns", "bad_name.example"], 2, "is no domain"),
        (["--dns"], 2, "needs a domain"),
        (["--off", "--dns", "iot.home.arpa"], 2, "--off goes alone"),
        (["--off", "--via", "7"], 2, "--off goes alone"),
    ):
        got, _, err = await plane.lopower("advertise", *words)
        assert (got, said in err) == (code, True), (words, err)
    await plane.lopower("expose", "kitchen", "--off")
    await plane.lopower("advertise", "--via", "8", "--dns", "iot.home.arpa")
    assert (str(plane.registry.zone), str(plane.registry.advertisement)) == ("iot.home.arpa", "via:8")
    assert await plane.lopower("advertise", "--off") == (0, "nothing is advertised\n", "")
    assert (plane.registry.zone, plane.registry.advertisement) == (None, None)


async def test_what_is_to_be_done_about_routes_is_told(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    _, out, _ = await plane.lopower("advertise", "--shared")
    assert out.splitlines()[-1].startswith("an admin of the tailnet approves routes")
    await tailnet.set_status(routes_approved=["10.90.0.0/24"])
    await tailnet.until(lambda: bool(tailnet.driver.proxy and tailnet.driver.proxy.routes_approved))
    _, out, _ = await plane.lopower("advertise")
    assert out.splitlines()[:2] == [
        "10.90.0.0/24              approved",
        "fd7a:115c:a1e0:9909::/64  waits for approval",
    ]
    assert "--ipv6 random" in out
    await tailnet.set_status(routes_approved=["10.90.0.0/24", "fd7a:115c:a1e0:9909::/64"])
    await tailnet.until(lambda: len(tailnet.driver.proxy.routes_approved if tailnet.driver.proxy else ()) == 2)
    assert len((await plane.lopower("advertise"))[1].splitlines()) == 2


async def test_a_devices_own_node_logs_in(plane: ControlPlane, tailnet: TsnetWorld, tmp_path: Path) -> None:
    code, _, err = await plane.lopower("login", "kitchen")
    assert (code, "kitchen has no node of its own" in err) == (1, True)
    key = tmp_path / "auth-key"
    key.write_text("bad\n")
    code, out, _ = await plane.lopower("expose", "kitchen", "--node")
    assert (code, "invalid authkey" in out) == (0, True)
    assert "1 of at most 32: kitchen; not in yet: kitchen" in (await plane.lopower("status"))[1]
    code, out, _ = await plane.lopower("login", "kitchen")
    assert (code, out.splitlines()[-1][:10]) == (0, "open https")
    key.write_text("good\n")
    code, out, _ = await plane.lopower("login", "kitchen", "--auth-key-file", str(key))
    assert (code, "as kitchen.tail.example" in out) == (0, True)
    code, _, err = await plane.lopower("login", "nobody")
    assert (code, "there is no device" in err) == (5, True)


async def test_nodes_are_limited(plane: ControlPlane, tailnet: TsnetWorld) -> None:
    plane.operations.settings = replace(plane.operations.settings, max_nodes=1)
    assert (await plane.lopower("expose", "hall", "--node"))[0] == 0
    assert (await plane.lopower("expose", "hall", "--node", "--hostname", "other"))[0] == 0
    code, _, err = await plane.lopower("expose", "kitchen", "--node")
    assert (code, "max_nodes is 1" in err) == (1, True)
