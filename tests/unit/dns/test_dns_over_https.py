"""DNS over HTTPS, with certificates that are verified."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import dnslib
import pytest

from lopower.dns.server import DnsServer
from tests.support.dns_certificates import make_certificates
from tests.support.dns_resolver import LoopbackResolver
from tests.support.dns_world import ask, make_config, make_server, rdata


@pytest.fixture
async def resolver(tmp_path: Path) -> AsyncIterator[LoopbackResolver]:
    _, certificate = make_certificates(tmp_path, ("127.0.0.1",))
    async with LoopbackResolver(certificate=certificate) as running:
        running.add("www.example.org 300 A 192.0.2.1")
        yield running


def make(tmp_path: Path, *urls: str, ca: Path | None = None, resolv_conf: str = "") -> DnsServer:
    return make_server(make_config(tmp_path, resolv_conf, https_resolvers=urls, https_ca=ca or tmp_path / "ca.pem"))


async def test_without_system_resolvers_https_is_asked(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make(tmp_path, resolver.url)
    replies = await asyncio.gather(*(ask(server, "www.example.org", kind) for kind in ("A", "AAAA", "TXT")))
    assert rdata(replies[0]) == ["192.0.2.1"]
    assert [transport for transport, _ in resolver.queries] == ["https"] * 3
    assert {query.header.id for _, query in resolver.queries} == {0}
    assert server.status()["over_https"] is True
    await server.close()


async def test_system_resolvers_come_first(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make(tmp_path, resolver.url, resolv_conf=f"nameserver [127.0.0.1]:{resolver.port}\n")
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert [transport for transport, _ in resolver.queries] == ["udp"]
    await server.close()


async def test_the_age_in_an_http_cache_counts(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make(tmp_path, resolver.url)
    resolver.https_headers["Age"] = "200"
    assert (await ask(server, "www.example.org")).rr[0].ttl == 100
    await server.close()


async def test_dnssec_over_https(tmp_path: Path, resolver: LoopbackResolver) -> None:
    resolver.add("s.example 300 A 192.0.2.1")
    resolver.add("s.example 300 RRSIG A 13 2 300 20300101000000 20200101000000 12345 example. c2ln")
    server = make(tmp_path, resolver.url)
    assert len((await ask(server, "s.example", edns=1232, dnssec=True)).rr) == 2
    await server.close()


async def failed(server: DnsServer) -> str:
    reply = await ask(server, "www.example.org", edns=1232)
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL
    await server.close()
    return bytes(reply.ar[0].rdata[0].data[2:]).decode()


async def test_another_authority_is_not_trusted(tmp_path: Path, resolver: LoopbackResolver) -> None:
    (tmp_path / "other").mkdir()
    ca, _ = make_certificates(tmp_path / "other", ("127.0.0.1",))
    assert "SSL" in await failed(make(tmp_path, resolver.url, ca=ca))
    assert resolver.queries == []


async def test_a_certificate_for_another_address_is_not_trusted(tmp_path: Path) -> None:
    ca, certificate = make_certificates(tmp_path, ("192.0.2.1",))
    async with LoopbackResolver(certificate=certificate) as resolver:
        assert "SSL" in await failed(make(tmp_path, resolver.url, ca=ca))
        assert resolver.queries == []


async def test_certificates_that_cannot_be_read(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make(tmp_path, resolver.url, ca=tmp_path / "nothing.pem")
    assert (await ask(server, "a.example")).header.rcode == dnslib.RCODE.SERVFAIL
    assert "certificates cannot be read" in await failed(server)


async def test_http_errors(tmp_path: Path, resolver: LoopbackResolver) -> None:
    assert "status 404" in await failed(make(tmp_path, resolver.url + "/nothing"))


@pytest.mark.parametrize("garbage", [b"", b"x" * 12, b"x" * 70_000])
async def test_garbage_over_https(tmp_path: Path, resolver: LoopbackResolver, garbage: bytes) -> None:
    resolver.behaviour.garbage = garbage
    await failed(make(tmp_path, resolver.url))


async def test_another_question_over_https(tmp_path: Path, resolver: LoopbackResolver) -> None:
    resolver.behaviour.wrong_question = True
    assert "another question" in await failed(make(tmp_path, resolver.url))


async def test_the_second_one_after_silence_or_a_refused_connection(tmp_path: Path, resolver: LoopbackResolver) -> None:
    async with LoopbackResolver(certificate=tmp_path / "server.pem") as silent:
        silent.behaviour.silent = True
        server = make(tmp_path, silent.url, resolver.url)
        assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
        await server.close()
        refused = silent.url
    server = make(tmp_path, refused, resolver.url)
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    await server.close()


async def test_reload_and_close_leave_no_connection(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make(tmp_path, resolver.url)
    await ask(server, "www.example.org")
    server.reload()
    await ask(server, "www.example.org")
    await server.close()
    assert len(resolver.queries) == 2


def test_aiohttp_is_loaded_only_when_needed() -> None:
    code = "import sys, lopower.dns.server; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": "host"})
