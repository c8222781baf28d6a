"""A labgrid environment, with comments, for the boards that are attached."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from lopower_hil.bench.errors import BenchError
from lopower_provisioning import ports

_HEAD = """\
# The bench, as a labgrid environment (https://labgrid.readthedocs.io, "Configuration").
#
#   lopower bench check --lg-env {file}      tries all of it
#   pytest --lg-env {file}                   tests on it
#
# A board's name is that of its target. Resources are what there is, drivers what uses it, in this order: what switches
# power and Wi-Fi comes before the MicroPythonDriver, which takes it from its target.
imports:
- lopower_hil.labgrid_drivers

# Stock images by key, for `image` below; a path is taken from this file's place. Without one the newest is downloaded.
# images:
#   esp32: ESP32_GENERIC-v1.28.0.bin

targets:
"""
_TARGET = """\
  {name}:
    resources:
{port}
      # The network that the board joins; its password is in the environment variable, never in this file.
      WifiAccessPoint:
        ssid: CHANGE-ME
        password_variable: LOPOWER_WIFI_PASSWORD
      # A port of a USB hub that can switch it (uhubctl lists them), or any other power switch of labgrid's.
      # USBPowerPort:
      #   match: {{ID_PATH: pci-0000:00:14.0-usb-0:2:1.0}}
      #   index: 1
    drivers:
      # USBPowerDriver: {{}}
      # Or commands, for what labgrid has no driver for:
      # ExternalPowerDriver:
      #   cmd_on: plug on 4
      #   cmd_off: plug off 4
      # An access point on this machine, by hostapd:
      # AccessPointCommandDriver:
      #   cmd_on: sudo hostapd_cli -i wlan0 enable
      #   cmd_off: sudo hostapd_cli -i wlan0 disable
      MicroPythonDriver: {{}}
      #   image: esp32
"""
_TAIL = """\
# Boards of other machines: their exporters name them to a coordinator, which hands them out as places. A target has
#
#     resources:
#       RemotePlace:
#         name: kitchen
#
# in place of its serial and power port, and this file the coordinator's address:
#
# options:
#   coordinator_address: lab.example:20408
"""


def attached_ports() -> list[str]:
    """Of the boards that are attached. Raises BenchError if there are none, ProvisioningError without pyserial."""
    found = [port.name for port in ports.attached()]
    if not found:
        raise BenchError("no board is attached; see whether the cable carries data")
    return found


def environment(names: Sequence[str], file: str = "bench.yaml", links: Path = Path("/dev/serial")) -> str:
    """The text of the file for boards at these ports.

    Args:
        links: where udev keeps names of serial ports that stay the same.

    Raises BenchError for an address of a kind that labgrid has no resource for.
    """
    targets = [_TARGET.format(name=f"board{number}", port=_port(name, links)) for number, name in enumerate(names, 1)]
    return _HEAD.format(file=file) + "\n".join(targets) + "\n" + _TAIL


def _port(name: str, links: Path) -> str:
    if "://" not in name:
        stable = _stable_name(name, links)
        note = (
            ""
            if stable == name
            else f"      # {name} when this was written; this name stays with the board or socket.\n"
        )
        return f"{note}      RawSerialPort:\n        port: {json.dumps(stable)}\n        speed: {ports.BAUD}"
    address = urlsplit(name)
    protocol = {"rfc2217": "rfc2217", "socket": "raw"}.get(address.scheme)
    try:
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if protocol is None or not host or not port:
        raise BenchError(f"{name} is no port that labgrid knows: a device, rfc2217://HOST:PORT, or socket://HOST:PORT")
    return (
        f"      NetworkSerialPort:\n        host: {json.dumps(host)}\n        port: {port}\n"
        f"        speed: {ports.BAUD}\n        protocol: {protocol}"
    )


def _stable_name(name: str, links: Path) -> str:
    """The name that is the board's own, by its serial number, or else that of the socket it is plugged into."""
    real = os.path.realpath(name)
    for kind in ("by-id", "by-path"):
        try:
            found = sorted(link for link in (links / kind).iterdir() if os.path.realpath(link) == real)
        except OSError:
            continue
        if found:
            return str(found[0])
    return name
