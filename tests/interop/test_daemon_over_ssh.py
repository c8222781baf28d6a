"""`--daemon ssh://…`: the command line as a process, a real ssh, a real sshd, and a control server behind it."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.control_plane import ControlPlane, control_plane
from tests.support.sshd import Sshd, sshd

BIN = str(Path(sys.executable).parent)


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    async with control_plane(tmp_path) as made:
        yield made


@pytest.fixture
async def host(tmp_path: Path, plane: ControlPlane) -> AsyncIterator[Sshd]:
    """The control server's host, where `lopower` finds its daemon."""
    session = {"PATH": f"{BIN}:{os.defpath}", "LOPOWER_STATE_DIR": plane.environment["LOPOWER_STATE_DIR"]}
    with sshd(tmp_path / "ssh", session) as made:
        del plane.environment["LOPOWER_STATE_DIR"]
        plane.environment["PATH"] = f"{made.path}:{BIN}:{os.defpath}"
        yield made


async def test_every_kind_of_command(plane: ControlPlane, host: Sshd) -> None:
    """Add, list, show, change, remove; by option and by variable; with an answer that no single read holds."""
    code, out, err = await plane.lopower("device", "add", "kitchen", "--daemon", host.url)
    assert (code, err) == (0, "")
    assert "PrivateKey = " in out
    plane.environment["LOPOWER_DAEMON"] = host.url
    code, _, err = await plane.lopower("device", "disable", "kitchen")
    assert (code, err) == (0, "kitchen is disabled\n")
    names = [f"sensor-{number:03}" for number in range(150)]
    table = plane.settings.state_dir.parent / "list.csv"
    table.write_text("name\n" + "\n".join(names) + "\n")
    code, out, err = await plane.lopower("device", "add", "--csv", str(table), "--format", "json")
    assert (code, err) == (0, "added 150 devices\n")
    assert len(out) > 65_536
    code, out, _ = await plane.lopower("device", "list", "--json")
    assert [entry["name"] for entry in json.loads(out)["devices"]] == ["kitchen", *names]
    assert (await plane.lopower("device", "enable", "kitchen"))[0] == 0
    code, out, _ = await plane.lopower("ping", "kitchen", "-c", "1")
    assert (code, "answered" in out) == (0, True)
    assert (await plane.lopower("device", "remove", "kitchen"))[0] == 0
    code, _, err = await plane.lopower("device", "show", "kitchen")
    assert (code, "no device" in err or "kitchen" in err) == (5, True)


async def test_a_watch_ends_with_its_reader(plane: ControlPlane, host: Sshd) -> None:
    """Lines come as they are made; when the reader has gone, so have ssh and what it started."""
    words = ["status", "--json", "--watch", "0.1", "--daemon", host.url]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lopower.cli.main", *words, stdout=asyncio.subprocess.PIPE, env=plane.environment
    )
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(await process.stdout.readline())["state_dir"] == str(plane.settings.state_dir)
    assert plane.server._watches
    process.terminate()
    await process.wait()
    for _ in range(100):
        if not plane.server._watches:
            return
        await asyncio.sleep(0.1)
    pytest.fail("the daemon still writes for somebody who has gone")


async def test_a_socket_of_ones_own(plane: ControlPlane, host: Sshd, tmp_path: Path) -> None:
    """The path is not a shell's to read."""
    place = tmp_path / "it's here; touch gone"
    place.symlink_to(plane.settings.state_dir)
    url = f"{host.url}{str(place).replace(' ', '%20')}/{plane.settings.socket.name}"
    code, out, err = await plane.lopower("status", "--json", "--daemon", url)
    assert (code, err) == (0, "")
    assert json.loads(out)["state_dir"] == str(plane.settings.state_dir)
    assert "gone" not in os.listdir()


async def test_no_daemon_there(plane: ControlPlane, host: Sshd) -> None:
    await plane.server.close()
    for command in (["status"], ["doctor"]):
        code, out, err = await plane.lopower(*command, "--daemon", host.url)
        assert (code, out) == (3, "")
        assert "no lopower daemon is running on" in err


async def test_no_lopower_there(plane: ControlPlane, tmp_path: Path) -> None:
    with sshd(tmp_path / "bare", {"PATH": os.defpath, "HOME": str(tmp_path)}) as bare:
        plane.environment["PATH"] = f"{bare.path}:{os.defpath}"
        code, _, err = await plane.lopower("status", "--daemon", bare.url)
    if shutil.which("lopower", path=f"{os.defpath}:/usr/local/bin:/opt/lopower/bin") is None:
        assert (code, "there is no lopower on" in err) == (1, True)


async def test_a_host_that_is_not_the_one_known(plane: ControlPlane, host: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "ssh" / "known_hosts"
    known.write_text(f"[127.0.0.1]:{host.port} " + (tmp_path / "ssh" / "user_key.pub").read_text())
    code, out, err = await plane.lopower("status", "--daemon", host.url)
    assert (code, out) == (1, "")
    assert "ssh does not reach" in err
    assert "verification failed" in err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["status", "--daemon", "http://pi"], "it is ssh://"),
        (["status", "--daemon", "ssh://-oProxyCommand=touch%20x"], "it is ssh://"),
        (["status", "--daemon", "ssh://pi:secret@host"], "it is ssh://"),
        (["status", "--daemon", "ssh://pi", "--socket", "/x"], "does not go together"),
        (["up", "--daemon", "ssh://pi"], "about this host"),
    ],
)
async def test_what_cannot_be_meant(plane: ControlPlane, words: list[str], reason: str) -> None:
    code, out, err = await plane.lopower(*words)
    assert (code, out) == (2, "")
    assert reason in err, shlex.join(words)
    assert "secret" not in err
