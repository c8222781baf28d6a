"""`lopower update`: package, settings and the user's files of boards, through the tunnel."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from lopower.cli import options, output
from lopower.cli.errors import FAILED, INTERRUPTED, OK, USAGE, CommandError
from lopower_provisioning import mip, rollout, steps, wifi_store
from lopower_provisioning.commands.choosing import on_terminal
from lopower_provisioning.commands.failures import told
from lopower_provisioning.commands.places import wifi_path
from lopower_provisioning.settings_file import StaticAddress, Wifi
from lopower_provisioning.steps import JsonReporter, LineReporter, Reporter, TableReporter, TerminalReporter
from lopower_provisioning.update import TRIAL_SECONDS, TRIALS, UpdateOutcome, UpdateRequest, update, user_files


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the command's options."""
    parser.description = (
        "Update boards through their tunnels: lopower's package, what they know of the proxy, Wi-Fi and your files if "
        "you name them. All is checked on the board before it switches; a board that makes no handshake then goes back "
        "by itself. The MicroPython image itself needs the cable: lopower flash."
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="devices")
    add("--all", action="store_true", help="all devices that are known to run lopower's firmware")
    add("--main", metavar="DIR", help="your files, in the place of all those of the last update; default: as they are")
    add("--mip", action="append", metavar="PACKAGE", help="as for lopower flash; goes with --main")
    add("--wifi", action="append", metavar="SSID", help="networks, in the place of those that the board has")
    add(
        "--wifi-password-file",
        metavar="FILE",
        help="a line for each --wifi (-: standard input); or LOPOWER_WIFI_PASSWORD",
    )
    add("--trial", type=int, default=TRIAL_SECONDS, metavar="SECONDS", help="for the handshake; default: 120")
    add("--parallel", type=int, default=8, metavar="N", help="how many at once; default: 8")
    add("--canary", type=int, default=1, metavar="N", help="how many go first; default: 1")
    add("--csv", metavar="FILE", help="write a report, a line for each board")
    options.add_json(parser)
    parser.set_defaults(run=run)


@told
def run(arguments: argparse.Namespace) -> int:
    """Update boards."""
    _refuse_contradictions(arguments)
    client = options.client(arguments)
    devices = client.get("devices")["devices"]
    names = _names(arguments, devices)
    request = UpdateRequest(
        wifi=networks(arguments),
        user=user_files(
            None if arguments.main is None else Path(arguments.main), mip.packages(tuple(arguments.mip or ()))
        ),
        trial=arguments.trial,
    )
    plan = rollout.Rollout(names, canary=arguments.canary, parallel=arguments.parallel)
    outcomes = plan.run(partial(_update, client, request), _reporter(arguments, names))
    _complete(outcomes, devices)
    if arguments.csv is not None:
        _write(Path(arguments.csv), rollout.report(outcomes))
    _show(arguments, outcomes, plan.stopped)
    if plan.stopped == rollout.INTERRUPTED:
        return INTERRUPTED
    return OK if all(outcome.ok for outcome in outcomes) else FAILED


def _update(client: object, request: UpdateRequest, name: str, reporter: Reporter) -> UpdateOutcome:
    return update(client, name, request, reporter)  # type: ignore[arg-type]


def _complete(outcomes: list[UpdateOutcome], devices: list[dict[str, Any]]) -> None:
    """What boards that were not begun run, as far as they have told it since they were started."""
    told = {device["name"]: device["firmware"] or {} for device in devices}
    for outcome in outcomes:
        if outcome.state == "skipped":
            firmware = told.get(outcome.name, {})
            outcome.before, outcome.image = firmware.get("package", ""), firmware.get("image", "")


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    if bool(arguments.names) == arguments.all:
        raise CommandError("which devices?", "lopower update NAME …, or --all", USAGE)
    if not 1 <= arguments.parallel <= rollout.MAX_PARALLEL:
        raise CommandError(f"--parallel is from 1 to {rollout.MAX_PARALLEL}", "", USAGE)
    if arguments.canary < 0:
        raise CommandError("--canary is how many boards go first", "0: none", USAGE)
    if arguments.trial not in TRIALS:
        raise CommandError(f"--trial is from {TRIALS.start} to {TRIALS.stop - 1} seconds", "", USAGE)
    if arguments.mip and not arguments.main:
        raise CommandError("--mip goes with --main", "an update replaces all of your files, or none", USAGE)


def _names(arguments: argparse.Namespace, devices: list[dict[str, object]]) -> list[str]:
    known = {str(device["name"]): device for device in devices}
    if arguments.all:
        names = [name for name, device in known.items() if device["firmware"] is not None and device["enabled"]]
        if not names:
            raise CommandError(
                "no device has said that it runs lopower's firmware", "flash one first: lopower flash", FAILED
            )
        return names
    names = list(dict.fromkeys(name.lower() for name in arguments.names))
    for name in names:
        if name not in known:
            raise CommandError(f"there is no device {name}", "lopower device list", USAGE)
    return names


def networks(arguments: argparse.Namespace, static: StaticAddress | None = None) -> tuple[Wifi, ...]:
    """Those that --wifi names, with their passwords; none: boards keep what they have.

    Raises CommandError, SettingsError.
    """
    if not arguments.wifi:
        return ()
    passwords = wifi_store.given_passwords(arguments.wifi_password_file, os.environ)
    found, unknown = wifi_store.named(arguments.wifi, passwords, wifi_store.load(wifi_path()), static)
    if unknown and not on_terminal():
        raise CommandError(
            f"the password of {unknown[0]} is not known",
            "--wifi-password-file FILE, or the variable LOPOWER_WIFI_PASSWORD",
            USAGE,
        )
    asked = [Wifi(name, getpass.getpass(f"Password of {name} (empty: it has none): "), static) for name in unknown]
    by_name = {network.ssid: network for network in (*found, *asked)}
    return tuple(by_name[name] for name in arguments.wifi)


def _reporter(arguments: argparse.Namespace, names: list[str]) -> Reporter:
    if arguments.json:
        return JsonReporter()
    if not sys.stderr.isatty() or len(names) > TableReporter.MAX_LINES:
        return LineReporter(several=len(names) > 1)
    return TerminalReporter() if len(names) == 1 else TableReporter(names)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, newline="")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", "", FAILED) from None


def _show(arguments: argparse.Namespace, outcomes: list[UpdateOutcome], stopped: str) -> None:
    if arguments.json:
        for outcome in outcomes:
            steps.event("result", **rollout.document(outcome))
        return
    if len(outcomes) == 1:
        outcome = outcomes[0]
        if outcome.ok:
            output.say(f"{outcome.name} runs {outcome.after} ({outcome.seconds:.1f} s)")
        else:
            output.note(f"lopower: {outcome.error}" + (f"\n  {outcome.hint}" if outcome.hint else ""))
        return
    rows = [(o.name, o.state, o.before, o.after, f"{o.seconds:.1f} s") for o in outcomes]
    output.say(output.table(("NAME", "STATE", "BEFORE", "AFTER", "TIME"), rows))
    for outcome in outcomes:
        if outcome.error and outcome.state != "skipped":
            output.note(f"\n{outcome.name}: {outcome.error}" + (f"\n  {outcome.hint}" if outcome.hint else ""))
    if stopped:
        output.note(f"\nlopower: the update was stopped: {stopped}; the boards that are left run what they ran before")
