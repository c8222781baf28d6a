"""The CLI as its users run it, a process of its own, against a real control server with a real registry."""

from __future__ import annotations

import asyncio
import grp
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lopower.daemon.control import ControlServer, ControlSocketError
from lopower.daemon.setting_values import HostPort
from lopower.daemon.settings_sources import resolve
from lopower.daemon.statistics import DeviceStatistics
from lopower.devices.keys import format_key, generate_private_key, public_key_of
from tests.support.control_plane import ControlPlane, control_plane, environment
from tests.support.requirements import require_root


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as made:
        yield made


async def http(path: Path, request: bytes) -> tuple[int, bytes]:
    """One raw request: status and body."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def test_add_in_a_pipe_prints_the_configuration_alone(plane: ControlPlane) -> None:
    code, out, err = await plane.lopower("device", "add", "kitchen", "--allow", "203.0.113.0/24:80")
    assert (code, err) == (0, "")
    assert out.startswith("# lopower: device kitchen\n")
    assert "PrivateKey = " in out
    assert "203.0.113.0/24" in out
    assert "\x1b" not in out
    assert plane.runtime.events == ["added kitchen"]
    assert [str(rule) for rule in plane.registry.get("kitchen").rules] == ["allow 203.0.113.0/24:80"]


async def test_add_on_a_terminal_prints_a_qr_code_as_well(plane: ControlPlane) -> None:
    ours, theirs = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lopower.cli.main", "device", "add", "phone", stdout=theirs, env=plane.environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = await asyncio.to_thread(os.read, ours, 65_536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert await process.wait() == 0
    assert b"[Interface]" in shown
    assert "▀".encode() in shown


async def test_output_goes_to_a_file_for_the_owners_eyes_alone(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "kitchen.conf"
    code, out, err = await plane.lopower("device", "add", "kitchen", "-o", str(file))
    assert (code, out, err) == (0, "", f"wrote {file}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "PrivateKey" in file.read_text()
    code, _, err = await plane.lopower("device", "add", "garden", "-o", str(file))
    assert code == 1
    assert "exists already" in err
    assert len(plane.registry.devices()) == 1


async def test_a_failed_add_leaves_no_file(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "x.conf"
    code, _, err = await plane.lopower("device", "add", "not a label", "-o", str(file))
    assert code == 2
    assert "letters, digits and hyphens" in err
    assert not file.exists()


@pytest.mark.parametrize("form", ["qr", "json", "esphome", "arduino"])
async def test_formats(plane: ControlPlane, form: str) -> None:
    code, out, err = await plane.lopower("device", "add", "kitchen", "--format", form)
    assert code == 0, err
    expected = {"qr": "▀", "json": '"private_key"', "esphome": "wireguard:", "arduino": "LOPOWER_PRIVATE_KEY"}[form]
    assert expected in out
    assert ("no preshared key" in err) == (form == "arduino")


async def test_a_picture(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "kitchen.png"
    assert (await plane.lopower("device", "add", "kitchen", "--format", "png", "-o", str(file)))[0] == 0
    assert file.read_bytes().startswith(b"\x89PNG")


async def test_a_device_that_keeps_its_private_key(plane: ControlPlane) -> None:
    key = public_key_of(generate_private_key())
    code, out, err = await plane.lopower("device", "add", "kitchen", "--public-key", format_key(key), "--no-psk")
    assert code == 0
    assert "<private key of kitchen>" in out
    assert "not known here" in err
    device = plane.registry.get("kitchen")
    assert (device.public_key, device.preshared_key) == (key, None)


async def test_a_list_all_or_nothing(plane: ControlPlane, tmp_path: Path) -> None:
    table = tmp_path / "fleet.csv"
    table.write_text("name,allow\nkitchen,lan\ngarden,\nkitchen,\n")
    code, out, err = await plane.lopower("device", "add", "--csv", str(table))
    assert (code, out) == (2, "")
    assert "line 4" in err
    assert plane.registry.devices() == []
    table.write_text("name,allow\nkitchen,lan\ngarden,\n")
    code, _, err = await plane.lopower("device", "add", "--csv", str(table), "--output", str(tmp_path / "fleet"))
    assert code == 0, err
    assert sorted(file.name for file in (tmp_path / "fleet").iterdir()) == ["garden.conf", "kitchen.conf"]
    code, out, err = await plane.lopower("device", "add", "--csv", "-", stdin=b"name\nhall\n")
    assert code == 0
    assert "device hall" in out


async def test_list_show_and_status(plane: ControlPlane) -> None:
    assert "no devices" in (await plane.lopower("device", "list"))[1]
    await plane.lopower("device", "add", "kitchen")
    plane.runtime.statistics["kitchen"] = DeviceStatistics(
        latest_handshake=5.0, last_packet=1.0, endpoint=HostPort("192.0.2.9", 4000), rx_bytes=1_500_000
    )
    code, out, _ = await plane.lopower("device", "list")
    assert code == 0
    assert "kitchen  10.90.0.2" in out
    assert "connected  5 s ago    1.5 MB" in out
    assert (await plane.lopower("device", "list", "-q"))[1] == "kitchen\n"
    assert json.loads((await plane.lopower("device", "list", "--json"))[1])["devices"][0]["state"] == "connected"
    assert "connected from 192.0.2.9:4000" in (await plane.lopower("device", "show", "kitchen"))[1]
    assert "1: 1 connected" in (await plane.lopower("status"))[1]
    assert json.loads((await plane.lopower("status", "--json"))[1])["port"] == 51820


async def test_show_says_why_a_device_does_not_connect(plane: ControlPlane) -> None:
    await plane.lopower("device", "add", "kitchen")
    plane.runtime.statistics["kitchen"] = DeviceStatistics(counters={"timestamp_not_newer": 2})
    out = (await plane.lopower("device", "show", "kitchen"))[1]
    assert "the device's clock went back" in out
    assert "lopower device reset-clock kitchen" in out


async def test_watch_goes_on_until_the_daemon_ends(plane: ControlPlane) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lopower.cli.main", "device", "list", "--json", "--watch", "0.1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=plane.environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert json.loads(await process.stdout.readline()) == {"devices": []}
    await plane.lopower("device", "add", "kitchen")
    async with asyncio.timeout(20):
        while True:
            if json.loads(await process.stdout.readline())["devices"]:
                break
    await plane.server.close()
    await process.communicate()
    assert process.returncode in (0, 1)


async def test_changes_of_a_device(plane: ControlPlane) -> None:
    await plane.lopower("device", "add", "kitchen")
    for arguments, said in (
        (("rename", "kitchen", "hall"), "kitchen is hall now"),
        (("disable", "hall"), "hall is disabled"),
        (("enable", "hall"), "hall is enabled"),
        (("allow", "hall", "lan:80", "internet"), "allow lan:80; allow internet"),
        (("deny", "hall", "192.0.2.1"), "deny 192.0.2.1"),
        (("allow", "hall", "lan:80", "--remove"), "allow internet; deny 192.0.2.1"),
        (("reset-clock", "hall"), "whatever its clock says"),
        (("remove", "hall"), "removed hall"),
    ):
        code, out, err = await plane.lopower("device", *arguments)
        assert (code, out) == (0, ""), err
        assert said in err
    assert plane.registry.devices() == []


async def test_outdated_and_the_new_configuration(plane: ControlPlane) -> None:
    await plane.lopower("device", "add", "kitchen")
    err = (await plane.lopower("device", "allow", "kitchen", "203.0.113.0/24"))[2]
    assert "lopower device config kitchen" in err
    assert "outdated" in (await plane.lopower("device", "list"))[1]
    out = (await plane.lopower("device", "config", "kitchen"))[1]
    assert "<private key of kitchen>" in out
    assert "outdated" not in (await plane.lopower("device", "list"))[1]


async def test_serve(plane: ControlPlane) -> None:
    assert "nothing is served" in (await plane.lopower("serve"))[1]
    assert (await plane.lopower("serve", "1883"))[1] == "the gateway's tcp port 1883 reaches 127.0.0.1:1883\n"
    assert "udp port 53 reaches 192.0.2.1:5353" in (await plane.lopower("serve", "53", "192.0.2.1:5353", "--udp"))[1]
    assert "1883  tcp       127.0.0.1:1883" in (await plane.lopower("serve"))[1]
    assert "is closed" in (await plane.lopower("serve", "1883", "--off"))[1]
    code, _, err = await plane.lopower("serve", "1883", "--off")
    assert code == 5, err


async def test_server_show(plane: ControlPlane) -> None:
    document = json.loads((await plane.lopower("server", "show", "--json"))[1])
    assert (document["gateway_ipv4"], document["gateway_ipv6"]) == ("10.90.0.1", "fd7a:115c:a1e0:9909::1")
    assert document["endpoints"] == ["192.0.2.7:51820"]
    assert "192.0.2.7:51820" in (await plane.lopower("server", "show"))[1]


async def test_ping(plane: ControlPlane) -> None:
    await plane.lopower("device", "add", "kitchen")
    code, out, _ = await plane.lopower("ping", "kitchen", "-c", "2", "-i", "0.01")
    assert code == 0
    assert "sequence 2, 12.5 ms" in out
    assert "2 of 2 answered" in out
    plane.runtime.echo_seconds[:] = [None]
    code, out, err = await plane.lopower("ping", "kitchen", "-c", "1")
    assert (code, out) == (1, "")
    assert "device show kitchen" in err


async def test_doctor_by_the_daemon_and_without_one(plane: ControlPlane, tmp_path: Path) -> None:
    document = json.loads((await plane.lopower("doctor", "--json"))[1])
    assert document["running"] is True
    names = [check["name"] for check in document["checks"]]
    assert names[:4] == ["state_directory", "port", "endpoint", "ranges"]
    document = json.loads((await plane.lopower("doctor", "--json", "--state-dir", str(tmp_path / "none")))[1])
    assert document["running"] is False
    assert [check["name"] for check in document["checks"]] == names


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("device", "show", "nobody"), 5, "there is no device 'nobody'"),
        (("device", "add", "kitchen", "--allow", "10.0.0.1/8"), 2, "bits set"),
        (("device", "add", "kitchen", "--address", "192.0.2.1"), 2, "10.90.0.0/24"),
        (("device", "add", "kitchen", "--public-key", "short"), 2, "not a key"),
        (("device", "add"), 2, "which name?"),
        (("device", "add", "kitchen", "--csv", "-"), 2, "does not go together with NAME"),
        (("device", "add", "kitchen", "--format", "xml"), 2, "invalid choice"),
        (("serve", "70000"), 2, "not a port"),
        (("serve", "80", "a.example"), 2, "not a target"),
        (("device", "list", "--watch", "0"), 2, "seconds from 0.1 to 3600"),
        (("wrong",), 2, "invalid choice"),
        ((), 2, "usage: lopower"),
    ],
)
async def test_mistakes_are_told_without_a_traceback(
    plane: ControlPlane, arguments: tuple[str, ...], code: int, said: str
) -> None:
    returned, out, err = await plane.lopower(*arguments)
    assert (returned, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


async def test_no_daemon_says_how_to_start_one(tmp_path: Path, plane: ControlPlane) -> None:
    plane.environment["LOPOWER_STATE_DIR"] = str(tmp_path / "none")
    code, _, err = await plane.lopower("status")
    assert code == 3
    assert "no lopower daemon is running" in err
    assert "lopower up" in err


async def test_the_socket_is_the_owners_and_goes_away_at_the_end(plane: ControlPlane) -> None:
    status = plane.settings.socket.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    await plane.server.close()
    assert not plane.settings.socket.exists()


async def test_a_group_may_use_it(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    async with control_plane(tmp_path, control_group=group) as plane:
        assert stat.S_IMODE(plane.settings.socket.stat().st_mode) == 0o660
        assert plane.settings.socket.stat().st_gid == os.getgid()


async def test_a_group_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ControlSocketError, match="there is no group 'no-such-group'"):
        async with control_plane(tmp_path, control_group="no-such-group"):
            pass
    assert not (tmp_path / "state/lopower.sock").exists()


async def test_whoever_may_not_use_the_socket_is_told_which_group_to_join(tmp_path: Path) -> None:
    require_root()  # to become somebody else
    group = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, 65534))
    async with control_plane(tmp_path, control_group=group.gr_name) as plane:
        for directory in (tmp_path, *tmp_path.parents):
            if directory == Path("/tmp"):
                break
            directory.chmod(directory.stat().st_mode | 0o011)
        plane.settings.state_dir.chmod(0o711)
        code = (
            "import os, shutil, sys, lopower.cli.status, lopower.control.client, lopower.daemon.settings, grp;"
            "from lopower.cli.main import main; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
            "sys.exit(main(['status']))"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, env=plane.environment
        )
        _, err = await process.communicate()
    assert process.returncode == 4, err
    assert f"usermod -aG {group.gr_name} $USER".encode() in err


async def test_a_socket_left_behind_is_replaced_and_one_in_use_is_not(plane: ControlPlane, tmp_path: Path) -> None:
    second = ControlServer(plane.operations, path=plane.settings.socket, mode=0o600, group=None)
    with pytest.raises(ControlSocketError, match="another daemon listens"):
        await second.start()
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    third = ControlServer(plane.operations, path=stale, mode=0o600, group=None)
    await third.start()
    await third.close()
    stale.write_text("precious")
    with pytest.raises(ControlSocketError, match="in the way"):
        await third.start()
    assert stale.read_text() == "precious"


async def test_changes_are_logged_with_who_asked_and_without_keys(
    plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        out = (await plane.lopower("device", "add", "kitchen"))[1]
    private_key = next(line for line in out.splitlines() if line.startswith("PrivateKey")).split(" = ")[1]
    assert "added kitchen" in caplog.text
    assert "user root (process" in caplog.text or "user " in caplog.text
    assert private_key not in caplog.text


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("GET /v1/nothing", b"", 404),
        ("PUT /v1/devices", b"", 405),
        ("GET /v1/devices?wat=1", b"", 400),
        ("GET /v1/devices?watch=nan", b"", 400),
        ("POST /v1/devices", b"{", 400),
        ("POST /v1/devices", b"[" * 100_000, 400),
        ("POST /v1/devices", b'{"devices": []}', 400),
        ("POST /v1/devices", b'{"devices": [{"name": "a"}], "csv": "name\\na\\n"}', 400),
        ("POST /v1/devices", b'{"devices": [{"name": "a"}], "format": "xml"}', 400),
        ("PATCH /v1/devices/a", b"{}", 400),
        ("DELETE /v1/served/tcp/99999999999999999999", b"", 400),
        ("DELETE /v1/served/tcp/1", b"", 404),
    ],
)
async def test_every_error_has_one_shape(plane: ControlPlane, request_line: str, body: bytes, status: int) -> None:
    head = f"{request_line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    code, answer = await http(plane.settings.socket, head.encode() + body)
    document = json.loads(answer)
    assert code == status
    assert set(document) == {"error", "hint"}
    assert document["error"]


async def test_an_internal_error_shows_nothing_of_itself(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(plane.runtime, "status", fail)
    code, answer = await http(plane.settings.socket, b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert code == 500
    assert b"secret" not in answer


async def test_a_settings_file_leads_to_the_socket(plane: ControlPlane, tmp_path: Path) -> None:
    file = tmp_path / "lopower.toml"
    file.write_text(f'state_dir = "{plane.settings.state_dir}"\n')
    del plane.environment["LOPOWER_STATE_DIR"]
    assert (await plane.lopower("status", "--config", str(file)))[0] == 0
    assert (await plane.lopower("--config", str(file), "status"))[0] == 0
    assert (await plane.lopower("status", "--socket", str(plane.settings.socket)))[0] == 0
    file.write_text("wrong = 1\n")
    code, _, err = await plane.lopower("status", "--config", str(file))
    assert code == 2
    assert "lopower.toml:1: wrong" in err


async def test_up_reports_bad_settings_and_config_init_writes_good_ones(tmp_path: Path) -> None:
    async def lopower(*arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lopower.cli.main", *arguments, env=environment(tmp_path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    code, _, err = await lopower("up", "--mtu", "7")
    assert code == 2
    assert "--mtu" in err
    file = tmp_path / "new/lopower.toml"
    assert (await lopower("config", "init", "--config", str(file)))[0] == 0
    assert resolve(flags={}, environ={"HOME": str(tmp_path)}, config=file).mtu == 1420
    code, _, err = await lopower("config", "init", "--config", str(file))
    assert code == 1
    assert "exists already" in err
