"""Libraries of MicroPython through the tunnel, unchanged, against servers that we did not write."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from lopower.bridge.sntp import ClockState
from tests.support.device_libraries import require_umqtt
from tests.support.micropython import micropython, write_settings
from tests.support.proxy import Proxy, echo, running_proxy, tcp_server
from tests.support.requirements import require_program

START = """
import sys, time, lopower
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
"""


@asynccontextmanager
async def _proxy(directory: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(directory) as proxy:
        proxy.enrol("sensor")
        write_settings(directory, proxy.configuration("sensor"), sntp=False)
        yield proxy


class Broker:
    """Debian's mosquitto on a port of loopback, which it keeps over `restart`."""

    def __init__(self, directory: Path) -> None:
        self._program = require_program(shutil.which("mosquitto") or "/usr/sbin/mosquitto")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._settings = directory / "mosquitto.conf"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n"
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Until it accepts."""
        self._process = await asyncio.create_subprocess_exec(
            self._program, "-c", self._settings, stderr=asyncio.subprocess.DEVNULL
        )
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                assert self._process.returncode is None, "mosquitto has ended"
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return

    async def stop(self) -> None:
        """At once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    made = Broker(tmp_path)
    await made.start()
    yield made
    await made.stop()


SIMPLE = """
sys.path.insert(0, LIBRARIES)
from umqtt.simple import MQTTClient
got = []
client = MQTTClient(b"sensor", "10.90.0.1", keepalive=30)
client.set_callback(lambda topic, message: got.append((topic, message)))
client.set_last_will(b"gone", b"unexpectedly")
client.connect()
client.subscribe(b"sensor/#", qos=1)
for size in (0, 1, 100, 2000, 9000):
    for qos in (0, 1):
        client.publish(b"sensor/%d" % size, bytes([size & 127]) * size, qos=qos)
        while len(got) < 1:
            client.wait_msg()
        assert got.pop() == (b"sensor/%d" % size, bytes([size & 127]) * size)
client.ping()
client.wait_msg()
assert client.check_msg() is None  # nothing is there: it does not block
client.publish(b"sensor/retained", b"kept", retain=True)
client.wait_msg()
client.disconnect()
again = MQTTClient(b"other", "10.90.0.1")
again.set_callback(lambda topic, message: got.append((topic, message)))
again.connect()
again.subscribe(b"sensor/retained")
again.wait_msg()
assert got[-1] == (b"sensor/retained", b"kept")
again.disconnect()
print("done")
"""


async def test_umqtt_simple(tmp_path: Path, broker: Broker) -> None:
    """Subscriptions, QoS 0 and 1, retained messages, pings, and `check_msg` that does not block."""
    libraries = require_umqtt()
    async with _proxy(tmp_path) as proxy:
        proxy.serve(1883, broker.port)
        output = await micropython(START + f"LIBRARIES = {str(libraries)!r}\n" + SIMPLE, tmp_path)
    assert output == "done\n"


ROBUST = """
sys.path.insert(0, LIBRARIES)
from umqtt.robust import MQTTClient
client = MQTTClient(b"sensor", "10.90.0.1")
client.DELAY = 0
client.connect()
client.publish(b"value", b"1", qos=1)
open("published", "w").close()
while True:
    try:
        open("restarted").close()
        break
    except OSError:
        lopower.pump()
        time.sleep_ms(10)
import umqtt.simple
got = []
observer = umqtt.simple.MQTTClient(b"observer", "10.90.0.1")
observer.set_callback(lambda topic, message: got.append(message))
observer.connect()
observer.subscribe(b"value")
before, number = client.sock, 2
while not got:  # into the old connection until its end is noticed; then it connects again by itself
    client.publish(b"value", b"%d" % number)
    number += 1
    time.sleep_ms(50)
    observer.check_msg()
assert client.sock is not before
assert number < 100, number
print("done")
"""


async def test_umqtt_robust(tmp_path: Path, broker: Broker) -> None:
    """The broker is killed and comes back: what the library does about that works through the tunnel."""
    libraries = require_umqtt()
    async with _proxy(tmp_path) as proxy:
        proxy.serve(1883, broker.port)
        program = asyncio.create_task(
            micropython(START + f"LIBRARIES = {str(libraries)!r}\n" + ROBUST, tmp_path, timeout=40)
        )
        while not (tmp_path / "published").exists():
            assert not program.done(), await program
            await asyncio.sleep(0.02)
        await broker.stop()
        await broker.start()
        (tmp_path / "restarted").touch()
        assert await program == "done\n"


HTTP = """
import requests
response = requests.get("http://10.90.0.1:8080/json", headers={"X-Test": "yes"})
assert response.status_code == 200 and response.json() == {"header": "yes", "method": "GET", "length": 0}
response = requests.post("http://10.90.0.1:8080/json", json={"a": "x" * 5000})
assert response.json()["length"] == 5008 + 1, response.json()
assert len(requests.get("http://10.90.0.1:8080/large").content) == 20_000
assert requests.get("http://10.90.0.1:8080/redirect").json()["method"] == "GET"
assert requests.get("http://10.90.0.1:8080/nothing").status_code == 404

# mip, from an index of the format that micropython.org has
import mip
mip.install("thing", index="http://10.90.0.1:8080/index", target="lib", mpy=False)
with open("lib/thing/__init__.py") as file:
    assert file.read() == "value = 42\\n"
sys.path.append("lib")
import thing
assert thing.value == 42

# aiohttp of micropython-lib is in no package index: its calls of asyncio's streams, chunked transfer included.
import asyncio

async def fetch(path):
    reader, writer = await asyncio.open_connection("10.90.0.1", 8080)
    await writer.awrite(b"GET %s HTTP/1.1\\r\\nHost: 10.90.0.1\\r\\nConnection: close\\r\\n\\r\\n" % path.encode())
    status = int((await reader.readline()).split()[1])
    chunked = False
    while True:
        line = await reader.readline()
        if not line.strip():
            break
        chunked = chunked or line.lower().startswith(b"transfer-encoding: chunked")
    body = b""
    while chunked:
        size = int((await reader.readline()).strip(), 16)
        while size:
            part = await reader.read(size)
            body += part
            size -= len(part)
        if (await reader.readline()).strip() == b"" and body.endswith(b"end"):
            assert (await reader.readline()).strip() == b"0"
            break
    writer.close()
    await writer.wait_closed()
    return status, body

async def main():
    return await asyncio.gather(*[fetch("/chunked") for _ in range(3)])

for status, body in asyncio.run(main()):
    assert status == 200 and body == b"part " * 2000 + b"end", (status, len(body))
print("done")
"""


async def test_requests_and_mip(tmp_path: Path) -> None:
    """MicroPython's own `requests` and `mip`, and the calls of its aiohttp, against aiohttp."""
    content = b"value = 42\n"
    digest = hashlib.sha256(content).hexdigest()[:8]

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        return web.json_response(
            {"header": request.headers.get("X-Test"), "method": request.method, "length": len(body)}
        )

    async def large(request: web.Request) -> web.StreamResponse:
        return web.Response(body=b"x" * 20_000)

    async def redirect(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("http://10.90.0.1:8080/json")

    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(20):
            await response.write(b"part " * 100)
        await response.write(b"end")
        await response.write_eof()
        return response

    async def package(request: web.Request) -> web.StreamResponse:
        return web.json_response({"v": 1, "hashes": [["thing/__init__.py", digest]], "version": "1.0"})

    async def file(request: web.Request) -> web.StreamResponse:
        return web.Response(body=content)

    application = web.Application()
    application.router.add_route("*", "/json", answer)
    application.router.add_get("/large", large)
    application.router.add_get("/redirect", redirect)
    application.router.add_get("/chunked", chunked)
    application.router.add_get("/index/package/py/thing/latest.json", package)
    application.router.add_get(f"/index/file/{digest[:2]}/{digest}", file)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with _proxy(tmp_path) as proxy:
            proxy.serve(8080, runner.addresses[0][1])
            output = await micropython(START + HTTP, tmp_path)
    finally:
        await runner.cleanup()
    assert output.splitlines()[-1] == "done"


NTP = """
import socket, struct
query = bytearray(48)
query[0] = 0x1B
address = socket.getaddrinfo("10.90.0.1", 123)[0][-1]
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
try:
    link.settimeout(2)
    link.sendto(query, address)
    message = link.recv(48)
finally:
    link.close()
seconds = struct.unpack("!I", message[40:44])[0] - 2208988800
print(abs(seconds - time.time()) < 60)
"""


async def test_the_calls_of_ntptime(tmp_path: Path) -> None:
    """`ntptime` is in no package index: a program with its calls."""
    async with _proxy(tmp_path) as proxy:
        service: Any = proxy.runtime.bridge.gateway.udp[123]
        service._server._clock_state = lambda: ClockState(synchronized=True)
        assert await micropython(START + NTP, tmp_path) == "True\n"


THREADS = """
import _thread, socket
done, failed = [], []

def exchange(number):
    try:
        for round in range(6):
            link = socket.socket()
            link.settimeout(20)
            link.connect(("10.90.0.1", 7))
            line = b"%d " % number * 500 + b"\\n"
            link.write(line)
            if link.readline() != line:
                failed.append((number, round))
            link.close()
    except Exception as error:
        failed.append(error)
    done.append(number)

for number in range(4):
    _thread.start_new_thread(exchange, (number,))
end = time.ticks_add(time.ticks_ms(), 40_000)
while len(done) < 4 and time.ticks_diff(end, time.ticks_ms()) > 0:
    lopower.pump()
    time.sleep_ms(1)
assert not failed and sorted(done) == [0, 1, 2, 3], (failed, done, lopower.status())
counters = lopower.status()["counters"]
assert "not_authentic" not in counters and "replayed" not in counters, counters
print("done")
"""


async def test_threads(tmp_path: Path) -> None:
    """Four threads with sockets of their own, a fifth that pumps: one lock keeps them apart.

    This port's threads have no global lock, unlike the ESP32's: what they do at once is more, not less.
    """

    async with _proxy(tmp_path) as proxy, tcp_server(echo) as port:
        proxy.serve(7, port)
        assert await micropython(START + THREADS, tmp_path, heap="8M") == "done\n"
        peer = next(iter(proxy.runtime.interface.peers.values()))
        assert not peer.counters["replayed"]
