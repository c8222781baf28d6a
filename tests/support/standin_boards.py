"""Boards by the hundred: virtual devices that answer their gateway's visits as docs/updates.md has it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import AsyncExitStack
from typing import Any

from lopower.control.visit import PORT
from lopower_hil.virtual_device import DeviceConfiguration, VirtualDevice, VirtualStream

GATEWAY = "10.90.0.1"
OLD, IMAGE = "0.0.9+00000000", "MicroPython v1.28.0; a stand-in"


class StandInBoard:
    """One of them.

    Attributes:
        fault: None; "full": it has no room; "hash": what it gets is not what was sent; "back": the new set makes no
            handshake.
        begun: how many updates were begun.
        version: of the set of files that runs.
    """

    def __init__(self, name: str, configuration: DeviceConfiguration) -> None:
        self.name = name
        self.device = VirtualDevice(configuration)
        self.device.listen(PORT, self._accepted)
        self.fault: str | None = None
        self.begun = 0
        self.version = 1
        self.package = OLD
        self._gave_up: dict[str, Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def announce(self) -> None:
        """Tell the gateway what runs, until it answers."""
        flow = self.device.datagrams(GATEWAY, PORT)
        try:
            flow.send(json.dumps(self._facts()).encode())
            async with asyncio.timeout(30):
                assert await flow.receive() == b"ok"
        finally:
            flow.close()

    async def close(self) -> None:
        """End what is being answered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _facts(self) -> dict[str, Any]:
        facts = {
            "set": self.version, "package": self.package, "arch": "none", "image": IMAGE, "files": "lopower_a",
            "reset": "pwron", "repl": False, "free": 1 << 20, "block": 4096,
        }  # fmt: skip
        return facts if self._gave_up is None else {**facts, "gave_up": self._gave_up}

    def _accepted(self, stream: VirtualStream) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: VirtualStream) -> None:
        received = bytearray()
        try:
            while True:
                while (at := received.find(b"\n")) < 0:
                    if not (data := await stream.read()):
                        return
                    received += data
                request = json.loads(received[:at])
                del received[: at + 1]
                if request["do"] == "file":
                    while len(received) < request["size"]:
                        received += await stream.read()
                    content = bytes(received[: request["size"]])
                    del received[: request["size"]]
                    request["right"] = hashlib.sha256(content).hexdigest() == request["sha256"]
                answer = self._answer(request)
                await stream.write(json.dumps(answer).encode() + b"\n")
                if "error" in answer:
                    return
        except OSError:
            return  # the visitor is gone
        finally:
            stream.write_eof()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        kind = request["do"]
        if kind == "facts":
            return self._facts()
        if kind == "begin":
            self.begun += 1
            self._gave_up = None
            return {"error": "the flash is full"} if self.fault == "full" else {"free": 1 << 20, "block": 4096}
        if kind == "file":
            if self.fault == "hash" or not request["right"]:
                return {"error": f"the hash of {request['path']} is wrong"}
            return {"path": request["path"]}
        if kind == "keep":
            return {"kept": True}
        if self.fault == "back":
            self._gave_up = {"set": self.version + 1, "reason": "no handshake within 120 s"}
            return {"set": self.version + 1}
        self.version, self.package = self.version + 1, request["package"]
        return {"set": self.version}


async def standin_boards(stack: AsyncExitStack, configurations: dict[str, str]) -> dict[str, StandInBoard]:
    """Boards for configurations by name, connected, and known to their gateway."""
    boards = {}
    for name, text in configurations.items():
        board = StandInBoard(name, DeviceConfiguration.parse(text))
        await stack.enter_async_context(board.device)
        stack.push_async_callback(board.close)
        await board.device.handshake()
        await board.announce()
        boards[name] = board
    return boards
