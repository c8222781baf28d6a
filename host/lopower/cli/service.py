"""`lopower service`: a systemd service of it, with a user and a group of its own."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

from lopower.cli import output
from lopower.cli.errors import FAILED, FORBIDDEN, NOT_RUNNING, OK, CommandError

UNIT: Final = Path("/etc/systemd/system/lopower.service")
SYSUSERS: Final = Path("/etc/sysusers.d/lopower.conf")
USER: Final = "lopower"
_SYSUSERS_LINE: Final = f'u {USER} - "lopower WireGuard proxy" /var/lib/lopower\n'
_BOOTED: Final = Path("/run/systemd/system")


def define(parser: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    """Define the commands and their options."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, parser_class=type(parser))
    for name, text, run in (
        ("install", "write unit, user, group and settings file; start it now and at boot", run_install),
        ("uninstall", "stop it and remove the unit; settings, keys and devices stay", run_uninstall),
        ("status", "whether it is installed and running", run_status),
    ):
        action = actions.add_parser(name, parents=[common], allow_abbrev=False, help=text)
        if name != "status":
            action.add_argument("--dry-run", action="store_true", help="print what would be done")
        action.set_defaults(run=run)


def unit_text(executable: Path) -> str:
    """The systemd unit."""
    from importlib.resources import files

    template = files("lopower.cli").joinpath("lopower.service").read_text(encoding="utf-8")
    return template.replace("@EXECUTABLE@", str(executable))


def run_install(arguments: argparse.Namespace) -> int:
    """Install and start."""
    from lopower.daemon.paths import SYSTEM

    executable = _executable()
    unit = unit_text(executable)
    settings = _settings_file()
    if arguments.dry_run:
        for path, text in ((SYSUSERS, _SYSUSERS_LINE), (SYSTEM.config, settings), (UNIT, unit)):
            kept = " (exists, and would be kept)" if path == SYSTEM.config and path.exists() else ""
            output.say(f"# {path}{kept}\n{text}")
        output.say("# then: systemd-sysusers; systemctl daemon-reload; systemctl enable --now lopower")
        return OK
    _require_systemd_and_root("install")
    _require_readable(executable)
    _write(SYSUSERS, _SYSUSERS_LINE)
    _make_user()
    if not SYSTEM.config.exists():
        _write(SYSTEM.config, settings)
    _write(UNIT, unit)
    _systemctl("daemon-reload")
    _systemctl("enable", "lopower")
    _systemctl("restart", "lopower")
    output.note("lopower runs, now and after each boot; its log: journalctl -u lopower")
    if user := os.environ.get("SUDO_USER"):
        output.note(f"to administer it without sudo: sudo usermod -aG {USER} {user}, then log in again")
    return OK


def run_uninstall(arguments: argparse.Namespace) -> int:
    """Stop and remove."""
    from lopower.daemon.paths import SYSTEM

    if arguments.dry_run:
        output.say(f"systemctl disable --now lopower; rm {UNIT} {SYSUSERS}; systemctl daemon-reload")
        return OK
    _require_systemd_and_root("uninstall")
    if not UNIT.exists():
        raise CommandError("the service is not installed", "lopower service install")
    _systemctl("disable", "--now", "lopower")
    UNIT.unlink()
    SYSUSERS.unlink(missing_ok=True)
    _systemctl("daemon-reload")
    output.note(f"removed; settings, keys and devices are still in {SYSTEM.config.parent} and {SYSTEM.state_dir}")
    return OK


def run_status(arguments: argparse.Namespace) -> int:
    """Whether it runs."""
    if not _BOOTED.is_dir():
        raise CommandError("this host is not run by systemd", "run `lopower up` under your own supervisor")
    if not UNIT.exists():
        output.say("not installed; `sudo lopower service install` does it")
        return NOT_RUNNING
    state = _ask("is-active") or "unknown"
    output.say(f"installed, {state}; at boot: {_ask('is-enabled') or 'unknown'}")
    if state != "active":
        output.note("why: journalctl -u lopower -n 20")
        return NOT_RUNNING
    return OK


def _settings_file() -> str:
    """The commented file, with the one setting that the service needs."""
    from lopower.daemon.settings_file import template

    return template().replace(f'#control_group = "{USER}"', f'control_group = "{USER}"')


def _executable() -> Path:
    """The `lopower` that is running."""
    found = shutil.which(sys.argv[0]) or shutil.which("lopower")
    beside = Path(sys.executable).with_name("lopower")
    return Path(found).absolute() if found and Path(found).name == "lopower" else beside


def _require_systemd_and_root(verb: str) -> None:
    if not _BOOTED.is_dir():
        raise CommandError(
            "this host is not run by systemd, so there is no service to make",
            "run `lopower up` under your own supervisor; --dry-run shows what a unit needs",
        )
    if os.geteuid() != 0:
        raise CommandError("this needs root", f"sudo lopower service {verb}", FORBIDDEN)


def _require_readable(executable: Path) -> None:
    """The service's user must be able to run the program, which pipx likes to keep in a private home directory."""
    for target in {executable, executable.resolve(), Path(sys.prefix).resolve()}:
        for path in (target, *target.parents):
            if not stat.S_IMODE(path.stat().st_mode) & stat.S_IXOTH or path in (Path("/home"), Path("/root")):
                raise CommandError(
                    f"the service's user could not run {executable}: {path} is private, or hidden from services",
                    "install it for all users: sudo pipx install --global lopower (or a venv in /opt)",
                )


def _make_user() -> None:
    if shutil.which("systemd-sysusers"):
        _run("systemd-sysusers", str(SYSUSERS))
    else:
        _run(
            "useradd",
            "--system",
            "--user-group",
            "--home-dir",
            "/var/lib/lopower",
            "--shell",
            "/usr/sbin/nologin",
            USER,
        )


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None


def _systemctl(*arguments: str) -> None:
    _run("systemctl", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise CommandError(f"{' '.join(command)}: {said}", "journalctl -u lopower -n 20 may say more", FAILED)


def _ask(question: str) -> str:
    done = subprocess.run(["systemctl", question, "lopower"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
