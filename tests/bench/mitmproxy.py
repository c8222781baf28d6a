"""mitmproxy's WireGuard mode, passing TCP through: the neighbour on PyPI. It needs a newer Python than we do."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nacl.public import PrivateKey

from tests.bench.systems import IPERF_PORT, IperfLoad
from tests.support.netns import World, network_world
from tests.support.wireguard_go import wireguard_go

_WANTED: Final = "mitmproxy>=12.2"
_NEWEST_FIRST: Final = ("3.14", "3.13", "3.12")
_PORT: Final = 51821


class UnavailableError(Exception):
    """mitmproxy cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Mitmproxy:
    """One running.

    Attributes:
        target: what the device dials; the world's iperf3 is behind it.
    """

    world: World
    pid: int
    target: str
    version: str


def start(stack: ExitStack, directory: Path) -> Mitmproxy:
    """mitmproxy in a world of its own, with wireguard-go as the device.

    Raises:
        UnavailableError: without a Python that is new enough, or if it does not start.
    """
    program = _program()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    world = stack.enter_context(network_world())
    keys = [PrivateKey.generate() for _ in range(2)]
    private = [_text(bytes(key)) for key in keys]
    directory.mkdir()
    (directory / "keys.json").write_text(json.dumps({"server_key": private[0], "client_key": private[1]}))
    log = stack.enter_context((directory / "log").open("w"))
    arguments = ("--mode", f"wireguard:{directory / 'keys.json'}@{_PORT}", "--ignore-hosts", ".*", "-q")
    confdir = ("--set", f"confdir={directory}")
    process = world.start(world.host, program, *arguments, *confdir, stdout=log, stderr=log)
    try:
        world.host.wait_for_port(_PORT, "udp", 20)
    except AssertionError:
        raise UnavailableError(f"mitmproxy did not start: {(directory / 'log').read_text().strip()}") from None
    device = stack.enter_context(wireguard_go(world.device))
    device.configure(
        f"[Interface]\nPrivateKey={private[1]}\nAddress=10.0.0.1/32\n"
        f"[Peer]\nPublicKey={_text(bytes(keys[0].public_key))}\n"
        f"AllowedIPs={World.HOST_LAN_IPV4}/32\nEndpoint={World.HOST_IPV4}:{_PORT}\n"
    )
    IperfLoad(world, World.HOST_LAN_IPV4).serve(World.HOST_LAN_IPV4)
    world.host.wait_for_port(IPERF_PORT)
    time.sleep(0.5)
    return Mitmproxy(world, process.pid, World.HOST_LAN_IPV4, version)


def _program() -> Path:
    place = Path(sys.prefix) / "mitmproxy"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = place / "venv" / "bin" / "mitmdump"
        if not program.exists():
            shutil.rmtree(place / "venv", ignore_errors=True)
            python, environment = _python()
            try:
                subprocess.run([python, "-m", "venv", place / "venv"], check=True, capture_output=True, env=environment)
                pip = [str(place / "venv" / "bin" / "pip"), "install", "--quiet", _WANTED]
                subprocess.run(pip, check=True, capture_output=True, text=True, timeout=300)
            except subprocess.SubprocessError as error:
                shutil.rmtree(place / "venv", ignore_errors=True)
                raise UnavailableError(f"mitmproxy cannot be installed: {error}") from None
    return program


def _python() -> tuple[str, dict[str, str]]:
    """A Python that mitmproxy takes, and the environment to run it with."""
    plain = dict(os.environ)
    candidates = [(f"python{version}", plain) for version in _NEWEST_FIRST] + [(sys.executable, plain)]
    if pyenv := shutil.which("pyenv"):
        installed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False).stdout
        versions = [line.strip() for line in installed.splitlines()]
        for wanted in _NEWEST_FIRST:
            found = [version for version in versions if version.startswith(f"{wanted}.")]
            candidates += [("python3", {**plain, "PYENV_VERSION": version}) for version in found]
    for python, environment in candidates:
        check = [python, "-c", "import sys, venv; sys.exit(sys.version_info < (3, 12))"]
        try:
            if subprocess.run(check, env=environment, capture_output=True, check=False).returncode == 0:
                return python, environment
        except FileNotFoundError:
            continue
    raise UnavailableError("mitmproxy needs Python 3.12 or later, and none is here")


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
