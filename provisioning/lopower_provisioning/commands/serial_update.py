"""`lopower flash PORT --update`: the update of one board at its serial port."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lopower.cli import options, output
from lopower.cli.errors import FAILED, INTERRUPTED, OK, USAGE, CommandError
from lopower_provisioning import mip, rollout, settings_file, steps
from lopower_provisioning.commands.choosing import choose_port
from lopower_provisioning.commands.places import text_of
from lopower_provisioning.commands.update import networks
from lopower_provisioning.serial_update import ConfSource, DaemonSource, Source, update_over_serial
from lopower_provisioning.settings_file import StaticAddress
from lopower_provisioning.steps import JsonReporter, LineReporter, Reporter, TerminalReporter
from lopower_provisioning.update import UpdateOutcome, UpdateRequest, user_files

_STATES = {
    "failed": "The board runs what it ran before. If it does not start by itself within a minute: press RESET.",
    "lost": "It was told to switch; whichever set of files it starts with is complete.",
    "went back": "The board runs what it ran before.",
}


def refuse_contradictions(arguments: argparse.Namespace) -> None:
    """Raises CommandError for an option that only a flashing has."""
    for name in ("many", "offline", "image", "board", "chip", "remote_repl"):
        if getattr(arguments, name):
            option = name.replace("_", "-")
            raise CommandError(
                f"--{option} does not go together with --update", "leave one out: an update keeps image and key", USAGE
            )
    if arguments.keys != "board":
        raise CommandError("--keys does not go together with --update", "an update keeps the board's key", USAGE)
    if arguments.mip and not arguments.main:
        raise CommandError("--mip goes with --main", "an update replaces all of your files, or none", USAGE)
    if arguments.static_ip and not arguments.wifi:
        raise CommandError("--static-ip goes with --wifi", "an update replaces all networks, or none", USAGE)


def run(arguments: argparse.Namespace) -> int:
    """Update the board."""
    static = None if arguments.static_ip is None else StaticAddress.parse(arguments.static_ip)
    request = UpdateRequest(
        wifi=networks(arguments, static),
        user=user_files(
            None if arguments.main is None else Path(arguments.main), mip.packages(tuple(arguments.mip or ()))
        ),
    )
    source, name = _source(arguments)
    port = arguments.port or choose_port()
    outcome = update_over_serial(port, name, source, request, _reporter(arguments))
    if arguments.json:
        steps.event("result", port=port, **rollout.document(outcome))
    elif outcome.ok:
        output.say(f"{outcome.name} runs {outcome.after} ({outcome.seconds:.1f} s)")
    else:
        output.note(_failure(outcome))
    if outcome.error == rollout.INTERRUPTED:
        return INTERRUPTED
    return OK if outcome.ok else FAILED


def _source(arguments: argparse.Namespace) -> tuple[Source, str | None]:
    """Where settings come from, and the device's name if it is known before the board is asked."""
    name = None if arguments.name is None else arguments.name.lower()
    if arguments.conf is not None:
        tunnel = settings_file.tunnel_from_conf(text_of(arguments.conf))
        return ConfSource(tunnel), name or tunnel.name
    client = options.client(arguments)
    client.get("server")  # before the board is touched
    return DaemonSource(client), name


def _reporter(arguments: argparse.Namespace) -> Reporter:
    if arguments.json:
        return JsonReporter()
    return TerminalReporter() if sys.stderr.isatty() else LineReporter(several=False)


def _failure(outcome: UpdateOutcome) -> str:
    lines = [f"lopower: {outcome.error}", f"  {_STATES.get(outcome.state, '')}"]
    return "\n".join([*lines, f"  {outcome.hint}"] if outcome.hint else lines)
