"""The demonstration's board: blank, flashed by the command that users type, and then a device like any other."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from lopower_hil.demo import screen, tailnet
from lopower_hil.demo.processes import Demonstration
from lopower_hil.demo.steps import Gateway, StepFailedError, expect
from lopower_hil.made_images import stock_image
from lopower_hil.tailnet_world import TailnetWorld
from lopower_provisioning import chips

NAME: Final = "shelf"
WIFI: Final = "demo"
_CHIP: Final = "ESP32"
_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05
_SAYS: Final = "the page says: "

Show = Callable[[str, Callable[[], Awaitable[str]]], Awaitable[bool]]

PROGRAM: Final = """\
import lopower, requests, socket

lopower.wait(60)
print("{says}" + requests.get("{url}").text)

server = socket.socket()
server.bind((lopower.status()["addresses"][0], 80))
server.listen(2)
while True:
    visitor, (who, _) = server.accept()
    visitor.recv(1000)
    visitor.send(b"HTTP/1.0 200 OK\\r\\n\\r\\nHello from a board. You are " + who.encode())
    visitor.close()
"""


class BoardSteps:
    """The steps of a board.

    Args:
        demonstration: its daemon runs.
        world: the tailnet that it has joined; None: there is none.
    """

    def __init__(self, demonstration: Demonstration, world: TailnetWorld | None, gateway: Gateway) -> None:
        self._demonstration = demonstration
        self._world = world
        self._gateway = gateway.ipv4
        self._directory = demonstration.directory / "board"
        self._url = f"http://gateway:{gateway.web_port}/" if world is None else f"http://{tailnet.PEER}.{world.domain}/"

    async def run(self, show: Show) -> None:
        """All of them, as far as they build on each other."""
        if not await show("a blank board", self._start):
            return
        screen.say()
        program = self._write_program()
        screen.command("cat app/main.py")
        screen.say(program)
        if not await show("the board is flashed", self._flash):
            return
        await show("a page, from the board", self._fetched)
        screen.say()
        if self._world is None:
            screen.say("Without a tailnet there is no peer to visit it: the daemon does, as its gateway.")
            await show("its page, from the gateway", self._visit_as_gateway)
            return
        await self._demonstration.type_lopower("expose", NAME, "--node")
        await show("its page, from peer", self._visit_as_peer)

    def _write_program(self) -> str:
        program = PROGRAM.format(says=_SAYS, url=self._url)
        application = self._demonstration.directory / "app"
        application.mkdir()
        (application / "main.py").write_text(program)
        return program

    async def _start(self) -> str:
        words = ["--directory", self._directory.name, "--wifi", WIFI, "--chip", _CHIP]
        self._board: dict[str, Any] = json.loads(await self._demonstration.start_lopower("virtual-board", *words))
        expect(self._board["state"] == "no_program", f"its state is {self._board['state']}")
        return f"{_CHIP}, {self._board['mac']}, without a program, at {self._board['port']}"

    async def _flash(self) -> str:
        chip = chips.by_name(_CHIP)
        assert chip is not None
        image = self._demonstration.directory / "image.bin"
        image.write_bytes(stock_image(chip))
        words = ["--name", NAME, "--wifi", WIFI, "--image", image.name, "--main", "app"]
        await self._demonstration.type_lopower(
            "flash", self._board["port"], *words, environment={"LOPOWER_WIFI_PASSWORD": ""}
        )
        return f"{NAME} has made its key, and is a device"

    async def _fetched(self) -> str:
        printed = await _text(self._directory / "serial.log", _SAYS)
        body = printed.rpartition(_SAYS)[2].partition("\n")[0].strip()
        expected = "Hello from a web server of this host." if self._world is None else tailnet.PEER
        expect(body == expected, f"it printed {body!r}")
        by = "the gateway's name" if self._world is None else "MagicDNS"
        return f'{self._url} by {by}: the board prints "{body}"'

    async def _visit_as_gateway(self) -> str:
        body = await asyncio.to_thread(self._page)
        expect(body == f"Hello from a board. You are {self._gateway}", f"got {body[:60]!r}")
        return f'{NAME} says "{body}"'

    def _page(self) -> str:
        with closing(self._demonstration.client().stream(NAME, 80)) as stream:
            stream.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := stream.receive():
                answer += data
        return answer.rpartition(b"\r\n\r\n")[2].decode()

    async def _visit_as_peer(self) -> str:
        assert self._world is not None
        async with asyncio.timeout(_SECONDS):
            while True:
                fetched = await self._world.ask("fetch", peer=tailnet.PEER, url=f"http://{NAME}/", timeout=5)
                if fetched["ok"]:
                    break
                await asyncio.sleep(_POLL_SECONDS)  # its node is joining
        body = fetched["body"]
        expect(body == f"Hello from a board. You are {self._world.peers[tailnet.PEER][0]}", f"got {fetched}")
        return f'http://{NAME}/ says "{body}"'


async def _text(path: Path, until: str) -> str:
    """What a file holds once that and the end of its line are in it."""
    deadline = time.monotonic() + _SECONDS
    while True:
        text = (await asyncio.to_thread(path.read_bytes)).decode(errors="replace")
        if "\n" in text.partition(until)[2]:
            return text
        if time.monotonic() > deadline:
            last = (text.strip().splitlines() or ["nothing"])[-1]
            raise StepFailedError(f"the board did not print {until!r}, but: {last}")
        await asyncio.sleep(_POLL_SECONDS)
