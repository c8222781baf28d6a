"""The QR codes we draw, read by zbar."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from lopower.devices.configurations import png, qr
from lopower.devices.device import Device
from lopower_hil.virtual_device.configuration import DeviceConfiguration
from tests.support.registries import device, server_facts
from tests.support.requirements import require_program

PRIVATE = bytes(range(1, 33))
PRESHARED = bytes(range(101, 133))
PIXELS = 6


def decoded(path: Path) -> DeviceConfiguration:
    zbarimg = require_program("zbarimg")
    result = subprocess.run([zbarimg, "--quiet", "--raw", str(path)], capture_output=True, text=True, check=True)
    return DeviceConfiguration.parse(result.stdout)


def check(own: Device, path: Path) -> None:
    configuration = decoded(path)
    assert (configuration.private_key, configuration.preshared_key) == (PRIVATE, PRESHARED)
    assert [address.ip for address in configuration.addresses] == [own.ipv4, own.ipv6]
    assert configuration.endpoint == ("vpn.example.org", 51820)


@pytest.fixture(params=[(), ("internet",), ("device:phone", "lan")], ids=["small", "internet", "rules"])
def own(request: pytest.FixtureRequest) -> Device:
    return device("kitchen", 2, *request.param, preshared_key=PRESHARED)


def test_the_picture_is_read(own: Device, tmp_path: Path) -> None:
    path = tmp_path / "kitchen.png"
    path.write_bytes(png(own, server_facts([own]), PRIVATE))
    check(own, path)


@pytest.mark.parametrize("background", [0, 255], ids=["dark terminal", "light terminal"])
def test_the_terminal_s_code_is_read(own: Device, tmp_path: Path, background: int) -> None:
    """The terminal is painted as a terminal does it: colours by the escape sequences, blocks by the characters."""
    lines = qr(own, server_facts([own]), PRIVATE).splitlines()
    rows: list[list[int]] = []
    for line in lines:
        ink, paper, upper, lower = 255 - background, background, list[int](), list[int]()
        rest = line
        while rest:
            if rest.startswith("\x1b["):
                sequence, _, rest = rest[2:].partition("m")
                assert sequence in ("38;2;0;0;0;48;2;255;255;255", "0")
                ink, paper = (0, 255) if sequence != "0" else (255 - background, background)
                continue
            upper.append(ink if rest[0] in "▀█" else paper)
            lower.append(ink if rest[0] in "▄█" else paper)
            rest = rest[1:]
        rows += [upper, lower]
    margin = 8
    picture = Image.new("L", (len(rows[0]) + 2 * margin, len(rows) + 2 * margin), background)
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            picture.putpixel((x + margin, y + margin), value)
    path = tmp_path / "terminal.png"
    picture.resize((picture.width * PIXELS, picture.height * PIXELS), Image.Resampling.NEAREST).save(path)
    check(own, path)
