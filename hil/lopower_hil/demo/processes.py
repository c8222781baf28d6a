"""The processes of a demonstration: what the devices talk to, the daemon, and the commands that a user would type."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lopower.control.client import ControlClient
from lopower_hil.demo import screen
from lopower_hil.demo.steps import StepFailedError
from lopower_hil.loopback import HOST, free_port

PROGRAMS: Final = Path(sys.executable).parent
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 10.0
# Nothing of the demonstration leaves this host: the tailnet's library asks no router for a port, and must not reach the
# control server that it takes by default.
ENVIRONMENT: Final = {"TS_DISABLE_PORTMAPPER": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1"}


class Demonstration:
    """The daemon of one demonstration, what its devices talk to, and the temporary directory they live in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.began = time.monotonic()
        self._processes: list[asyncio.subprocess.Process] = []

    async def lopower(self, *arguments: str) -> str:
        """Run `lopower …` against this demonstration's daemon; its standard output.

        Raises:
            StepFailedError: it failed.
        """
        return await self._lopower(arguments, subprocess.PIPE, subprocess.PIPE, {})

    async def type_lopower(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        """Show a command and what it says, as if it were typed. With an `environment` its progress is seen, too.

        Raises:
            StepFailedError: it failed.
        """
        screen.command(shlex.join(["lopower", *arguments]))
        await self._lopower(arguments, None, subprocess.PIPE if environment is None else None, environment or {})

    async def start_lopower(self, *arguments: str) -> str:
        """Show a command that goes on beside the others, and start it; the line of JSON that it says first.

        Raises:
            StepFailedError: it ended.
        """
        screen.command(f"{shlex.join(['lopower', *arguments])} &")
        process = await self._start([str(PROGRAMS / "lopower"), *arguments, "--json"], subprocess.PIPE, None)
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise StepFailedError(f"lopower {arguments[0]} ended at its start")
        return line.decode()

    async def _lopower(
        self, arguments: Sequence[str], stdout: int | None, stderr: int | None, environment: Mapping[str, str]
    ) -> str:
        process = await asyncio.create_subprocess_exec(
            *(str(PROGRAMS / "lopower"), *arguments, "--state-dir", str(self.state)),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=self._environment(environment),
            cwd=self.directory,
        )
        output, errors = await process.communicate()
        if process.returncode:
            said = "" if errors is None else f": {errors.decode().strip()}"
            raise StepFailedError(f"lopower {shlex.join(arguments)} failed{said}")
        return (output or b"").decode()

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Whoever runs the demonstration may have settings and a home of their own."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("LOPOWER_", "XDG_"))}
        return {
            **own,
            **ENVIRONMENT,
            "XDG_CACHE_HOME": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory),
            **more,
        }

    def client(self) -> ControlClient:
        """Of the daemon's control API."""
        return ControlClient([self.state / "lopower.sock"])

    async def add_device(self, name: str) -> tuple[str, str]:
        """What `lopower device add` does on a terminal; the configuration and its QR code."""
        screen.command(f"lopower device add {name}")
        client = self.client()
        body = {"devices": [{"name": name}], "format": "conf", "qr": True}
        answer: dict[str, Any] = await asyncio.to_thread(client.request, "POST", ["devices"], body)
        device = answer["devices"][0]
        return device["text"], device["qr"]

    async def start_servers(self) -> dict[str, int]:
        """Start what the devices will talk to; the ports."""
        servers = await self._start([sys.executable, "-m", "lopower_hil.demo.servers"], subprocess.PIPE, None)
        assert servers.stdout is not None
        ports: dict[str, int] = json.loads(await servers.stdout.readline())
        return ports

    async def start_daemon(self, *options: str) -> None:
        """Start `lopower up` and wait until it answers."""
        self.state.mkdir(mode=0o700)
        address = f"{HOST}:{free_port(socket.SOCK_DGRAM)}"
        arguments = ["up", "--state-dir", str(self.state), "--listen", address, "--endpoint", address, *options]
        screen.command(f"{shlex.join(['lopower', *arguments])} &")
        log = self.directory / "daemon.log"
        with log.open("w") as stream:
            daemon = await self._start([str(PROGRAMS / "lopower"), *arguments], stream.fileno(), subprocess.STDOUT)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                await self.lopower("status")
                return
            except StepFailedError as error:
                if daemon.returncode is not None or time.monotonic() > deadline:
                    said = log.read_text().strip()
                    raise StepFailedError(f"the daemon did not start: {said or error}") from None
            await asyncio.sleep(0.05)

    async def _start(self, command: Sequence[str], stdout: int, stderr: int | None) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=stderr,
            env=self._environment({}),
            cwd=self.directory,
            process_group=0,  # Ctrl-C is for the demonstration, which ends them in order
        )
        self._processes.append(process)
        return process

    async def stop(self) -> None:
        """End all processes, in order, and wait for them."""
        for process in reversed(self._processes):
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.communicate(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._processes.clear()
