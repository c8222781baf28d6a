"""The HTTP server, asked by the standard library's client, by aiohttp's, and by bytes that no client would send."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

from lopower.http1.messages import HttpError, Request, Response, Routes, json_response
from lopower.http1.server import Server


class Service:
    """A server on a unix socket, and what its handlers saw."""

    def __init__(self, path: Path, server: Server) -> None:
        self.path = path
        self.server = server
        self.cancelled = 0
        self.begun = asyncio.Event()

    async def raw(self, request: bytes) -> bytes:
        """All that the server answers until it closes."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    def ask(self, *requests: tuple[str, str, bytes | None]) -> list[tuple[int, bytes, dict[str, str]]]:
        """The standard library's client: all requests over one connection."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(20)
        connection.sock.connect(str(self.path))
        answers = []
        for method, target, body in requests:
            connection.request(method, target, body)
            response = connection.getresponse()
            answers.append((response.status, response.read(), dict(response.headers)))
        connection.close()
        return answers


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async def echo(request: Request) -> Response:
        return Response(200, await request.read(), "application/octet-stream")

    async def about(request: Request) -> Response:
        return json_response([request.method, request.path, request.query, request.parameters, request.headers["host"]])

    async def ignore(request: Request) -> Response:
        return Response()

    async def fail(request: Request) -> Response:
        raise RuntimeError("secret")

    async def wait(request: Request) -> Response:
        made.begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            made.cancelled += 1
            raise
        return Response()

    async def mirror(request: Request) -> None:
        write = await request.begin("application/octet-stream")
        async for chunk in request.chunks():
            await write(chunk)

    async def endless(request: Request) -> None:
        write = await request.begin("application/octet-stream")
        made.begun.set()
        try:
            while True:
                await write(bytes(100_000))
        finally:
            made.cancelled += 1

    routes = Routes(
        ("POST", "/echo", echo),
        ("GET", "/about/{first}/{second}", about),
        ("DELETE", "/about/{first}/{second}", about),
        ("POST", "/ignore", ignore),
        ("GET", "/fail", fail),
        ("GET", "/wait", wait),
        ("POST", "/mirror", mirror),
        ("GET", "/endless", endless),
    )
    loop = asyncio.get_running_loop()
    made = Service(tmp_path / "http", Server(routes, loop, max_head=4096, max_body=100_000, idle_seconds=30.0))
    listener = await loop.create_unix_server(made.server, str(made.path))
    yield made
    listener.close()
    await made.server.close(0.0)
    assert not made.server.connections


async def test_many_requests_on_one_connection(service: Service) -> None:
    body = bytes(range(256)) * 300
    answers = await asyncio.to_thread(
        service.ask,
        ("POST", "/echo", body),
        ("GET", "/about/a%2Fb/%C3%A4?x=1&y=%20&x=2", None),
        ("POST", "/ignore", body),
        ("DELETE", "/about/1/2", None),
    )
    assert [status for status, _, _ in answers] == [200] * 4
    assert answers[0][1] == body
    assert json.loads(answers[1][1]) == [
        "GET", "/about/a/b/ä", {"x": "2", "y": " "}, {"first": "a/b", "second": "ä"}, "localhost",
    ]  # fmt: skip
    assert answers[2][1] == b""
    assert answers[0][2]["Date"].endswith(" GMT")


@pytest.mark.parametrize(
    ("method", "target", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("GET", "/about/a/", 404, None),
        ("GET", "/echo", 405, "POST"),
        ("PUT", "/about/1/2", 405, "DELETE, GET"),
        ("GET", "/fail", 500, None),
        ("GET", "/about/1/2?" + "&".join("abcdefghijklmnopqrstuvwxyzABCDEFGH"), 400, None),
    ],
)
async def test_errors(
    service: Service, method: str, target: str, status: int, allow: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        ((got, body, headers), _) = await asyncio.to_thread(
            service.ask, (method, target, None), ("GET", "/about/1/2", None)
        )
    assert (got, headers.get("Allow")) == (status, allow)
    assert b"secret" not in body


async def test_head_is_get_without_the_body(service: Service) -> None:
    head = await asyncio.to_thread(service.ask, ("HEAD", "/about/1/2", None), ("GET", "/about/1/2", None))
    assert head[0][:2] == (200, b"")
    assert int(head[0][2]["Content-Length"]) == len(head[1][1]) + 1  # its method is named there, too


@pytest.mark.parametrize("length", [100_000, 100_001, 3_000_000])
async def test_a_body_that_is_too_long_is_refused(service: Service, length: int) -> None:
    ((status, body, _),) = await asyncio.to_thread(service.ask, ("POST", "/echo", bytes(length)))
    assert status == (200 if length <= 100_000 else 413), body


async def test_aiohttp_gets_a_stream_both_ways_at_once(service: Service) -> None:
    data = bytes(range(256)) * 8000
    pieces = [data[at : at + 70_000] for at in range(0, len(data), 70_000)]
    echoed = asyncio.Semaphore(0)

    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.wait_for(echoed.acquire(), 20)  # the next one only when this one has come back

    connector = aiohttp.UnixConnector(str(service.path))
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.post("http://x/mirror", data=body()) as response:
            got, told = bytearray(), 0
            async for chunk in response.content.iter_any():
                got += chunk
                while told < len(pieces) and len(got) >= min((told + 1) * 70_000, len(data)):
                    told += 1
                    echoed.release()
        assert got == data
        async with session.post("http://x/echo", data=b"x", expect100=True) as response:
            assert await response.read() == b"x"


async def test_pipelined_requests_are_answered_in_order(service: Service) -> None:
    one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%b"
    last = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nc"
    answer = await service.raw(one % b"a" + one % b"b" + last)
    assert [part[-1:] for part in answer.split(b"HTTP/1.1 200")[1:]] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\r\n\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # without Host
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 5000,
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTQ/1.1\r\nHost: x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
    ],
    ids=["nothing", "no host", "long head", "length", "other", "chunk", "TLS"],
)
async def test_what_is_no_http_is_refused_and_closed(service: Service, request_bytes: bytes) -> None:
    answer = await service.raw(request_bytes)
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")), answer
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("path", ["/wait", "/endless"])
async def test_a_client_that_goes_away_ends_what_it_asked_for(service: Service, path: str) -> None:
    _, writer = await asyncio.open_unix_connection(str(service.path))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await asyncio.wait_for(service.begun.wait(), 20)
    writer.transport.abort()
    await until(lambda: not service.server.connections)
    assert service.cancelled == 1


async def test_a_client_that_does_not_read_does_not_fill_memory(service: Service) -> None:
    _, writer = await asyncio.open_unix_connection(str(service.path), limit=1 << 10)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(service.begun.wait(), 20)
    for _ in range(50):
        await asyncio.sleep(0)
    (connection,) = service.server.connections
    assert connection.transport.get_write_buffer_size() < 1_000_000
    writer.transport.abort()
    await until(lambda: not service.server.connections)


async def test_closing_cuts_what_takes_too_long(service: Service) -> None:
    _, idle = await asyncio.open_unix_connection(str(service.path))
    _, busy = await asyncio.open_unix_connection(str(service.path))
    busy.write(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
    await asyncio.wait_for(service.begun.wait(), 20)
    await service.server.close(0.05)
    assert service.cancelled == 1
    await until(lambda: not service.server.connections)
    for writer in (idle, busy):
        writer.close()


async def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    async def never(request: Request) -> Response:
        raise HttpError(404)

    loop = asyncio.get_running_loop()
    listener = await loop.create_unix_server(Server(never, loop, idle_seconds=0.05), str(tmp_path / "http"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "http"))
    writer.write(b"GET / HTTP/1.1\r\nHo")
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()
    listener.close()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for it, 20 s at most."""
    for _ in range(2000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not come about")
