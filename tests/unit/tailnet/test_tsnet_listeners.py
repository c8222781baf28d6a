"""What the sidecar opens towards us: inbound flows and echo requests, in pieces, malformed, and too slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lopower.tailnet import tsnet_inbound
from lopower.tailnet.tsnet_echo import EchoListener, InboundEcho, Verdict
from lopower.tailnet.tsnet_inbound import InboundListener, InboundRequest
from lopower.wire.proxy_protocol import ProxyHeader

HEADER = ProxyHeader(
    transport="tcp",
    source=ip_address("100.64.0.7"),
    source_port=4242,
    destination=ip_address("100.64.0.3"),
    destination_port=80,
    tlvs=((0xE0, b"proxy"), (0xE2, b"phone.tail"), (0xE3, b"ada@example.org"), (0xE4, b"tag:a,tag:b"), (0xEF, b"?")),
)


@pytest.fixture
async def requests(tmp_path: Path) -> AsyncIterator[list[InboundRequest]]:
    taken: list[InboundRequest] = []
    listener = InboundListener(tmp_path / "inbound", taken.append)
    yield taken
    listener.close()
    for request in taken:
        request.stream.close()


def connected(directory: Path, name: str = "inbound") -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    made.connect(str(directory / name))
    return made


async def read(stream: socket.socket, size: int = 100) -> bytes:
    """What comes; empty if the other side closed, with or without having read all."""
    try:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(stream, size), 5)
    except ConnectionResetError:
        return b""


async def arrived(requests: list[InboundRequest], count: int) -> None:
    async with asyncio.timeout(5):
        while len(requests) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_a_header_in_pieces(tmp_path: Path, requests: list[InboundRequest], step: int) -> None:
    data = HEADER.to_bytes()
    with connected(tmp_path) as stream:
        for start in range(0, len(data), step):
            stream.send(data[start : start + step])
            await asyncio.sleep(0)
        await arrived(requests, 1)
        request = requests[0]
        assert (request.node, request.name, request.user) == ("proxy", "phone.tail", "ada@example.org")
        assert request.tags == ("tag:a", "tag:b")
        assert (str(request.source), request.source_port) == ("100.64.0.7", 4242)
        assert (str(request.destination), request.destination_port) == ("100.64.0.3", 80)
        for answer, code in ((request.accept, 0), (request.refuse, 1), (lambda: request.accept(tls=True), 2)):
            answer()
            assert await read(stream, 1) == bytes((code,))


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", HEADER.to_bytes()[:12] + b"\x20\x00\x00\x00", b""])
async def test_what_is_no_header_is_closed(tmp_path: Path, requests: list[InboundRequest], data: bytes) -> None:
    with connected(tmp_path) as stream:
        stream.send(data)
        if not data:
            stream.shutdown(socket.SHUT_WR)
        assert await read(stream) == b""
    assert not requests


async def test_one_that_says_nothing_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsnet_inbound, "_HEADER_SECONDS", 0.05)
    listener = InboundListener(tmp_path / "inbound", lambda _: None)
    with connected(tmp_path) as stream:
        stream.send(HEADER.to_bytes()[:20])
        assert await read(stream) == b""
    listener.close()


async def test_those_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsnet_inbound, "MAX_WAITING", 2)
    listener = InboundListener(tmp_path / "inbound", lambda _: None)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(connected(tmp_path)) for _ in range(3)]
        assert await read(streams[2]) == b""
        listener.close()
        for stream in streams[:2]:
            assert await read(stream) == b""


def echo_frame(number: int, destination: str, payload: bytes = b"payload") -> bytes:
    address = ip_address(destination)
    body = struct.pack("!IB", number, address.version) + address.packed * 2
    body += struct.pack("!HHBB", 1, 2, 64, 5) + b"proxy" + payload
    return struct.pack("!H", len(body)) + body


async def verdict(echo: InboundEcho) -> Verdict:
    if echo.number == 1:
        await asyncio.sleep(0.1)  # the others do not wait for it
    return {"10.90.0.2": "answered", "10.90.0.3": "silence"}.get(str(echo.destination), "unreachable")  # type: ignore[return-value]


async def test_echo_requests_are_answered_in_any_order(tmp_path: Path) -> None:
    listener = EchoListener(tmp_path / "echo", verdict)
    await listener.start()
    with connected(tmp_path, "echo") as stream:
        frames = [echo_frame(1, "10.90.0.2"), echo_frame(2, "10.90.0.3"), echo_frame(3, "fd00::9", bytes(60_000))]
        await asyncio.get_running_loop().sock_sendall(stream, b"".join(frames))
        data = b""
        while len(data) < 21:
            data += await read(stream)
        answers = sorted(struct.unpack_from("!HIB", data, start) for start in (0, 7, 14))
        assert answers == [(5, 1, 0), (5, 2, 3), (5, 3, 1)]
        assert struct.unpack_from("!HIB", data, 14)[1] == 1
    await listener.close()


@pytest.mark.parametrize("frame", [b"", b"\0\0\0\1", b"\0\0\0\1\x05" + bytes(40), b"\0\0\0\1\x06" + bytes(20)])
async def test_what_is_no_echo_request_ends_the_connection(tmp_path: Path, frame: bytes) -> None:
    listener = EchoListener(tmp_path / "echo", verdict)
    await listener.start()
    with connected(tmp_path, "echo") as stream:
        stream.send(struct.pack("!H", len(frame)) + frame)
        assert await read(stream) == b""
    await listener.close()
