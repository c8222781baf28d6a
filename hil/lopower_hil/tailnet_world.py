"""The test tailnet of hil/tailnet_world, as a process: a control server, a relay and peers on loopback."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 60.0


class TailnetWorldError(Exception):
    """The test tailnet did not start, or something in it failed that must go well."""


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
        """The same, of one that must go well.

        Raises:
            TailnetWorldError: it did not.
        """
        answer = await self.ask(operation, **fields)
        if not answer["ok"]:
            raise TailnetWorldError(f"{operation}: {answer['error']}")
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
    """A tailnet with these peers.

    Raises:
        TailnetWorldError: it does not start; what it says is on standard error.
    """
    process = await asyncio.create_subprocess_exec(
        *(program, "-peers", ",".join(peers)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 24,
        process_group=0,  # it ends with its standard input, not by Ctrl-C, which others need it to outlive
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
    if not line:
        raise TailnetWorldError(f"the test tailnet ended at its start with code {await process.wait()}")
    world = TailnetWorld(process, json.loads(line))
    try:
        yield world
    finally:
        await world.close()
