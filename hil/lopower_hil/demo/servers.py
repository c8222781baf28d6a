"""What the demonstration's devices talk to, in a process of its own: a web server, a bulk transfer and a resolver.

Prints one line of JSON with the ports once everything listens; ends when its standard input is closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import cast

from aiohttp import web
from dnslib import QTYPE, RR, A, DNSRecord

from lopower_hil.loopback import HOST

PIECE = bytes(range(256)) * 256  # 64 KB, sent over and over
NAME = "printer.demo.example."
ADDRESS = "192.0.2.80"
REQUEST_BYTES = 9


async def transfer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """`d` and a count: sends so many bytes, then their SHA-256; `u`: takes so many, answers with what it got's."""
    try:
        request = await reader.readexactly(REQUEST_BYTES)
        rest = int.from_bytes(request[1:], "big")
        digest = hashlib.sha256()
        while rest:
            if request[:1] == b"d":
                piece = PIECE[:rest]
                writer.write(piece)
                await writer.drain()
            else:
                piece = await reader.read(min(rest, 1 << 20))
                if not piece:
                    break
            digest.update(piece)
            rest -= len(piece)
        writer.write(digest.digest())
        writer.write_eof()
        await reader.read()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


class Resolver(asyncio.DatagramProtocol):
    """Knows one name."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one query."""
        self.transport.sendto(answer(data), addr)


def answer(query: bytes) -> bytes:
    """The answer to one query."""
    request = DNSRecord.parse(query)
    reply = request.reply()
    if str(request.q.qname).lower() != NAME:
        reply.header.rcode = 3
    elif request.q.qtype == QTYPE.A:
        reply.add_answer(RR(NAME, QTYPE.A, rdata=A(ADDRESS), ttl=60))
    return bytes(reply.pack())


async def index(_: web.Request) -> web.Response:
    """The web server's page."""
    return web.Response(text="Hello from a web server of this host.\n")


async def serve() -> None:
    """Run until standard input ends."""
    loop = asyncio.get_running_loop()
    application = web.Application()
    application.router.add_get("/", index)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, HOST, 0)
    await site.start()
    bulk = await asyncio.start_server(transfer, HOST, 0, limit=1 << 20)
    resolver, _ = await loop.create_datagram_endpoint(Resolver, (HOST, 0))
    ports = {
        "web": runner.addresses[0][1],
        "bulk": bulk.sockets[0].getsockname()[1],
        "resolver": resolver.get_extra_info("sockname")[1],
    }
    print(json.dumps(ports), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    bulk.close()
    resolver.close()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
