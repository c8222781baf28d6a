"""The serial ports of this host, and what is known of a board there without touching it."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from typing import Any, Final

from lopower_provisioning.errors import FlashError

# USB vendors of the chips' own USB and of the bridges that boards have (usb.ids).
_BRIDGES: Final = {
    0x303A: "Espressif",
    0x10C4: "Silicon Labs",
    0x1A86: "WCH",
    0x0403: "FTDI",
    0x239A: "Adafruit",
    0x2E8A: "Raspberry Pi",
    0x067B: "Prolific",
}
BAUD: Final = 115_200
WRITE_SECONDS: Final = 5.0
_ESPRESSIF: Final = 0x303A
_MAC: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


@dataclass(frozen=True, slots=True)
class Port:
    """A serial port that a board may be at.

    Attributes:
        name: what the system calls it.
        description: of the USB device.
        mac: of the board, where its USB says it (the chips' own USB does).
    """

    name: str
    description: str
    mac: str | None


def attached() -> list[Port]:
    """The USB serial ports of makers that boards have, by name.

    Raises FlashError if pyserial is not installed.
    """
    try:
        from serial.tools import list_ports
    except ImportError:
        raise FlashError("pyserial is not installed", "install it with: pip install 'lopower[flash]'") from None
    found = []
    for port in list_ports.comports():
        if port.vid not in _BRIDGES:
            continue
        serial_number = port.serial_number or ""
        mac = serial_number.lower() if port.vid == _ESPRESSIF and _MAC.fullmatch(serial_number) else None
        maker = port.manufacturer or _BRIDGES[port.vid]
        found.append(Port(port.device, f"{maker} {port.product or ''}".strip(), mac))
    return sorted(found, key=lambda port: port.name)


def has_reset_lines(port: str) -> bool:
    """Whether the board can be reset through `port`: a plain TCP port carries bytes alone."""
    return not port.startswith("socket://")


def open_line(port: str) -> Any:
    """pyserial's object for a port, whose reads wait for a twentieth of a second. Raises OSError, ValueError."""
    import serial

    # Of pyserial's ports those of an address have no such limit, and refuse one.
    limit = None if "://" in port else WRITE_SECONDS
    return serial.serial_for_url(port, baudrate=BAUD, timeout=0.05, write_timeout=limit)


def check_right(port: str) -> None:
    """Raises FlashError if `port` is a device that is not there, or that the user may not use."""
    if os.name != "posix" or not port.startswith("/"):
        return  # a Windows name or an URL: opening it says what is wrong
    if not os.path.exists(port):
        raise FlashError(f"there is no {port}", "is the board plugged in? `lopower boards` shows what there is")
    if not os.access(port, os.R_OK | os.W_OK):
        raise FlashError(f"you may not use {port}", _how_to_get_right(port))


def _how_to_get_right(port: str) -> str:
    import grp

    if sys.platform != "linux":
        return f"its owner and rights are shown by: ls -l {port}"
    status = os.stat(port)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = "root"
    if group != "root" and status.st_mode & 0o060 == 0o060:
        return f"join its group, {group}, and log in again: sudo usermod -aG {group} $USER"
    vendor = next((port_.vid for port_ in _comports() if port_.device == port), None)
    which = 'SUBSYSTEM=="tty"' + ("" if vendor is None else f', ATTRS{{idVendor}}=="{vendor:04x}"')
    return (
        "no group has a right to it; a udev rule in /etc/udev/rules.d/60-boards.rules gives one: "
        f'{which}, MODE="0660", TAG+="uaccess", then: sudo udevadm control --reload && sudo udevadm trigger'
    )


def _comports() -> list[Any]:
    from serial.tools import list_ports

    return list(list_ports.comports())
