"""The test tailnet of tests/tailnet/world, as a process: control server, relay and peers on loopback; the sidecar."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.requirements import missing, require_program

ROOT = Path(__file__).parents[2]
SIDECAR_SOURCE = ROOT / "host" / "sidecar"
WORLD_SOURCE = ROOT / "tests" / "tailnet" / "world"
BUILD_SECONDS = 600


def build_world(directory: Path) -> Path:
    """The test tailnet's program."""
    tags = subprocess.run(
        ["sh", SIDECAR_SOURCE / "build.sh", "--tags"], capture_output=True, text=True, check=True
    ).stdout.strip()
    program = directory / "world"
    _run([require_program("go"), "build", "-trimpath", "-buildvcs=false", "-tags", tags, "-o", str(program), "."],
         WORLD_SOURCE)  # fmt: skip
    return program


def sidecar_directory(directory: Path) -> Path:
    """Where the sidecar is: beside the interpreter, where `make setup` puts it, else built in `directory`."""
    beside = Path(sys.executable).parent
    if not (beside / "lopower-sidecar").is_file():
        require_program("go")
        _run(["sh", "build.sh", str(directory / "lopower-sidecar")], SIDECAR_SOURCE)
        return directory
    return beside


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILD_SECONDS,
    )
    if done.returncode:
        missing(f"`{' '.join(command)}` in {directory} failed: {done.stderr[-2000:]}")


class TailnetWorld:
    """A tailnet that runs.

    Attributes:
        control_url: of its control server.
        domain: its MagicDNS suffix.
        peers: addresses of the peers by name, IPv4 first.
    """

    def __init__(self, process: asyncio.subprocess.Process, announcement: dict[str, Any]) -> None:
        self.control_url: str = announcement["control_url"]
        self.domain: str = announcement["domain"]
        self.peers: dict[str, list[str]] = {peer["name"]: peer["addresses"] for peer in announcement["peers"]}
        self._process = process
        self._number = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reading = asyncio.create_task(self._read())

    async def ask(self, operation: str, **fields: Any) -> dict[str, Any]:
        """One operation's answer, `ok` or not; operations.go lists them."""
        assert self._process.stdin is not None
        self._number += 1
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._number] = answer
        self._process.stdin.write(json.dumps({"id": self._number, "op": operation, **fields}).encode() + b"\n")
        return await asyncio.wait_for(answer, fields.get("timeout", 5) + 20)

    async def do(self, operation: str, **fields: Any) -> dict[str, Any]:
        """The same, of one that must go well."""
        answer = await self.ask(operation, **fields)
        assert answer["ok"], answer["error"]
        return answer

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            self._waiting.pop(answer["id"]).set_result(answer)

    async def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def running_world(program: Path, *peers: str) -> AsyncIterator[TailnetWorld]:
    """A tailnet with these peers."""
    process = await asyncio.create_subprocess_exec(
        program, "-peers", ",".join(peers), stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 24
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), 60)
    assert line, "the test tailnet did not start"
    world = TailnetWorld(process, json.loads(line))
    try:
        yield world
    finally:
        await world.close()
