"""What the demonstration does with its devices, one function per step."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from dataclasses import dataclass

from dnslib import QTYPE, DNSRecord

from lopower_hil.demo.servers import NAME, PIECE
from lopower_hil.virtual_device import VirtualDevice, VirtualStream

BULK_BYTES = 100_000_000
FORBIDDEN = "192.0.2.1"  # RFC 5737: no host of anybody's
SECONDS = 30.0


class StepFailedError(Exception):
    """A step did not end as it should; the text says how it did."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The addresses of the proxy inside the tunnel, and what it serves."""

    ipv4: str
    ipv6: str
    web_port: int
    bulk_port: int
    closed_port: int


def expect(condition: bool, what: str) -> None:
    """Fail the step unless `condition` holds."""
    if not condition:
        raise StepFailedError(what)


async def handshake(device: VirtualDevice, _: Gateway) -> str:
    """A WireGuard session."""
    seconds = await device.handshake()
    return f"session after {seconds * 1e3:.1f} ms"


async def ping_gateway(device: VirtualDevice, gateway: Gateway) -> str:
    """Echo, IPv4 and IPv6."""
    times = [await device.ping(address) for address in (gateway.ipv4, gateway.ipv6)]
    return f"IPv4 {times[0] * 1e3:.2f} ms, IPv6 {times[1] * 1e3:.2f} ms"


async def dns_udp(device: VirtualDevice, gateway: Gateway) -> str:
    """The gateway's own name, and one that a resolver knows, over UDP."""
    found = [await resolve(device, gateway.ipv4, name) for name in ("gateway", NAME)]
    expect(found[0] == [gateway.ipv4], f"`gateway` is {found[0]}, not {gateway.ipv4}")
    expect(len(found[1]) == 1, f"{NAME} is {found[1]}")
    return f"gateway is {found[0][0]}, {NAME} is {found[1][0]}"


async def dns_tcp(device: VirtualDevice, gateway: Gateway) -> str:
    """The same over TCP, to the IPv6 address."""
    stream = await device.open_connection(gateway.ipv6, 53)
    question = _question(NAME)
    message = bytes(question.pack())
    await stream.write(len(message).to_bytes(2, "big") + message)
    length = int.from_bytes(await stream.read_exactly(2), "big")
    found = _addresses(question, await stream.read_exactly(length))
    stream.abort()
    expect(len(found) == 1, f"{NAME} is {found}")
    return f"{NAME} is {found[0]}"


async def page_ipv4(device: VirtualDevice, gateway: Gateway) -> str:
    """The gateway's page over IPv4."""
    return await _page(device, gateway.ipv4)


async def page_ipv6(device: VirtualDevice, gateway: Gateway) -> str:
    """The gateway's page over IPv6."""
    return await _page(device, gateway.ipv6)


async def served_web(device: VirtualDevice, gateway: Gateway) -> str:
    """A web server of this host, through `lopower serve`."""
    body = await get(device, gateway.ipv4, gateway.web_port)
    expect(body.startswith("Hello"), f"got {body[:60]!r}")
    return f'"{body.strip()}"'


async def upload(device: VirtualDevice, gateway: Gateway) -> str:
    """Device to network, hashed at both ends."""
    stream = await device.open_connection(gateway.ipv4, gateway.bulk_port)
    began = time.monotonic()
    await stream.write(b"u" + BULK_BYTES.to_bytes(8, "big"))
    digest = hashlib.sha256()
    rest = BULK_BYTES
    while rest:
        piece = memoryview(PIECE)[:rest]
        digest.update(piece)
        await stream.write(piece)
        rest -= len(piece)
    stream.write_eof()
    theirs = await stream.read_all()
    return _bulk_result(began, digest.digest(), theirs)


async def download(device: VirtualDevice, gateway: Gateway) -> str:
    """Network to device, hashed at both ends."""
    stream = await device.open_connection(gateway.ipv6, gateway.bulk_port)
    began = time.monotonic()
    await stream.write(b"d" + BULK_BYTES.to_bytes(8, "big"))
    digest = hashlib.sha256()
    rest = BULK_BYTES
    while rest:
        piece = await stream.read(rest)
        expect(bool(piece), "the server closed too early")
        digest.update(piece)
        rest -= len(piece)
    theirs = await stream.read_exactly(digest.digest_size)
    stream.write_eof()
    return _bulk_result(began, digest.digest(), theirs)


async def refused(device: VirtualDevice, gateway: Gateway) -> str:
    """A closed port is seen as refused."""
    try:
        stream = await device.open_connection(gateway.ipv4, gateway.closed_port)
    except ConnectionRefusedError:
        return "connection refused"
    stream.abort()
    raise StepFailedError("the connection was accepted")


async def forbidden(device: VirtualDevice, _: Gateway) -> str:
    """An address that policy does not permit is seen as forbidden."""
    flow = device.datagrams(FORBIDDEN, 9)
    try:
        flow.send(b"anybody there?")
        async with asyncio.timeout(SECONDS):
            answer = await flow.receive()
    except PermissionError as error:
        said = error.strerror
    else:
        raise StepFailedError(f"somebody answered: {answer[:60]!r}")
    finally:
        flow.close()
    try:
        stream = await device.open_connection(FORBIDDEN, 80)
    except OSError as error:
        return f"UDP: {said}; TCP: {error.strerror}"
    stream.abort()
    raise StepFailedError("the connection was accepted")


async def resolve(device: VirtualDevice, server: str, name: str) -> list[str]:
    """The IPv4 addresses of a name, asked of `server` over UDP."""
    flow = device.datagrams(server, 53)
    try:
        question = _question(name)
        flow.send(bytes(question.pack()))
        async with asyncio.timeout(SECONDS):
            return _addresses(question, await flow.receive())
    finally:
        flow.close()


async def get(device: VirtualDevice, host: str, port: int, path: str = "/", name: str = "") -> str:
    """A page in plain text; `name` is the host's, as the request has it, if it was resolved."""
    stream = await device.open_connection(host, port)
    authority = name or (f"[{host}]" if ":" in host else host)
    request = f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: text/plain\r\nConnection: close\r\n\r\n"
    await stream.write(request.encode())
    async with asyncio.timeout(SECONDS):
        head, _, body = (await _read_to_end(stream)).partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0].decode("latin-1")
    expect(" 200 " in f"{status} ", f"the server said {status!r}")
    return body.decode()


def _question(name: str) -> DNSRecord:
    question = DNSRecord.question(name, "A")
    question.header.id = random.randrange(1 << 16)
    return question


def _addresses(question: DNSRecord, message: bytes) -> list[str]:
    reply = DNSRecord.parse(message)
    expect(reply.header.id == question.header.id, "the answer has another id than the question")
    return [str(record.rdata) for record in reply.rr if record.rtype == QTYPE.A]


async def _page(device: VirtualDevice, host: str) -> str:
    body = await get(device, host, 80)
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    expect(bool(lines), "the page is empty")
    return f'{len(body)} bytes: "{lines[0]}"'


async def _read_to_end(stream: VirtualStream) -> bytes:
    data = await stream.read_all()
    await stream.close()
    return data


def _bulk_result(began: float, ours: bytes, theirs: bytes) -> str:
    seconds = time.monotonic() - began
    expect(ours == theirs, f"the hashes differ: {ours.hex()[:16]}… here, {theirs.hex()[:16]}… there")
    rate = BULK_BYTES * 8 / seconds / 1e6
    return f"{rate:.0f} Mbit/s, SHA-256 {ours.hex()[:12]}… at both ends"


STEPS = (
    ("handshake", handshake),
    ("ping of the gateway", ping_gateway),
    ("DNS over UDP", dns_udp),
    ("DNS over TCP", dns_tcp),
    ("the gateway's page, IPv4", page_ipv4),
    ("the gateway's page, IPv6", page_ipv6),
    ("a server of this host", served_web),
    ("100 MB up", upload),
    ("100 MB down", download),
    ("a closed port", refused),
    ("a forbidden address", forbidden),
)
