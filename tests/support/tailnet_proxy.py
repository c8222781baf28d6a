"""What tests of a proxy in a tailnet share: waiting for its node, and a device that serves."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from typing import Any

from lopower.tailnet.tsnet import TsnetDriver
from lopower_hil.virtual_device import VirtualDatagrams, VirtualDevice, VirtualStream
from tests.support.proxy import Proxy

DATA = random.Random(1).randbytes(20_000_000)


class Kitchen:
    """A device that serves: `kitchen` over HTTP on port 80, an echo on TCP and UDP port 7, hashes on 9, bytes on 19."""

    def __init__(self, device: VirtualDevice) -> None:
        self.device = device
        self._tasks: set[asyncio.Task[None]] = set()
        device.listen(80, lambda stream: self._run(self._http(stream)))
        device.listen(7, lambda stream: self._run(self._echo(stream)))
        device.listen(9, lambda stream: self._run(self._hash(stream)))
        device.listen(19, lambda stream: self._run(self._source(stream)))
        device.listen_datagrams(7, lambda flow: self._run(self._echo_datagrams(flow)))

    def _run(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _http(self, stream: VirtualStream) -> None:
        await stream.read()
        await stream.write(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nkitchen")
        stream.write_eof()

    async def _echo(self, stream: VirtualStream) -> None:
        while data := await stream.read():
            await stream.write(data)
        stream.write_eof()

    async def _hash(self, stream: VirtualStream) -> None:
        digest = hashlib.sha256()
        while data := await stream.read():
            digest.update(data)
        await stream.write(digest.hexdigest().encode())
        stream.write_eof()

    async def _source(self, stream: VirtualStream) -> None:
        await stream.read()
        await stream.write(DATA)
        stream.write_eof()

    async def _echo_datagrams(self, flow: VirtualDatagrams) -> None:
        while True:
            flow.send(await flow.receive())


def driver_of(proxy: Proxy) -> TsnetDriver:
    driver = proxy.runtime.driver
    assert isinstance(driver, TsnetDriver)
    return driver


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def joined(proxy: Proxy) -> None:
    """The node is in, and knows the peers."""
    driver = driver_of(proxy)
    await until(lambda: driver.proxy is not None and driver.proxy.running and driver.proxy.peers >= 2)


async def echo(device: VirtualDevice, address: str, data: bytes) -> bytes:
    stream = await device.open_connection(address, 7)
    await stream.write(data)
    stream.write_eof()
    return await asyncio.wait_for(stream.read_all(), 30)
