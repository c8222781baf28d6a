"""The demonstration's tailnet: a test tailnet on loopback, and what passes between its peers and a device."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any, Final

from aiohttp import web

from lopower_hil.demo import screen
from lopower_hil.demo.processes import PROGRAMS, Demonstration
from lopower_hil.demo.steps import expect, get, resolve
from lopower_hil.loopback import HOST
from lopower_hil.tailnet_world import TailnetWorld, running_world
from lopower_hil.virtual_device import VirtualDevice, VirtualStream

PEER: Final = "peer"
STRANGER: Final = "stranger"
_PROGRAM: Final = "lopower-test-tailnet"
_SIDECAR: Final = "lopower-sidecar"
_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1

Show = Callable[[str, Callable[[], Awaitable[str]]], Awaitable[bool]]


def what_is_missing() -> str:
    """Why there can be no test tailnet, and what to do; empty if there can."""
    lacking = [name for name in (_PROGRAM, _SIDECAR) if not (PROGRAMS / name).is_file()]
    if not lacking:
        return ""
    are = "are" if len(lacking) > 1 else "is"
    return (
        f"{' and '.join(lacking)} {are} not there; `make demo` builds what is missing where Go is installed "
        "(https://go.dev/dl/)"
    )


@asynccontextmanager
async def running_tailnet() -> AsyncIterator[TailnetWorld]:
    """A tailnet on loopback with two peers, which lets a new node in once somebody has opened its URL."""
    async with running_world(PROGRAMS / _PROGRAM, PEER, STRANGER) as world:
        await world.do("require", login="url")
        yield world


class DevicePage:
    """A web server on the device, which says who asks."""

    def __init__(self, device: VirtualDevice) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        device.listen(80, self._accepted)

    def _accepted(self, stream: VirtualStream) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, stream: VirtualStream) -> None:
        try:
            await stream.read()
            body = f"Hello from a device. You are {ip_address(stream.connection.remote[0])}.\n"
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
            await stream.write(f"{head}{body}".encode())
            stream.write_eof()
            await stream.read_all()
        except OSError:
            pass  # the visitor is gone

    async def close(self) -> None:
        """End what is being answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class TailnetSteps:
    """The steps of one device.

    Args:
        demonstration: its daemon runs with this tailnet.
        world: the tailnet.
        device: called `kitchen`; serves a DevicePage.
        resolver: the gateway's address, where the device asks for names.
    """

    def __init__(self, demonstration: Demonstration, world: TailnetWorld, device: VirtualDevice, resolver: str) -> None:
        self._demonstration = demonstration
        self._world = world
        self._device = device
        self._resolver = resolver

    async def run(self, show: Show) -> None:
        """All of them, as far as they build on each other."""
        await self._demonstration.type_lopower("login")
        if not await show("the proxy is a node", self._log_in):
            return
        await show("peer's page, from kitchen", self._fetch_from_peer)
        await self._world.do("require", login="open")  # the others need not log in by a URL each
        screen.say()
        await self._demonstration.type_lopower("expose", "kitchen", "--node", "--from", self._world.peers[PEER][0])
        if not await show("kitchen is a node", self._own_node):
            return
        await show("kitchen's page, from peer", self._fetch_as_peer)
        await show("the same, from stranger", self._refuse_stranger)
        await show("kitchen's own identity", self._own_identity)

    async def _log_in(self) -> str:
        login_url = (await self._tailnet())["login_url"]
        expect(bool(login_url), "there is no URL to log in at")
        await self._world.do("authorize", url=login_url)  # what a person does by opening it
        tailnet = await _until(self._tailnet, self._is_in)
        node = tailnet["node"]
        return f"{node['dns_name']}, {node['addresses'][0]}; the URL was opened for you"

    async def _fetch_from_peer(self) -> str:
        name = f"{PEER}.{self._world.domain}"
        addresses = await resolve(self._device, self._resolver, name)
        expect(addresses == self._world.peers[PEER][:1], f"MagicDNS says that {name} is {addresses}")
        body = await get(self._device, addresses[0], 80, name=name)
        expect(body.strip() == PEER, f"got {body[:60]!r}")
        return f'http://{name}/ is {addresses[0]} by MagicDNS, and says "{body.strip()}"'

    async def _own_node(self) -> str:
        node = await _until(self._exposed_node, self._is_known)
        return f"{node['dns_name']}, {node['addresses'][0]}"

    async def _fetch_as_peer(self) -> str:
        fetched = await self._world.do("fetch", peer=PEER, url="http://kitchen/", timeout=15)
        body = fetched["body"].strip()
        expect(fetched["status"] == 200 and self._world.peers[PEER][0] in body, f"got {fetched}")
        return f'http://kitchen/ says "{body}"'

    async def _refuse_stranger(self) -> str:
        answer = await self._world.ask("fetch", peer=STRANGER, url="http://kitchen/", timeout=15)
        expect(not answer["ok"], f"the stranger got {answer.get('body')!r}")
        expect(answer["error"] == "refused", f"the stranger was not refused: {answer['error']}")
        return f"connection refused: --from names {PEER} alone"

    async def _own_identity(self) -> str:
        own = (await self._exposed_node())["addresses"][0]
        body = await get(self._device, self._world.peers[PEER][0], 80, "/address")
        seen = body.strip().rpartition(":")[0]
        expect(seen == own, f"{PEER} sees {seen}, and kitchen's node is {own}")
        return f"{PEER} sees kitchen's flows come from {seen}"

    async def _tailnet(self) -> dict[str, Any]:
        status = json.loads(await self._demonstration.lopower("status", "--json"))
        tailnet: dict[str, Any] = status["data_plane"]["tailnet"]
        return tailnet

    async def _exposed_node(self) -> dict[str, Any]:
        exposed = json.loads(await self._demonstration.lopower("expose", "--json"))
        node: dict[str, Any] = exposed["exposures"][0]["node"]
        return node

    async def _is_in(self, tailnet: dict[str, Any]) -> bool:
        return bool(tailnet["connected"]) and tailnet["node"]["peers"] >= len(self._world.peers)

    async def _is_known(self, node: dict[str, Any]) -> bool:
        """Whether the node is in, and the peers can reach it."""
        if not node["connected"]:
            return False
        pings = [await self._world.ask("ping", peer=peer, address=node["addresses"][0]) for peer in self._world.peers]
        return all(ping["ok"] for ping in pings)


async def _until(
    ask: Callable[[], Awaitable[dict[str, Any]]], satisfied: Callable[[dict[str, Any]], Awaitable[bool]]
) -> dict[str, Any]:
    """The first answer that satisfies; raises TimeoutError after a while."""
    async with asyncio.timeout(_SECONDS):
        while not await satisfied(answer := await ask()):  # noqa: ASYNC110 (it happens in another process)
            await asyncio.sleep(_POLL_SECONDS)
    return answer


class PeerProxy:
    """An HTTP proxy on loopback whose requests leave from a peer: what a browser on that node would see."""

    def __init__(self, world: TailnetWorld, peer: str) -> None:
        self._world = world
        self._peer = peer
        self._runner = web.ServerRunner(web.Server(self._handle))

    async def start(self) -> int:
        """Listen; the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, HOST, 0).start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if request.method != "GET" or not request.url.absolute:
            return web.Response(status=501, text="this proxy carries GET http://... alone\n")
        answer = await self._world.ask("fetch", peer=self._peer, url=str(request.url), timeout=15)
        if not answer["ok"]:
            return web.Response(status=502, text=f"{self._peer} cannot fetch {request.url}: {answer['error']}\n")
        return web.Response(status=answer["status"], text=answer["body"])

    async def close(self) -> None:
        """End."""
        await self._runner.cleanup()
