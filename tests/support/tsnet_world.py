"""A `tsnet` driver with the fake sidecar behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from lopower.tailnet.tsnet import TsnetConfig, TsnetDriver
from lopower.tailnet.tsnet_control import NodeConfig
from lopower.tailnet.tsnet_echo import InboundEcho, Verdict
from lopower.tailnet.tsnet_inbound import PROXY_NODE, InboundRequest
from tests.support.fake_sidecar import write_program


class TsnetWorld:
    """A driver, and what it told.

    Attributes:
        changes: how often it said that something changed.
        requests: flows from the tailnet.
    """

    def __init__(self, directory: Path, faults: str = "", **node: Any) -> None:
        self.changes = 0
        self.requests: list[InboundRequest] = []
        self.key_file = directory / "auth-key"
        self.driver = TsnetDriver(
            TsnetConfig(
                program=write_program(directory, faults),
                state_dir=directory / "tailnet",
                node=NodeConfig(hostname="lopower", **node),
                auth_key_file=self.key_file,
            ),
            changed=self._changed,
            inbound=self.requests.append,
            echo=self._echo,
        )

    async def until(self, condition: Callable[[], bool], timeout: float = 10.0) -> None:
        """Wait until `condition()`."""
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 (what is waited for has no event)
                await asyncio.sleep(0.005)

    async def until_state(self, state: str) -> None:
        """Wait until the driver's status says so."""
        await self.until(lambda: self.driver.status()["state"] == state)

    async def set_status(self, **changes: Any) -> None:
        """Have the sidecar say something else of the proxy's node."""
        await self._ask("POST", f"/nodes/{PROXY_NODE}/status", changes)

    async def configuration(self) -> dict[str, Any]:
        """What the driver asked the sidecar for."""
        document: dict[str, Any] = await self._ask("GET", f"/nodes/{PROXY_NODE}/configuration")
        return document

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        connector = aiohttp.UnixConnector(path=str(self.driver.sockets / "control"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, f"http://sidecar{path}", json=body) as response,
        ):
            return await response.json()

    async def _echo(self, echo: InboundEcho) -> Verdict:
        return "answered" if str(echo.destination) == "10.90.0.2" else "unreachable"

    def _changed(self) -> None:
        self.changes += 1


@asynccontextmanager
async def tsnet_world(directory: Path, *, key: str | None = "good", **options: Any) -> AsyncIterator[TsnetWorld]:
    """A driver that was started, in the tailnet if the key is good."""
    world = TsnetWorld(directory, **options)
    if key is not None:
        world.key_file.write_text(key + "\n")
    world.driver.start()
    try:
        if key == "good":
            await world.until_state("running")
        yield world
    finally:
        await world.driver.close()
