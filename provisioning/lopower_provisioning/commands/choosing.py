"""Which port is meant."""

from __future__ import annotations

import sys

from lopower.cli import output
from lopower.cli.errors import USAGE, CommandError
from lopower_provisioning import flasher, ports
from lopower_provisioning.errors import FlashError, ProvisioningError


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def choose_port() -> str:
    """The only board attached; with several the user chooses.

    Raises CommandError if there is none, or nobody to ask.
    """
    found = ports.attached()
    if not found:
        raise CommandError(
            "no board is attached", "plug one in (some cables only charge), or name its port: lopower flash PORT", USAGE
        )
    if len(found) == 1:
        return found[0].name
    if not on_terminal():
        names = ", ".join(port.name for port in found)
        raise CommandError(f"there are several boards: {names}", "name one: lopower flash PORT, or --many", USAGE)
    for number, port in enumerate(found, 1):
        output.note(f"{number}  {port.name}  {port.description}  {port.mac or ''}".rstrip())
    answer = input(f"Which one? [1-{len(found)}] ").strip()
    if not (answer.isdecimal() and 1 <= int(answer) <= len(found)):
        raise CommandError(f"{answer!r} is none of them", "nothing was written", USAGE)
    return found[int(answer) - 1].name


def ports_by_mac(wanted: set[str], named: set[str]) -> dict[str, str]:
    """Where the boards with these MAC addresses are: by what their USB says, else by asking those not named otherwise.

    Raises ProvisioningError if one is not attached.
    """
    found: dict[str, str] = {}
    if not wanted:
        return found
    silent = []
    for port in ports.attached():
        if port.mac is not None:
            found[port.mac] = port.name
        elif port.name not in named:
            silent.append(port.name)
    for name in silent:
        if wanted <= found.keys():
            break
        try:
            with flasher.connect(name) as board:
                found[board.mac] = name
                board.restart()
        except FlashError as error:
            output.note(f"{name}: {error}")
    missing = sorted(wanted - found.keys())
    if missing:
        raise ProvisioningError(
            f"the board {missing[0]} is not attached", "`lopower boards --probe` shows those that are"
        )
    return found
