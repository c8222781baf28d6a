"""MicroPython through a proxy: handshake, sockets, and the standard programs for them, unchanged."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from tests.support.micropython import micropython, write_settings
from tests.support.proxy import Proxy, running_proxy, tcp_server

START = """
import time, lopower
began = time.ticks_ms()
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
"""


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
        writer.close()
    except ConnectionError:
        pass


def _device(proxy: Proxy, directory: Path, **changes: object) -> None:
    proxy.enrol("sensor")
    write_settings(directory, proxy.configuration("sensor"), **changes)


async def test_requests_to_the_gateway_page(tmp_path: Path) -> None:
    """The first byte of HTTP comes within half a second of the start."""
    async with running_proxy(tmp_path) as proxy:
        _device(proxy, tmp_path)
        output = await micropython(
            START
            + """
import requests
response = requests.get("http://10.90.0.1/")
took = time.ticks_diff(time.ticks_ms(), began)
assert response.status_code == 200
assert response.text.startswith("sensor, connected"), response.text
response.close()
status = lopower.status()
assert status["state"] == "up", status
print(took)
""",
            tmp_path,
        )
    assert int(output) <= 500


BULK = (
    START
    + """
import socket
address = socket.getaddrinfo("10.90.0.1", 7)[0][-1]
link = socket.socket()
link.connect(address)
block = bytes(range(256)) * 16
total = 2_000_000
link.setblocking(False)
import select
poller = select.poll()
poller.register(link, select.POLLIN | select.POLLOUT)
sent = received = 0
buffer = bytearray(4096)
while received < total:
    for _, events in poller.poll(1000):
        if events & select.POLLOUT and sent < total:
            sent += link.write(block, sent % 4096, min(4096 - sent % 4096, total - sent)) or 0
        if events & select.POLLIN:
            n = link.readinto(buffer)
            assert n
            for at in (0, n // 2, n - 1):
                assert buffer[at] == (received + at) % 256
            received += n
link.close()
print(received, lopower.status())
"""
)


async def test_bulk_both_ways_at_once(tmp_path: Path) -> None:
    """Non-blocking, by poll: what comes back is what was sent."""
    async with running_proxy(tmp_path) as proxy, tcp_server(_echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(BULK, tmp_path)
    assert output.startswith("2000000 ")


async def test_the_proxy_initiates(tmp_path: Path) -> None:
    """As responder: the proxy's initiation makes a session that carries data both ways."""
    async with running_proxy(tmp_path) as proxy:
        _device(proxy, tmp_path)
        program = asyncio.create_task(
            micropython(
                START
                + """
first = lopower.status()["counters"]["handshakes_completed"]
end = time.ticks_add(time.ticks_ms(), 8000)
while lopower.status()["counters"]["handshakes_completed"] == first and time.ticks_diff(end, time.ticks_ms()) > 0:
    lopower.pump()
    time.sleep_ms(5)
counters = lopower.status()["counters"]
assert counters["initiations_received"] and counters["responses_sent"], counters
import requests
assert requests.get("http://10.90.0.1/").status_code == 200
import json
print(json.dumps(lopower.status()["counters"]))
""",
                tmp_path,
            )
        )
        interface = proxy.runtime.interface
        peer = next(iter(interface.peers.values()))
        while not peer.has_session(time.monotonic()):  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        peer.initiation_sent_at -= 5  # a handshake less than five seconds ago would hold it back
        interface._negotiator.initiate(peer, time.monotonic())
        counters = json.loads(await program)
    assert counters["responses_sent"] == 1
    assert "not_authentic" not in counters
