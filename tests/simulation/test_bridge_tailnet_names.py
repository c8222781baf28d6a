"""Questions from the tailnet about names: framed both ways, in pieces, late, too many, and faulty answers."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator
from ipaddress import ip_address

import pytest

from lopower.bridge import tailnet_names
from lopower.bridge.tailnet_names import MAX_FLOWS_PER_NODE, TailnetNames
from lopower.tailnet.tsnet_inbound import PROXY_NODE, InboundRequest
from lopower.wire.proxy_protocol import Transport


class Names:
    """One of them, which answers with what it was asked, in capitals."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.names = TailnetNames(asyncio.get_running_loop(), self.counters)
        self.names.answer = self.answer
        self.clients: list[socket.socket] = []

    def answer(self, query: bytes) -> bytes:
        if query == b"fault":
            raise ValueError("a fault of ours")
        return b"" if query == b"drop" else query.upper()

    def open(self, transport: Transport = "tcp", source: str = "100.64.0.7") -> socket.socket:
        """A flow; the sidecar's end of it."""
        theirs, ours = socket.socketpair()
        for end in (theirs, ours):
            end.setblocking(False)
        self.clients.append(theirs)
        request = InboundRequest(
            node=PROXY_NODE,
            transport=transport,
            source=ip_address(source),
            source_port=4242,
            destination=ip_address("100.64.0.3"),
            destination_port=53,
            name="",
            user="",
            tags=(),
            stream=ours,
        )
        assert self.names.opened(request)
        return theirs

    async def read(self, client: socket.socket, size: int = 65_536) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, size), 5)


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    made = Names()
    yield made
    await made.names.close()
    for client in made.clients:
        client.close()
    await asyncio.sleep(0)  # transports that were closed say so in the next round


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


async def test_several_questions_in_pieces_and_an_end_in_order(names: Names) -> None:
    client = names.open()
    assert await names.read(client, 1) == b"\x00"
    for byte in framed(b"one", b"drop", b"", b"two"):
        client.send(bytes((byte,)))
        await asyncio.sleep(0)
    answers = b""
    while len(answers) < 10:
        answers += await names.read(client)
    assert answers == framed(b"ONE", b"TWO")
    client.shutdown(socket.SHUT_WR)
    assert await names.read(client) == b""


async def test_datagrams_and_notices(names: Names) -> None:
    client = names.open("udp")
    client.send(framed(b"one") + b"\xff\xff\x05" + framed(b"two"))
    assert await names.read(client, 1) == b"\x00"
    answers = b""
    while len(answers) < 10:
        answers += await names.read(client)
    assert answers == framed(b"ONE", b"TWO")


async def test_who_says_nothing_is_let_go(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tailnet_names, "TCP_SECONDS", 0.05)
    client = names.open()
    client.send(b"\x00")
    assert await names.read(client, 1) == b"\x00"
    assert await names.read(client) == b""


async def test_who_does_not_take_the_answers_is_not_asked_for_more(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailnet_names, "TCP_SECONDS", 0.2)
    client = names.open()
    client.send(framed(b"x"))
    assert await names.read(client, 1) == b"\x00"
    flood = asyncio.get_running_loop().sock_sendall(client, framed(b"x" * 60_000) * 200)
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        await asyncio.wait_for(flood, 10)


async def test_too_many_of_one_node(names: Names) -> None:
    for _ in range(MAX_FLOWS_PER_NODE):
        names.open()
    refused = names.open()
    assert await names.read(refused) == b"\x01"
    assert names.counters["zone_limit"] == 1
    assert await names.read(names.open(source="100.64.0.8"), 1) == b"\x00"
    names.clients.pop(0).close()
    async with asyncio.timeout(5):
        while await names.read(names.open(), 1) != b"\x00":  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_fault_of_ours_ends_that_flow_alone(names: Names, caplog: pytest.LogCaptureFixture) -> None:
    faulty, other = names.open(), names.open()
    faulty.send(framed(b"fault"))
    other.send(framed(b"one"))
    assert await names.read(faulty, 1) == b"\x00"
    assert await names.read(faulty) == b""
    assert await names.read(other, 1) == b"\x00"
    assert await names.read(other) == framed(b"ONE")
    assert names.counters["faults"] == 1
    assert "stays unanswered" in caplog.text


async def test_without_a_zone_the_port_is_like_any_other(names: Names) -> None:
    names.names.answer = None
    theirs, ours = socket.socketpair()
    with theirs, ours:
        request = InboundRequest(
            node=PROXY_NODE, transport="udp", source=ip_address("100.64.0.7"), source_port=1,
            destination=ip_address("100.64.0.3"), destination_port=53, name="", user="", tags=(), stream=ours,
        )  # fmt: skip
        assert not names.names.opened(request)
