"""The real command, a blank virtual board, a real daemon on loopback: flashed, started, enrolled, connected."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import pytest
from nacl.bindings import crypto_scalarmult_base

from lopower_hil.virtual_board.board import Board, State
from lopower_provisioning import chips, contents, flasher, partitions
from tests.provisioning.conftest import PASSWORD, SSID, BoardMaker
from tests.provisioning.test_littlefs_on_micropython import run as on_micropython
from tests.support.loopback_daemon import LoopbackDaemon
from tests.support.micropython_site import micropython_site
from tests.support.stock_images import stock_image
from tests.support.watched import watched

FILESYSTEM = 0x200000
SIZE = 0x200000


def flash(daemon: LoopbackDaemon, port: str, *words: str, **variables: str) -> tuple[int, str, str]:
    variables.setdefault("LOPOWER_WIFI_PASSWORD", PASSWORD)
    done = daemon.lopower("flash", port, *words, **variables)
    return done.returncode, done.stdout, done.stderr


def settings_on(board: Board, scratch: Path) -> dict[str, object]:
    """/lopower.json, as MicroPython reads it from the board's flash."""
    copy = scratch / "copy-of-flash"
    copy.write_bytes(board.flash_file.read_bytes())
    found: dict[str, object] = json.loads(on_micropython("print(open('lopower.json').read())", copy, FILESYSTEM, SIZE))
    return found


def public_half(settings: dict[str, object]) -> str:
    return base64.b64encode(crypto_scalarmult_base(base64.b64decode(str(settings["private_key"])))).decode()


def test_a_blank_board_becomes_a_device_and_does_so_again(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    """Exactly `lopower flash PORT`, with a saved Wi-Fi: named by chip and MAC, its key made by itself, connected."""
    board = make_board(mac=bytes.fromhex("240ac4a1b2c3"))
    saved = tmp_path / ".config" / "lopower" / "wifi.json"
    saved.parent.mkdir(parents=True)
    saved.write_text(json.dumps({"networks": [{"ssid": SSID, "password": PASSWORD}]}))
    scratch = tmp_path / "temporary"
    scratch.mkdir()
    with watched(scratch) as watch, micropython_site() as site:
        site.add_images("ESP32_GENERIC", {"ESP32_GENERIC-20260901-v1.28.0.bin": image.read_bytes()})
        done = daemon.lopower("flash", board.port, LOPOWER_MICROPYTHON_URL=site.url, TMPDIR=str(scratch))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("esp32-a1b2c3 is connected")
    device = daemon.devices()["esp32-a1b2c3"]
    assert device["state"] == "connected"
    assert f"{device['ipv4']}, {device['ipv6']}" in done.stdout
    settings = settings_on(board, tmp_path)
    assert public_half(settings) == device["public_key"]
    for secret in (PASSWORD, str(settings["private_key"]), str(settings["proxies"][0]["preshared_key"])):  # type: ignore[index]
        assert not watch.holds(secret)
        assert secret not in done.stdout + done.stderr + daemon.log.read_text() + board.serial_text()
    assert watch.holds(board.port)  # so that it would have been seen
    assert list(scratch.iterdir()) == []

    # Once more: the same device with a new key; nobody is asked, nothing is left of the old one.
    assert daemon.lopower("device", "allow", "esp32-a1b2c3", "lan:80").returncode == 0
    code, out, err = flash(daemon, board.port, "--image", str(image), "--wifi", SSID)
    assert code == 0, out + err
    assert "looking at what it holds: lopower esp32-a1b2c3" in err
    again = daemon.devices()
    assert list(again) == ["esp32-a1b2c3"]
    assert again["esp32-a1b2c3"]["public_key"] == public_half(settings_on(board, tmp_path)) != device["public_key"]
    assert (again["esp32-a1b2c3"]["ipv4"], again["esp32-a1b2c3"]["rules"]) == (device["ipv4"], ["allow lan:80"])


def test_a_ready_configuration_twice(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    """Erased and flashed again with its old key, and without a clock, it is not older than the proxy remembers."""
    board = make_board()
    conf = tmp_path / "kitchen.conf"
    assert daemon.lopower("device", "add", "kitchen", "-o", str(conf)).returncode == 0
    main = tmp_path / "app"
    (main / "lib").mkdir(parents=True)
    (main / "main.py").write_text("from mine import VALUE\nprint('main says', VALUE)\n")
    (main / "lib" / "mine.py").write_text("VALUE = 6 * 7\n")
    words = ["--conf", str(conf), "--image", str(image), "--wifi", SSID, "--main", str(main)]
    words += ["--static-ip", "127.0.0.1/8,127.0.0.1"]
    for _ in range(2):
        code, out, err = flash(daemon, board.port, *words)
        assert code == 0, out + err
        assert out.startswith("kitchen is connected")
        assert daemon.devices()["kitchen"]["state"] == "connected"
        settings = settings_on(board, tmp_path)
        assert settings["wifi"][0]["address"] == "127.0.0.1"  # type: ignore[index]
        board.cut_power()
        board.flash_file.write_bytes(b"\xff" * (4 << 20))
        board.power_on()
    board.wait_for("main says 42", 1.0)


def test_a_key_made_here_and_steps_as_json(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    """Over RFC 2217, with DTR and RTS; the password out of a file."""
    board = make_board(rfc2217=True)
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    words = ["--name", "Hall", "--image", str(image), "--wifi", SSID, "--wifi-password-file", str(password)]
    done = daemon.lopower("flash", board.port, *words, "--keys", "host", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ended = [event["step"] for event in events if event["event"] == "step" and event["state"] == "done"]
    assert ended == [
        "finding the board", "looking at what it holds", "getting the image", "enrolling", "making the file system",
        "writing", "waiting for the handshake",
    ]  # fmt: skip
    assert any(event["event"] == "progress" and event["step"] == "writing" for event in events)
    result = events[-1]
    assert (result["event"], result["state"], result["name"]) == ("result", "connected", "hall")
    settings = settings_on(board, tmp_path)
    assert result["public_key"] == public_half(settings) == daemon.devices()["hall"]["public_key"]
    for secret in (PASSWORD, str(settings["private_key"])):
        assert secret not in done.stdout + done.stderr + daemon.log.read_text() + board.serial_text()


def test_offline_and_enrolled_afterwards(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    """What `server show` printed is enough; the list that comes of it makes the board a device."""
    board = make_board()
    server, devices = tmp_path / "server.txt", tmp_path / "devices.csv"
    server.write_text(daemon.lopower("server", "show").stdout)
    words = ["--name", "shed", "--offline", str(server), "--devices", str(devices), "--image", str(image)]
    code, out, err = flash(daemon, board.port, *words, "--wifi", SSID, LOPOWER_STATE_DIR=str(tmp_path / "nobody"))
    assert code == 0, out + err
    assert f"device add --csv {devices}" in out
    assert daemon.devices() == {}
    assert board.mac.hex(":") in devices.read_text()
    assert daemon.lopower("device", "add", "--csv", str(devices)).returncode == 0
    settings = settings_on(board, tmp_path)
    device = daemon.devices()["shed"]
    assert device["public_key"] == public_half(settings)
    assert [device["ipv4"], device["ipv6"]] == settings["proxies"][0]["addresses"]  # type: ignore[index]
    deadline = time.monotonic() + 60
    while daemon.devices()["shed"]["state"] != "connected":
        assert time.monotonic() < deadline, board.serial_text()
        time.sleep(0.2)


def test_several_at_once_one_of_which_fails(
    daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, tmp_path: Path
) -> None:
    good, other = make_board("one"), make_board("two", chip="ESP32-C3")
    plan = tmp_path / "plan.csv"
    plan.write_text(f"name,port,wifi,image\none,{good.port},{SSID},image.bin\ntwo,{other.port},{SSID},image.bin\n")
    done = daemon.lopower("flash", "--many", str(plan), LOPOWER_WIFI_PASSWORD=PASSWORD)
    assert done.returncode == 1
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert "connected" in rows["one"]
    assert "failed" in rows["two"]
    assert "the image is for ESP32, the board has ESP32-C3" in done.stdout
    assert "Nothing was written" in done.stdout
    assert done.stdout.endswith("1 of 2 boards are done\n")
    assert "one: enrolling" in done.stderr
    assert list(daemon.devices()) == ["one"]


def test_what_a_board_runs(daemon: LoopbackDaemon, make_board: BoardMaker, image: Path) -> None:
    """Blank, somebody else's MicroPython, which is not written over unasked, and a device of ours."""
    board = make_board()
    known = daemon.lopower("boards", board.port, "--probe", "--json")
    assert json.loads(known.stdout)["boards"][0]["runs"] == "nothing"
    with flasher.connect(board.port) as connected:
        connected.write([(0x1000, image.read_bytes())])
        assert contents.identify(connected).kind is contents.Kind.MICROPYTHON
        connected.restart()
    board.wait_for(">>>")  # it has formatted its file system
    before = board.flash_file.read_bytes()
    code, out, err = flash(daemon, board.port, "--image", str(image), "--wifi", SSID)
    assert (code, out) == (1, "")
    assert "runs micropython v1.28.0, perhaps with files of yours" in err
    assert "say --yes" in err
    assert board.flash_file.read_bytes() == before
    assert daemon.devices() == {}
    assert board.state is State.RUNNING  # again what it ran before
    code, out, err = flash(daemon, board.port, "--image", str(image), "--wifi", SSID, "--name", "kitchen", "--yes")
    assert code == 0, out + err
    known = daemon.lopower("boards", board.port, "--probe")
    assert "lopower on micropython v1.28.0" in known.stdout
    assert "kitchen" in known.stdout
    board.wait_for("MicroPython", 10.0)


def test_an_image_for_less_or_more_flash(daemon: LoopbackDaemon, make_board: BoardMaker, tmp_path: Path) -> None:
    """Refused before a byte is written."""
    from tests.support.stock_images import LAYOUT_8MB_OTA

    board = make_board()
    image = tmp_path / "large.bin"
    image.write_bytes(stock_image(chips.CHIPS[0], LAYOUT_8MB_OTA))
    code, _, err = flash(daemon, board.port, "--image", str(image), "--wifi", SSID)
    assert code == 1
    assert "made for 8 MB of flash, the board has 4" in err
    assert "Nothing was written" in err
    assert board.flash_file.read_bytes().strip(b"\xff") == b""


@pytest.mark.parametrize("name", ["kitchen", "Kitchen"])
def test_the_name_of_another_board(daemon: LoopbackDaemon, make_board: BoardMaker, image: Path, name: str) -> None:
    """It is not taken unasked; with --yes it keeps addresses and rules, and the old key is worth nothing."""
    board = make_board()
    assert daemon.lopower("device", "add", "kitchen").returncode == 0
    before = daemon.devices()["kitchen"]
    words = ["--image", str(image), "--wifi", SSID, "--name", name]
    code, _, err = flash(daemon, board.port, *words)
    assert code == 1
    assert "there is a device kitchen already" in err
    assert daemon.devices()["kitchen"]["public_key"] == before["public_key"]
    if name == "kitchen":
        code, out, err = flash(daemon, board.port, *words, "--yes")
        assert code == 0, out + err
        after = daemon.devices()["kitchen"]
        assert (after["ipv4"], after["state"]) == (before["ipv4"], "connected")
        assert after["public_key"] != before["public_key"]


def test_the_region_is_where_this_file_says() -> None:
    image = stock_image(chips.CHIPS[0])
    table = partitions.parse(image[0x8000 - 0x1000 :][: partitions.TABLE_SIZE])
    assert partitions.filesystem_region(table, 4 << 20) == partitions.Region(FILESYSTEM, SIZE)
