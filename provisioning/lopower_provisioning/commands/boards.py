"""`lopower boards`: the serial ports that boards may be at, and with --probe what is there."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from lopower.cli import options, output
from lopower.cli.errors import OK
from lopower_provisioning import contents, flasher, ports
from lopower_provisioning.commands.failures import told
from lopower_provisioning.contents import Kind
from lopower_provisioning.errors import ProvisioningError
from lopower_provisioning.ports import Port


@dataclass(slots=True)
class Found:
    """A port, and the board there as far as it is known; what is not is empty."""

    port: str
    description: str = ""
    mac: str = ""
    chip: str = ""
    flash_size: int = 0
    runs: str = ""
    name: str = ""
    error: str = ""


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "List serial ports that boards may be at, without disturbing what runs there. With --probe: ask the boards, "
        "which resets them."
    )
    parser.add_argument("ports", nargs="*", metavar="PORT", help="these alone; also rfc2217:// and socket:// addresses")
    parser.add_argument("--probe", action="store_true", help="chip, MAC, flash, firmware and name; resets the boards")
    options.add_json(parser)
    parser.set_defaults(run=run)


@told
def run(arguments: argparse.Namespace) -> int:
    """List them."""
    attached = ports.attached()
    if arguments.ports:
        known = {port.name: port for port in attached}
        attached = [known.get(name, Port(name, "", None)) for name in arguments.ports]
    found = [Found(port.name, port.description, port.mac or "") for port in attached]
    if arguments.probe:
        for entry in found:
            probe(entry)
    if arguments.json:
        output.show_json({"boards": [asdict(entry) for entry in found]})
    elif not found:
        output.note("no board is attached; see whether the cable carries data, and `lopower boards PORT --probe`")
    elif arguments.probe:
        rows = [
            (entry.port, entry.chip, entry.mac, _size(entry), entry.error or entry.runs, entry.name) for entry in found
        ]
        output.say(output.table(("PORT", "CHIP", "MAC", "FLASH", "RUNS", "DEVICE"), rows))
    else:
        listed = [(entry.port, entry.mac or "-", entry.description) for entry in found]
        output.say(output.table(("PORT", "MAC", "WHAT"), listed))
    return OK


def probe(entry: Found) -> None:
    """Ask the board, and let it start again; a board that cannot be asked says why."""
    try:
        with flasher.connect(entry.port) as board:
            entry.chip, entry.mac, entry.flash_size = board.chip.name, board.mac, board.flash_size
            held = contents.identify(board)
            kind = held.kind.value
            entry.runs = f"lopower on {held.firmware}" if held.kind is Kind.LOPOWER and held.firmware else kind
            if held.kind in (Kind.MICROPYTHON, Kind.UNKNOWN):
                entry.runs = held.firmware or kind
            entry.name = held.name or ""
            board.restart()
    except ProvisioningError as error:
        entry.error = str(error)


def _size(entry: Found) -> str:
    return f"{entry.flash_size >> 20} MB" if entry.flash_size else ""
