"""`lopower flash`: a bare board becomes a device."""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from lopower.cli import options, output
from lopower.cli.errors import FAILED, INTERRUPTED, OK, USAGE, CommandError
from lopower_provisioning import chips, offline, plan, settings_file, steps, wifi_store
from lopower_provisioning.chips import Chip
from lopower_provisioning.commands import flash_text, serial_update
from lopower_provisioning.commands.choosing import choose_port, on_terminal, ports_by_mac
from lopower_provisioning.commands.failures import told
from lopower_provisioning.commands.places import cache_path, text_of, wifi_path
from lopower_provisioning.job import Outcome, Request, flash
from lopower_provisioning.plan import Line
from lopower_provisioning.settings_file import StaticAddress, Wifi
from lopower_provisioning.several import flash_all
from lopower_provisioning.steps import JsonReporter, LineReporter, Reporter, TableReporter, TerminalReporter
from lopower_provisioning.targets import ConfTarget, DaemonTarget, Target

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Flash a board: image, files and settings in one pass; its key is made on the board; it is enrolled, and "
        "waited for until the proxy has heard of it. All that was on the board is lost."
    )
    add = parser.add_argument
    add(
        "port",
        nargs="?",
        metavar="PORT",
        help="also rfc2217:// and socket:// addresses; default: the only one attached",
    )
    add("--name", metavar="NAME", help="of the device; default: from chip and MAC, like esp32-a1b2c3")
    add("--wifi", action="append", metavar="SSID", help="a network, the preferred one first; default: those saved")
    add(
        "--wifi-password-file",
        metavar="FILE",
        help="a line for each --wifi (-: standard input); or LOPOWER_WIFI_PASSWORD",
    )
    add("--static-ip", metavar="ADDR/LEN,GATEWAY[,DNS]", help="an address in the Wi-Fi, instead of asking for one")
    add("--main", metavar="DIR", help="your files: what lies in there lies in / of the board")
    add("--mip", action="append", metavar="PACKAGE", help="a package of micropython-lib, or github:OWNER/REPOSITORY")
    add("--chip", metavar="CHIP", help="refuse a board with another, like esp32s3")
    add("--board", metavar="BOARD", help="the image of this name at micropython.org, like ESP32_GENERIC-SPIRAM")
    add("--image", metavar="FILE", help="this image, instead of the newest stable one for the chip")
    add("--keys", choices=("board", "host"), default="board", help="where the key is made; default: on the board")
    add("--conf", metavar="FILE", help="a ready configuration, with its key; no daemon is asked")
    add("--offline", metavar="SERVER", help="the output of `lopower server show` in a file; no daemon is asked")
    add("--devices", metavar="CSV", help="with --offline: the list for `device add --csv`; default: devices.csv")
    add("--many", metavar="CSV", help="all boards of a list: name, port or mac, wifi, board, image, main")
    add(
        "--update",
        action="store_true",
        help="a board that was flashed before: only lopower's package, its settings, and with --main your files; it "
        "keeps its key, and goes back by itself if it makes no handshake",
    )
    add("--remote-repl", action="store_true", help="the gateway may use the board's console: lopower repl")
    add("-y", "--yes", action="store_true", help="write over what the board runs, and take the name of another device")
    options.add_json(parser)
    parser.set_defaults(run=run)


@told
def run(arguments: argparse.Namespace) -> int:
    """Flash one board, or those of a list."""
    _refuse_contradictions(arguments)
    if arguments.update:
        return serial_update.run(arguments)
    if arguments.many is None and arguments.port is None:
        arguments.port = choose_port()  # before anything is asked that is of no use without a board
    wifi, asked = _networks(arguments)
    requests = _requests(arguments, wifi)
    reporter = _reporter(arguments, [request.label for request in requests])
    try:
        outcomes = [flash(requests[0], reporter)] if arguments.many is None else flash_all(requests, reporter)
    except KeyboardInterrupt:  # of many; one board's is in its outcome
        output.note("\nlopower: stopped by Ctrl-C; the boards that were under way are finished, the others untouched")
        return INTERRUPTED
    _show(arguments, outcomes)
    done = [outcome for outcome in outcomes if outcome.state in ("connected", "flashed")]
    if asked and done:
        _offer_to_save(asked)
    if any(outcome.state == "stopped" for outcome in outcomes):
        return INTERRUPTED
    return OK if len(done) == len(outcomes) else FAILED


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    pairs = (
        ("conf", "offline"), ("conf", "many"), ("conf", "daemon"), ("offline", "daemon"), ("image", "board"),
        ("many", "port"), ("many", "name"),
    )  # fmt: skip
    for one, other in pairs:
        if getattr(arguments, one, None) and getattr(arguments, other, None):
            names = [word.upper() if word == "port" else f"--{word}" for word in (one, other)]
            raise CommandError(f"{names[0]} does not go together with {names[1]}", "leave one out", USAGE)
    if arguments.update:
        serial_update.refuse_contradictions(arguments)
    if arguments.devices and not arguments.offline:
        raise CommandError("--devices goes with --offline", "a daemon keeps its devices itself", USAGE)
    if arguments.name is not None and not _NAME.fullmatch(arguments.name.lower()):
        raise CommandError(f"{arguments.name!r} cannot be a device's name", "letters, digits and hyphens", USAGE)


def _networks(arguments: argparse.Namespace) -> tuple[dict[str, Wifi], list[Wifi]]:
    """All networks that any board needs, by name, in the order of preference; and those that were asked for."""
    static = None if arguments.static_ip is None else StaticAddress.parse(arguments.static_ip)
    names = list(arguments.wifi or [])
    if arguments.many is not None:
        if static is not None:
            raise CommandError("--static-ip is for one board", "leave it out", USAGE)
        listed = [name for line in plan.read(Path(arguments.many)) for name in line.wifi]
        names = list(dict.fromkeys([*names, *listed]))
    passwords = wifi_store.given_passwords(arguments.wifi_password_file, os.environ)
    found, unknown = wifi_store.named(names, passwords, wifi_store.load(wifi_path()), static)
    asked: list[Wifi] = []
    if unknown or not found:
        if not on_terminal():
            what = f"the password of {unknown[0]} is not known" if unknown else "no Wi-Fi network is named"
            raise CommandError(
                what, "--wifi SSID, and --wifi-password-file FILE or the variable LOPOWER_WIFI_PASSWORD", USAGE
            )
        asked = [
            Wifi(name, getpass.getpass(f"Password of {name} (empty: it has none): "), static)
            for name in unknown or [input("Wi-Fi network: ").strip()]
        ]
    by_name = {network.ssid: network for network in (*found, *asked)}
    return {name: by_name[name] for name in (names or by_name)}, asked


def _requests(arguments: argparse.Namespace, wifi: dict[str, Wifi]) -> list[Request]:
    target = _targets(arguments)
    chip = _chip(arguments.chip)
    if arguments.many is None:
        line = Line(arguments.name, arguments.port, None, (), None, None, None)
        return [_request(arguments, line, arguments.port, tuple(wifi.values()), target, chip)]
    lines = plan.read(Path(arguments.many))
    places = ports_by_mac({line.mac for line in lines if line.mac}, {line.port for line in lines if line.port})
    default = tuple(wifi[name] for name in arguments.wifi or ()) or tuple(wifi.values())
    return [
        _request(
            arguments, line, line.port or places[line.mac or ""],
            tuple(wifi[name] for name in line.wifi) or default, target, chip,
        )
        for line in lines
    ]  # fmt: skip


def _request(
    arguments: argparse.Namespace,
    line: Line,
    port: str,
    wifi: tuple[Wifi, ...],
    target: Callable[[], Target],
    chip: Chip | None,
) -> Request:
    made = target()
    name = line.name or made.name
    image = line.image or (None if arguments.image is None or line.board else Path(arguments.image))
    return Request(
        port=port,
        label=name or port,
        target=made,
        cache=cache_path(),
        confirm=_confirm(arguments),
        name=None if name is None else name.lower(),
        wifi=wifi,
        chip=chip,
        board=None if image is not None else line.board or arguments.board,
        image=image,
        main=line.main or (None if arguments.main is None else Path(arguments.main)),
        packages=tuple(arguments.mip or ()),
        key_on_board=arguments.keys == "board",
        may_be_silent=arguments.offline is not None,
        remote_repl=arguments.remote_repl,
    )


def _targets(arguments: argparse.Namespace) -> Callable[[], Target]:
    """What makes a target for each board. A daemon is asked for its state now, before any board is touched."""
    if arguments.conf is not None:
        tunnel = settings_file.tunnel_from_conf(text_of(arguments.conf))
        return lambda: ConfTarget(tunnel)
    if arguments.offline is not None:
        server = offline.parse_server(text_of(arguments.offline))
        path = Path(arguments.devices or "devices.csv")
        return lambda: offline.OfflineTarget(server, path)
    client = options.client(arguments)
    client.get("server")
    return lambda: DaemonTarget(client)


def _confirm(arguments: argparse.Namespace) -> Callable[[str, str], bool]:
    def confirm(question: str, consequence: str) -> bool:
        if arguments.yes:
            return True
        if arguments.many is not None or arguments.json or not on_terminal():
            return False
        return input(f"{question} ({consequence}) [y/N] ").strip().lower() in ("y", "yes")

    return confirm


def _reporter(arguments: argparse.Namespace, labels: list[str]) -> Reporter:
    if arguments.json:
        return JsonReporter()
    if not sys.stderr.isatty():
        return LineReporter(several=len(labels) > 1)
    return TerminalReporter() if arguments.many is None else TableReporter(labels)


def _show(arguments: argparse.Namespace, outcomes: list[Outcome]) -> None:
    if arguments.json:
        for outcome in outcomes:
            steps.event("result", **flash_text.document(outcome))
    elif arguments.many is not None:
        output.say(flash_text.report(outcomes))
    elif outcomes[0].state in ("failed", "stopped"):
        output.note(flash_text.failure(outcomes[0]))
    else:
        output.say(flash_text.success(outcomes[0], arguments.offline is not None, arguments.devices or "devices.csv"))


def _offer_to_save(asked: list[Wifi]) -> None:
    path = wifi_path()
    if input(f"Keep the Wi-Fi for the next board, in {path}, for your eyes alone? [Y/n] ").strip().lower() in ("", "y"):
        wifi_store.save(path, asked)


def _chip(text: str | None) -> Chip | None:
    if text is None:
        return None
    wanted = text.lower().replace("-", "")
    chip = next((chip for chip in chips.CHIPS if chip.short_name == wanted), None)
    if chip is None:
        known = ", ".join(chip.short_name for chip in chips.CHIPS)
        raise CommandError(f"lopower does not run on a chip {text!r}", f"it runs on: {known}", USAGE)
    return chip
