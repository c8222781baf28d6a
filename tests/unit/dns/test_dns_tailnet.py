"""Tailnet names: only the tailnet's resolver is asked, and IPv6-only devices see no IPv4 addresses of theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import dnslib
import pytest

from lopower.dns import message, names, rewriting
from lopower.dns.message import MessageError, Response
from lopower.dns.server import DnsServer
from tests.support.dns_resolver import LoopbackResolver
from tests.support.dns_world import ask, make_config, make_server, rdata

ZONE = """\
node.tail1234.ts.net 60 A 100.64.0.5
node.tail1234.ts.net 60 AAAA fd7a:115c:a1e0::5
old.tail1234.ts.net 60 A 100.64.0.6
alias.tail1234.ts.net 60 CNAME node.tail1234.ts.net
outside.tail1234.ts.net 60 CNAME www.example.org
www.example.org 60 A 192.0.2.1
5.0.64.100.in-addr.arpa 60 PTR node.tail1234.ts.net
"""


@pytest.fixture
async def tailnet() -> AsyncIterator[LoopbackResolver]:
    async with LoopbackResolver() as running:
        running.add(ZONE)
        yield running


@pytest.fixture
async def system() -> AsyncIterator[LoopbackResolver]:
    async with LoopbackResolver() as running:
        running.add("public.example 60 CNAME node.tail1234.ts.net")
        running.add("public.example 60 A 192.0.2.3")
        running.add("node.tail1234.ts.net 60 A 100.64.0.5")
        yield running


def make(tmp_path: Path, tailnet: LoopbackResolver, system: LoopbackResolver, *, ipv4: bool) -> DnsServer:
    async def query(wire: bytes) -> bytes:
        answer = tailnet.answer(wire, "tailnet")
        if answer is None:
            await asyncio.sleep(3600)
        return answer or b""

    conf = f"nameserver [127.0.0.1]:{system.port}\nsearch tail1234.ts.net\n"
    return make_server(make_config(tmp_path, conf, ipv4=ipv4), tailnet=query)


async def test_tailnet_names_go_to_the_tailnet(
    tmp_path: Path, tailnet: LoopbackResolver, system: LoopbackResolver
) -> None:
    server = make(tmp_path, tailnet, system, ipv4=True)
    assert rdata(await ask(server, "node.tail1234.ts.net")) == ["100.64.0.5"]
    assert rdata(await ask(server, "node")) == ["node.tail1234.ts.net.", "100.64.0.5"]
    assert rdata(await ask(server, "5.0.64.100.in-addr.arpa", "PTR")) == ["node.tail1234.ts.net."]
    assert system.queries == []
    await server.close()


async def test_a_bare_name_that_may_be_in_the_tailnet_is_not_said_to_be_nowhere(
    tmp_path: Path, tailnet: LoopbackResolver, system: LoopbackResolver
) -> None:
    server = make(tmp_path, tailnet, system, ipv4=True)
    tailnet.behaviour.rcode = 2
    assert (await ask(server, "node")).header.rcode == dnslib.RCODE.SERVFAIL
    await server.close()


async def test_no_tailnet_is_servfail_with_the_reason(tmp_path: Path) -> None:
    server = make_server(make_config(tmp_path))
    reply = await ask(server, "node.ts.net", edns=1232)
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL
    assert b"this host is in no tailnet" in reply.ar[0].rdata[0].data
    await server.close()


@pytest.mark.parametrize("answer", [b"", b"\0" * 12, None])
async def test_nonsense_from_the_tailnet_is_servfail(tmp_path: Path, answer: bytes | None) -> None:
    async def query(wire: bytes) -> bytes:
        if answer is not None:
            return answer
        other = dnslib.DNSRecord.question("other.ts.net").reply()
        return wire[:2] + bytes(other.pack())[2:]

    server = make_server(make_config(tmp_path), tailnet=query)
    assert (await ask(server, "node.ts.net")).header.rcode == dnslib.RCODE.SERVFAIL
    await server.close()


async def test_without_ipv4_tailnet_names_have_no_a_records(
    tmp_path: Path, tailnet: LoopbackResolver, system: LoopbackResolver
) -> None:
    server = make(tmp_path, tailnet, system, ipv4=False)
    for name in ("node.tail1234.ts.net", "old.tail1234.ts.net"):
        reply = await ask(server, name)
        assert (reply.header.rcode, rdata(reply)) == (dnslib.RCODE.NOERROR, [])
    assert rdata(await ask(server, "node.tail1234.ts.net", "AAAA")) == ["fd7a:115c:a1e0::5"]
    assert rdata(await ask(server, "alias.tail1234.ts.net")) == ["node.tail1234.ts.net."]
    assert rdata(await ask(server, "outside.tail1234.ts.net")) == ["www.example.org."]
    assert rdata(await ask(server, "node")) == ["node.tail1234.ts.net."]
    assert rdata(await ask(server, "node", "AAAA"))[-1] == "fd7a:115c:a1e0::5"
    missing = await ask(server, "nobody.tail1234.ts.net")
    assert missing.header.rcode == dnslib.RCODE.NXDOMAIN
    await server.close()


async def test_without_ipv4_other_names_keep_theirs(
    tmp_path: Path, tailnet: LoopbackResolver, system: LoopbackResolver
) -> None:
    server = make(tmp_path, tailnet, system, ipv4=False)
    system.add("www.example.org 60 A 192.0.2.1")
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    await server.close()


def in_tailnet(name: bytes) -> bool:
    return name.endswith(names.from_text("ts.net"))


def test_all_sections_and_signatures_are_filtered() -> None:
    reply = dnslib.DNSRecord.question("a.example", "SRV").reply()
    sig = "A 13 2 300 20300101000000 20200101000000 12345 ts.net. c2ln"
    reply.add_answer(*dnslib.RR.fromZone("a.example 5 SRV 1 2 3 n.ts.net"))
    reply.add_auth(*dnslib.RR.fromZone("n.ts.net 5 A 100.64.0.1\nn.ts.net 5 AAAA fd7a::1"))
    reply.add_ar(*dnslib.RR.fromZone(f"N.TS.NET 5 A 100.64.0.1\nn.ts.net 5 RRSIG {sig}\nb.example 5 A 192.0.2.1"))
    filtered = dnslib.DNSRecord.parse(rewriting.without_ipv4(Response(bytes(reply.pack())), in_tailnet).wire)
    assert len(filtered.rr) == 1
    assert [record.rtype for record in filtered.auth] == [dnslib.QTYPE.AAAA]
    assert [str(record.rname) for record in filtered.ar] == ["b.example."]


def test_nothing_to_filter_is_left_alone() -> None:
    response = Response(bytes(dnslib.DNSRecord.question("n.ts.net").reply().pack()))
    assert rewriting.without_ipv4(response, in_tailnet) is response


def test_what_dnslib_cannot_read_is_an_error() -> None:
    question = message.write_query(0, message.Question(b"\x01\xff\x02ts\x03net\0", 1), edns=False)
    wire = question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:]
    wire += b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4\x64\x40\0\1"
    with pytest.raises(MessageError, match="rewritten"):
        rewriting.without_ipv4(Response(wire), in_tailnet)
    large = dnslib.DNSRecord.question("n.ts.net").reply()
    large.add_answer(*dnslib.RR.fromZone("\n".join(f'n.ts.net 5 TXT "{"x" * 250}"' for _ in range(70))))
    large.add_answer(*dnslib.RR.fromZone("n.ts.net 5 A 100.64.0.1"))
    with pytest.raises(MessageError, match="too large"):
        rewriting.without_ipv4(Response(bytes(large.pack())), in_tailnet)
