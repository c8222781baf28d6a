"""A resolver of our own on loopback: UDP, TCP and HTTPS on one port, honest by default, and as bad as a test wants.

async with LoopbackResolver() as resolver:
    resolver.add("www.example.org 300 A 192.0.2.1")
    resolver.behaviour.silent = True
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any

import dnslib

from lopower.dns.config import ServerAddress


@dataclass(slots=True)
class Behaviour:
    """How the resolver misbehaves.

    Attributes:
        silent: answers nothing over UDP and HTTPS.
        silent_tcp: takes connections and answers nothing.
        drop: UDP queries still to be ignored, before it answers.
        delay: seconds before an answer.
        truncate: over UDP only the question comes back, with TC.
        wrong_ids: UDP answers with another id that precede the right one.
        wrong_question: answers another name.
        rcode: instead of the answer.
        no_edns: a query with EDNS gets FORMERR, as from servers of the last century.
        garbage: these bytes instead of any answer.
        change: anything else, done to each answer's wire form.
    """

    silent: bool = False
    silent_tcp: bool = False
    drop: int = 0
    delay: float = 0.0
    truncate: bool = False
    wrong_ids: int = 0
    wrong_question: bool = False
    rcode: int | None = None
    no_edns: bool = False
    garbage: bytes | None = None
    change: Callable[[bytes], bytes] | None = None


class LoopbackResolver:
    """Answers from its records; NXDOMAIN with an SOA for the rest, NODATA for other types of a known name.

    Attributes:
        behaviour: may be changed at any time.
        queries: every query received, with the transport: "udp", "tcp" or "https".
        sources: the ports UDP queries came from.
        port: of UDP and TCP.
        https_port: of HTTPS; 0 without certificates.
    """

    def __init__(self, host: str = "127.0.0.1", *, certificate: Path | None = None) -> None:
        self.host = host
        self.behaviour = Behaviour()
        self.queries: list[tuple[str, dnslib.DNSRecord]] = []
        self.sources: list[int] = []
        self.port = 0
        self.https_port = 0
        self._certificate = certificate
        self._records: dict[str, list[dnslib.RR]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: Any = None

    @property
    def address(self) -> ServerAddress:
        """For settings."""
        return ServerAddress(ip_address(self.host), self.port)

    @property
    def url(self) -> str:
        """Of DNS over HTTPS."""
        return f"https://{self.host}:{self.https_port}/dns-query"

    def add(self, zone: str) -> None:
        """Add records, written as in a zone file."""
        for record in dnslib.RR.fromZone(zone):
            self._records.setdefault(str(record.rname).lower(), []).append(record)

    async def __aenter__(self) -> LoopbackResolver:
        loop = asyncio.get_running_loop()
        self._tcp = await asyncio.start_server(self._serve_tcp, self.host, 0)
        self.port = self._tcp.sockets[0].getsockname()[1]
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self.host, self.port), family=family
        )
        if self._certificate is not None:
            await self._start_https(self._certificate)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        self._tcp.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()

    def stop_tcp(self) -> None:
        """Refuse TCP connections from now on, as behind a firewall that knows UDP only."""
        self._tcp.close()

    def answer(self, message: bytes, transport: str) -> bytes | None:
        """The answer to one message; None: silence."""
        query = dnslib.DNSRecord.parse(message)
        self.queries.append((transport, query))
        behaviour = self.behaviour
        if behaviour.silent if transport != "tcp" else behaviour.silent_tcp:
            return None
        if transport == "udp" and behaviour.drop:
            behaviour.drop -= 1
            return None
        if behaviour.garbage is not None:
            return behaviour.garbage
        reply = self._reply(query)
        if transport == "udp" and behaviour.truncate:
            reply = query.reply()
            reply.header.tc = 1
        wire = bytes(reply.pack())
        return behaviour.change(wire) if behaviour.change else wire

    def _reply(self, query: dnslib.DNSRecord) -> dnslib.DNSRecord:
        behaviour = self.behaviour
        reply = query.reply(ra=1, aa=0)
        edns = [record for record in query.ar if record.rtype == dnslib.QTYPE.OPT]
        if edns and behaviour.no_edns:
            reply.header.rcode = dnslib.RCODE.FORMERR
            return reply
        if behaviour.wrong_question:
            reply.questions[0].qname = dnslib.DNSLabel("other.example")
        if behaviour.rcode is not None:
            reply.header.rcode = behaviour.rcode
            return reply
        name, qtype = str(query.q.qname).lower(), query.q.qtype
        signatures = bool(edns and edns[0].edns_do)
        known = name in self._records
        for _ in range(8):  # a chain of aliases
            records = self._records.get(name, [])
            found = [record for record in records if record.rtype == qtype]
            aliases = [record for record in records if record.rtype == dnslib.QTYPE.CNAME and not found]
            for record in found or aliases:
                reply.add_answer(record)
            if signatures:
                for record in records:
                    if record.rtype == dnslib.QTYPE.RRSIG and record.rdata.covered == qtype:
                        reply.add_answer(record)
            if not aliases:
                break
            name = str(aliases[0].rdata.label).lower()
        if not reply.rr:
            reply.header.rcode = dnslib.RCODE.NOERROR if known else dnslib.RCODE.NXDOMAIN
            reply.add_auth(*dnslib.RR.fromZone("example 900 SOA ns.example. admin.example. 1 3600 600 86400 60"))
        if edns:
            reply.add_ar(dnslib.EDNS0(flags="do" if signatures else "", udp_len=1232))
        return reply

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_datagram(self, message: bytes, source: tuple[Any, ...]) -> None:
        self.sources.append(source[1])
        answer = self.answer(message, "udp")
        if answer is None:
            return
        await asyncio.sleep(self.behaviour.delay)
        for wrong in range(1, self.behaviour.wrong_ids + 1):
            id_ = (int.from_bytes(answer[:2], "big") + wrong) & 0xFFFF
            self._transport.sendto(id_.to_bytes(2, "big") + answer[2:], source)
        self._transport.sendto(answer, source)

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                answer = self.answer(message, "tcp")
                if answer is not None:
                    await asyncio.sleep(self.behaviour.delay)
                    writer.write(len(answer).to_bytes(2, "big") + answer)
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass  # cancelled is how the server ends; a stream server's task that says so is reported as a fault
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _start_https(self, certificate: Path) -> None:
        from aiohttp import web

        async def dns_query(request: web.Request) -> web.Response:
            if request.content_type != "application/dns-message":
                return web.Response(status=415)
            answer = self.answer(await request.read(), "https")
            await asyncio.sleep(self.behaviour.delay if answer is not None else 3600)
            return web.Response(body=answer, content_type="application/dns-message", headers=self.https_headers)

        application = web.Application()
        application.router.add_post("/dns-query", dns_query)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.https_headers: dict[str, str] = {}
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, 0, ssl_context=context).start()
        self.https_port = self._runner.addresses[0][1]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, resolver: LoopbackResolver) -> None:
        self._resolver = resolver

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._resolver._spawn(self._resolver._answer_datagram(data, addr))
