"""`lopower device …`: who may connect, and what each may reach."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

from lopower.cli import device_text, options, output
from lopower.cli.errors import FAILED, OK, USAGE, CommandError

FORMATS: Final = ("conf", "qr", "png", "json", "esphome", "arduino")


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the commands and their options."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))

    def action(name: str, text: str, *, named: bool = True, **more: Any) -> argparse.ArgumentParser:
        made = actions.add_parser(name, parents=[common], allow_abbrev=False, help=text, **more)
        if named:
            made.add_argument("name", metavar="NAME", help="the device")
        return made

    _define_add(action("add", "add a device, and print its configuration", named=False))

    listing = action("list", "all devices", named=False)
    listing.add_argument("-q", "--quiet", action="store_true", help="names alone")
    options.add_watch(listing)
    listing.set_defaults(run=run_list)

    show = action("show", "one device, and why it does not connect")
    options.add_watch(show)
    show.set_defaults(run=run_show)

    logs = action("logs", "a board's last starts, updates and exceptions, out of its flash")
    options.add_json(logs)
    logs.set_defaults(run=run_logs)

    config = action(
        "config",
        "print a device's configuration as it should be now",
        description="Print a device's configuration as it should be now, with a placeholder for its private key, which "
        "only the device has. It is no longer marked outdated then.",
    )
    _add_format(config)
    config.set_defaults(run=run_config)

    remove = action("remove", "remove a device; its key is worth nothing from then on")
    remove.set_defaults(run=run_remove)

    rename = action("rename", "give a device another name")
    rename.add_argument("new_name", metavar="NEW-NAME", help="a DNS label")
    rename.set_defaults(run=run_rename)

    for verb, text in (
        ("enable", "let a device connect again"),
        ("disable", "keep a device, but do not let it connect"),
    ):
        action(verb, text).set_defaults(run=run_enable, enabled=verb == "enable")

    for verb, text in (("allow", "let a device reach more"), ("deny", "keep a device from what is allowed")):
        change = action(verb, text)
        change.add_argument("rules", nargs="+", metavar="RULE", help="CIDR[:PORTS], internet, lan or device:NAME")
        change.add_argument("--remove", action="store_true", help="take the rule back")
        change.set_defaults(run=run_rules, verb=verb)

    reset = action(
        "reset-clock",
        "accept a device whose clock went back",
        description="Accept a device's next handshake although its clock went back. Until it comes, recorded "
        "handshakes of the device could be replayed; that opens no session.",
    )
    reset.set_defaults(run=run_reset_clock)


def _define_add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add a device, and print its configuration: with a QR code on a terminal, alone in a pipe. "
        "Its private key is shown this once and kept nowhere."
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a DNS label")
    _add_format(parser)
    parser.add_argument("--public-key", metavar="KEY", help="the device keeps its private key; this is its public one")
    parser.add_argument("--no-psk", action="store_true", help="no preshared key")
    parser.add_argument(
        "--address", action="append", metavar="ADDR", help="IPv4 or IPv6 address inside; one of each may be given"
    )
    parser.add_argument("--ipv6-only", action="store_true", help="no IPv4 address")
    parser.add_argument("--allow", action="append", metavar="RULE", help="CIDR[:PORTS], internet, lan or device:NAME")
    parser.add_argument("--deny", action="append", metavar="RULE", help="what it may not reach although it is allowed")
    parser.add_argument("--full-tunnel", action="store_true", help="all of its traffic goes through the tunnel")
    parser.add_argument("--mtu", type=int, metavar="BYTES", help="of its tunnel; default: the server's")
    parser.add_argument("--keepalive", type=int, metavar="SECONDS", help="persistent keepalive; 0: none; default: 25")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="add all devices of a list (-: standard input), or none; --output then names a directory",
    )
    parser.set_defaults(run=run_add)


def _add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default=None, help="of the configuration; default: conf")
    parser.add_argument("-o", "--output", metavar="FILE", help="write it there, for the owner's eyes alone (0600)")


def run_add(arguments: argparse.Namespace) -> int:
    """Add one device, or a list."""
    if arguments.csv is not None:
        return _add_list(arguments)
    if arguments.name is None:
        raise CommandError("which name?", "lopower device add NAME, or --csv FILE", USAGE)
    target = None if arguments.output is None else _new_file(Path(arguments.output))
    on_terminal = sys.stdout.isatty() and target is None
    form = arguments.format or "conf"
    if form == "png" and on_terminal:
        raise CommandError("a PNG is no text for a terminal", "name a file with --output, or use a pipe", USAGE)
    body: dict[str, Any] = {"name": arguments.name, "preshared_key": not arguments.no_psk}
    body["rules"] = [*_rules("allow", arguments.allow or []), *_rules("deny", arguments.deny or [])]
    body["addresses"] = [*(arguments.address or []), *(["ipv6-only"] if arguments.ipv6_only else [])]
    body["full_tunnel"] = arguments.full_tunnel
    body["public_key"], body["mtu"] = arguments.public_key, arguments.mtu
    body["persistent_keepalive"] = arguments.keepalive
    request = {"devices": [body], "format": form, "qr": on_terminal and arguments.format is None}
    try:
        added = options.client(arguments).request("POST", ["devices"], request)["devices"][0]
    except BaseException:
        if target is not None:
            target.unlink()
        raise
    _print_configuration(added, target)
    return OK


def run_config(arguments: argparse.Namespace) -> int:
    """Print a configuration, without the private key."""
    target = None if arguments.output is None else _new_file(Path(arguments.output))
    try:
        body = {"format": arguments.format or "conf"}
        document = options.client(arguments).request("POST", ["devices", arguments.name, "configuration"], body)
    except BaseException:
        if target is not None:
            target.unlink()
        raise
    _print_configuration(document, target)
    return OK


def run_list(arguments: argparse.Namespace) -> int:
    """All devices."""
    if arguments.quiet:
        for entry in options.client(arguments).get("devices")["devices"]:
            output.say(entry["name"])
        return OK
    documents = options.documents(arguments, "devices")
    output.show(documents, arguments.json, arguments.watch is not None, device_text.listing)
    return OK


def run_show(arguments: argparse.Namespace) -> int:
    """One device."""
    documents = options.documents(arguments, "devices", arguments.name)
    output.show(documents, arguments.json, arguments.watch is not None, device_text.details)
    return OK


def run_logs(arguments: argparse.Namespace) -> int:
    """What a board has kept."""
    from lopower.control.visit import Visit

    with Visit(options.client(arguments), arguments.name) as visit:
        found = visit.log()
    entries = [{"time": output.utc(seconds), "uptime_ms": uptime, "text": text} for seconds, uptime, text in found]
    if arguments.json:
        output.show_json({"entries": entries})
    else:
        output.say(device_text.log(entries))
    return OK


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove."""
    document = options.client(arguments).request("DELETE", ["devices", arguments.name])
    output.note(f"removed {document['name']}")
    return OK


def run_rename(arguments: argparse.Namespace) -> int:
    """Rename."""
    document = options.client(arguments).request("PATCH", ["devices", arguments.name], {"name": arguments.new_name})
    output.note(f"{arguments.name} is {document['name']} now")
    return OK


def run_enable(arguments: argparse.Namespace) -> int:
    """Enable or disable."""
    body = {"enabled": arguments.enabled}
    document = options.client(arguments).request("PATCH", ["devices", arguments.name], body)
    output.note(f"{document['name']} is {'enabled' if document['enabled'] else 'disabled'}")
    return OK


def run_rules(arguments: argparse.Namespace) -> int:
    """Add rules, or take them back."""
    key = "remove" if arguments.remove else "add"
    body = {key: _rules(arguments.verb, arguments.rules)}
    document = options.client(arguments).request("POST", ["devices", arguments.name, "rules"], body)
    output.note(f"rules of {document['name']}: {'; '.join(document['rules']) or 'none'}")
    if document["outdated"]:
        output.note(f"its configuration is outdated now: lopower device config {document['name']}")
    return OK


def run_reset_clock(arguments: argparse.Namespace) -> int:
    """Reset the time stamp."""
    document = options.client(arguments).request("POST", ["devices", arguments.name, "reset-clock"])
    output.note(f"the next handshake of {document['name']} is accepted, whatever its clock says")
    return OK


def _rules(verb: str, texts: list[str]) -> list[str]:
    """Rules with their verb, which users leave away because the command says it."""
    return [text if text.startswith(f"{verb} ") else f"{verb} {text}" for text in texts]


def _add_list(arguments: argparse.Namespace) -> int:
    """Add a list; a file for each device in a directory, or all of them as JSON lines."""
    single = (
        ("NAME", arguments.name),
        ("--public-key", arguments.public_key),
        ("--address", arguments.address),
        ("--allow", arguments.allow),
        ("--deny", arguments.deny),
        ("--mtu", arguments.mtu),
        ("--keepalive", arguments.keepalive),
    )
    given = [name for name, value in single if value is not None]
    given += [flag for flag in ("no_psk", "ipv6_only", "full_tunnel") if getattr(arguments, flag)]
    if given:
        raise CommandError(f"--csv does not go together with {given[0]}", "put it into a column of the list", USAGE)
    form = arguments.format or "conf"
    if form == "qr" or (form == "png" and arguments.output is None):
        raise CommandError(f"a list's configurations cannot be printed as {form}", "use --format conf or json", USAGE)
    try:
        table = sys.stdin.read() if arguments.csv == "-" else Path(arguments.csv).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{arguments.csv} cannot be read: {error.strerror}", code=USAGE) from None
    except UnicodeDecodeError:
        raise CommandError(f"{arguments.csv} is not UTF-8", "save the list as CSV UTF-8", USAGE) from None
    directory = None if arguments.output is None else _new_directory(Path(arguments.output))
    request = {"csv": table, "format": form, "qr": False}
    try:
        answer = options.client(arguments).request("POST", ["devices"], request, timeout=600.0)
    except BaseException:
        if directory is not None:
            directory.rmdir()
        raise
    for added in answer["devices"]:
        if directory is None:
            _print_configuration(added, None)
        else:
            suffix = {"esphome": "yaml", "arduino": "h"}.get(form, form)
            _print_configuration(added, _new_file(directory / f"{added['name']}.{suffix}"), quiet=True)
    count = len(answer["devices"])
    output.note(f"added {count} device{'' if count == 1 else 's'}" + (f", see {directory}" if directory else ""))
    return OK


def _print_configuration(document: dict[str, Any], target: Path | None, *, quiet: bool = False) -> None:
    """To the file or to standard output; notes to standard error, so that a pipe gets the configuration alone."""
    if "base64" in document:
        import base64

        content = base64.b64decode(document["base64"])
    else:
        content = document["text"].encode()
    if target is not None:
        target.write_bytes(content)
        if not quiet:
            output.note(f"wrote {target}")
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        if "qr" in document:
            sys.stdout.buffer.write(b"\n" + document["qr"].encode())
        sys.stdout.buffer.flush()
    for note in document["notes"]:
        output.note(f"lopower: {note}")


def _new_file(path: Path) -> Path:
    """An empty file of ours, made before anything else happens: a key must not get lost to a directory's rights."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise CommandError(f"{path} exists already", "name another file, or remove it first", FAILED) from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}", "name another file", FAILED) from None
    return path


def _new_directory(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        hint = "with --csv, --output names a directory that does not exist yet"
        raise CommandError(f"{path} cannot be made: {error.strerror}", hint, FAILED) from None
    return path
