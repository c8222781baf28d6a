"""Asking others: real resolvers on loopback, honest and otherwise."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dnslib
import psutil
import pytest

from lopower.dns import upstreams
from lopower.dns.config import ServerAddress
from lopower.dns.server import DnsServer
from tests.support.dns_resolver import LoopbackResolver
from tests.support.dns_world import ask, make_config, make_server, rdata

ADDRESS = "www.example.org 300 A 192.0.2.1"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second for what takes one."""
    monkeypatch.setattr("lopower.dns.resolver.NEXT_UPSTREAM_SECONDS", 0.25)
    monkeypatch.setattr("lopower.dns.upstreams.RESEND_SECONDS", 0.25)


@pytest.fixture
async def resolver() -> AsyncIterator[LoopbackResolver]:
    async with LoopbackResolver() as running:
        running.add(ADDRESS)
        yield running


@pytest.fixture
async def second() -> AsyncIterator[LoopbackResolver]:
    async with LoopbackResolver() as running:
        running.add("www.example.org 300 A 192.0.2.2")
        yield running


def resolv_conf(*resolvers: LoopbackResolver) -> str:
    return "".join(f"nameserver [{resolver.host}]:{resolver.port}\n" for resolver in resolvers)


@pytest.fixture
async def server(tmp_path: Path, resolver: LoopbackResolver, second: LoopbackResolver) -> AsyncIterator[DnsServer]:
    running = make_server(make_config(tmp_path, resolv_conf(resolver, second)))
    yield running
    await running.close()


def upstream_counters(server: DnsServer, resolver: LoopbackResolver) -> dict[str, int]:
    counters = server.status()["upstreams"][str(resolver.address)]
    assert isinstance(counters, dict)
    return counters


async def test_an_answer_comes_from_the_system_resolver_once(server: DnsServer, resolver: LoopbackResolver) -> None:
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    again = await ask(server, "WWW.example.ORG")
    assert rdata(again) == ["192.0.2.1"]
    assert str(again.q.qname) == "WWW.example.ORG."
    assert again.header.aa == 0
    assert len(resolver.queries) == 1
    assert server.status()["counters"]["hits"] == 1


async def test_ids_and_ports_are_random(server: DnsServer, resolver: LoopbackResolver) -> None:
    for number in range(20):
        await ask(server, f"n{number}.example.org")
    assert len({query.header.id for _, query in resolver.queries}) >= 19
    assert len(set(resolver.sources)) >= 15


async def test_negative_answers_are_kept(server: DnsServer, resolver: LoopbackResolver) -> None:
    for _ in range(2):
        reply = await ask(server, "nobody.example.org")
        assert reply.header.rcode == dnslib.RCODE.NXDOMAIN
        assert reply.auth[0].ttl <= 60
        assert (await ask(server, "www.example.org", "AAAA")).header.rcode == dnslib.RCODE.NOERROR
    assert len(resolver.queries) == 2


async def test_identical_queries_are_joined(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.delay = 0.1
    replies = await asyncio.gather(*(ask(server, "www.example.org", client=f"device {n}") for n in range(50)))
    assert [rdata(reply) for reply in replies] == [["192.0.2.1"]] * 50
    assert len(resolver.queries) == 1
    assert server.status()["counters"]["joined"] == 49


async def test_one_who_gives_up_takes_nothing_from_the_others(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.delay = 0.1
    first = asyncio.create_task(ask(server, "www.example.org"))
    others = asyncio.create_task(ask(server, "www.example.org"))
    await asyncio.sleep(0.02)
    first.cancel()
    assert rdata(await others) == ["192.0.2.1"]
    assert server.status()["in_flight"] == 0


async def test_wrong_ids_and_questions_are_passed_over(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.wrong_ids = upstreams.MAX_WRONG_ANSWERS - 1
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert upstream_counters(server, resolver)["wrong_answers"] == upstreams.MAX_WRONG_ANSWERS - 1
    assert [transport for transport, _ in resolver.queries] == ["udp"]


async def test_after_many_wrong_answers_tcp_is_used(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.wrong_ids = upstreams.MAX_WRONG_ANSWERS + 5
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert [transport for transport, _ in resolver.queries] == ["udp", "tcp"]


async def test_answers_to_another_question_are_not_believed(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.wrong_question = True
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]
    assert upstream_counters(server, resolver)["wrong_answers"] >= 1


async def test_answers_from_elsewhere_never_arrive(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.delay = 0.2
    asking = asyncio.create_task(ask(server, "www.example.org"))
    await asyncio.sleep(0.1)
    forged = resolver.queries[0][1].reply()
    forged.add_answer(*dnslib.RR.fromZone("www.example.org 300 A 203.0.113.66"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as forger:
        forger.sendto(bytes(forged.pack()), ("127.0.0.1", resolver.sources[0]))
    assert rdata(await asking) == ["192.0.2.1"]
    assert "wrong_answers" not in upstream_counters(server, resolver)


async def test_truncated_answers_are_fetched_over_tcp(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.truncate = True
    reply = await ask(server, "www.example.org")
    assert (rdata(reply), reply.header.tc) == (["192.0.2.1"], 0)
    assert [transport for transport, _ in resolver.queries] == ["udp", "tcp"]


def with_tc(wire: bytes) -> bytes:
    return wire[:2] + bytes([wire[2] | 2]) + wire[3:]


async def test_without_tcp_the_truncated_answer_is_better_than_none(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    for each in (resolver, second):
        each.behaviour.change = with_tc
        each.stop_tcp()
    reply = await ask(server, "www.example.org")
    assert (rdata(reply), reply.header.tc) == (["192.0.2.2"], 1)
    assert (await ask(server, "www.example.org", transport="tcp")).header.rcode == dnslib.RCODE.SERVFAIL
    assert upstream_counters(server, resolver)["tcp_errors"] == 2


async def test_a_large_answer_reaches_those_who_take_it(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.add("\n".join(f"big.example.org 300 A 192.0.2.{n}" for n in range(1, 101)))
    resolver.behaviour.truncate = True
    assert len((await ask(server, "big.example.org", transport="tcp")).rr) == 100
    small = await ask(server, "big.example.org")
    assert small.header.tc == 1
    assert 0 < len(small.rr) < 100
    medium = await ask(server, "big.example.org", edns=4096)
    assert medium.header.tc == 1
    assert len(small.rr) < len(medium.rr) < 100


async def test_the_second_resolver_after_a_refused_connection(
    tmp_path: Path, resolver: LoopbackResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lopower.dns.resolver.NEXT_UPSTREAM_SECONDS", 4.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    server = make_server(make_config(tmp_path, f"nameserver [127.0.0.1]:{port}\n{resolv_conf(resolver)}"))
    start = time.monotonic()
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert time.monotonic() - start < 3.0
    await server.close()


async def test_the_second_resolver_after_silence(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.silent = True
    start = time.monotonic()
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]
    assert 0.2 < time.monotonic() - start < 3.0
    resolver.add("other.example.org 5 A 192.0.2.9")
    before = len(resolver.queries)
    assert (await ask(server, "other.example.org")).header.rcode == dnslib.RCODE.NXDOMAIN
    assert len(resolver.queries) == before, "the one that answered is asked first the next time"


async def test_a_slow_resolver_may_still_win(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.delay = 0.6
    second.behaviour.silent = True
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]


async def test_a_lost_query_is_sent_again(tmp_path: Path, resolver: LoopbackResolver) -> None:
    server = make_server(make_config(tmp_path, resolv_conf(resolver)))
    resolver.behaviour.drop = 1
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert upstream_counters(server, resolver)["resent"] == 1
    assert len(set(resolver.sources)) == 1
    await server.close()


@pytest.mark.parametrize("rcode", [1, 2, 4, 5, 9])
async def test_the_second_resolver_after_an_error(server: DnsServer, resolver: LoopbackResolver, rcode: int) -> None:
    resolver.behaviour.rcode = rcode
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]


async def test_servfail_within_five_seconds_when_all_are_silent(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.silent = second.behaviour.silent = True
    start = time.monotonic()
    reply = await ask(server, "www.example.org", edns=1232)
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL
    assert 4.0 < time.monotonic() - start < 5.0
    assert b"no resolver answered in time" in reply.ar[0].rdata[0].data


async def test_servfail_says_why_and_is_remembered_for_a_second_only(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.rcode = second.behaviour.rcode = 2
    reply = await ask(server, "www.example.org", edns=1232)
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL
    assert b"response code 2" in reply.ar[0].rdata[0].data
    assert (await ask(server, "www.example.org")).header.rcode == dnslib.RCODE.SERVFAIL
    assert len(resolver.queries) == 1
    resolver.behaviour.rcode = None
    await asyncio.sleep(1.0)
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]


async def test_no_resolver_at_all(tmp_path: Path) -> None:
    server = make_server(make_config(tmp_path))
    reply = await ask(server, "www.example.org", edns=1232)
    assert reply.header.rcode == dnslib.RCODE.SERVFAIL
    assert b"no resolver is configured" in reply.ar[0].rdata[0].data
    await server.close()


async def test_servers_without_edns(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.no_edns = True
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    assert [bool(query.ar) for _, query in resolver.queries] == [True, False]


@pytest.mark.parametrize("garbage", [b"", b"x", b"\xff" * 600, bytes(12)])
async def test_garbage_is_passed_over(
    server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver, garbage: bytes
) -> None:
    resolver.behaviour.garbage = garbage
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]


async def test_silence_over_tcp(server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver) -> None:
    resolver.behaviour.truncate = resolver.behaviour.silent_tcp = True
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]


SIGNED = """\
signed.example.org 300 A 192.0.2.1
signed.example.org 300 RRSIG A 13 2 300 20300101000000 20200101000000 12345 example.org. c2lnbmF0dXJl
"""


async def test_dnssec_goes_through(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.add(SIGNED)
    resolver.behaviour.change = lambda wire: wire[:3] + bytes([wire[3] | 0x20]) + wire[4:]
    reply = await ask(server, "signed.example.org", edns=1232, dnssec=True)
    assert [record.rtype for record in reply.rr] == [dnslib.QTYPE.A, dnslib.QTYPE.RRSIG]
    assert reply.ar[0].edns_do
    assert reply.header.ad == 1
    plain = await ask(server, "signed.example.org")
    assert [record.rtype for record in plain.rr] == [dnslib.QTYPE.A]
    assert plain.header.ad == 0
    assert len(resolver.queries) == 2


async def test_a_suffix_goes_to_its_own_resolver(tmp_path: Path, resolver: LoopbackResolver) -> None:
    async with LoopbackResolver("::1") as office:
        office.add("www.corp.example 60 A 198.51.100.1")
        server = make_server(
            make_config(tmp_path, resolv_conf(resolver), routes={"corp.example": (office.address,)})
        )  # fmt: skip
        assert rdata(await ask(server, "www.corp.example")) == ["198.51.100.1"]
        assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
        assert (len(office.queries), len(resolver.queries)) == (1, 1)
        await server.close()


async def test_we_never_ask_ourselves(tmp_path: Path, resolver: LoopbackResolver) -> None:
    ours = frozenset({resolver.address.address})
    routes = {"self.example": (ServerAddress(resolver.address.address, resolver.port),)}
    server = make_server(make_config(tmp_path, resolv_conf(resolver), own_addresses=ours, routes=routes))
    for name in ("www.example.org", "a.self.example"):
        assert (await ask(server, name)).header.rcode == dnslib.RCODE.SERVFAIL
    assert resolver.queries == []
    assert server.status()["own_addresses_skipped"] == 1
    await server.close()


async def test_another_resolv_conf_and_the_old_answers_are_gone(
    tmp_path: Path, server: DnsServer, second: LoopbackResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lopower.dns.system_resolvers.CHECK_SECONDS", 0.0)
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
    (tmp_path / "resolv.conf").write_text(resolv_conf(second))
    await ask(server, "any.example.org")  # a question for others is what makes us look
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]
    assert server.status()["system_resolvers"] == [str(second.address)]


async def test_bare_names_are_searched_for(tmp_path: Path, resolver: LoopbackResolver) -> None:
    resolver.add("wiki.two.example 60 A 198.51.100.7")
    resolver.add("wiki.two.example 60 AAAA 2001:db8::7")
    resolver.add("printer 60 A 198.51.100.8")
    conf = resolv_conf(resolver) + "search one.example two.example\n"
    server = make_server(make_config(tmp_path, conf))
    reply = await ask(server, "Wiki")
    assert [(str(record.rname).lower(), record.rtype) for record in reply.rr] == [
        ("wiki.", dnslib.QTYPE.CNAME),
        ("wiki.two.example.", dnslib.QTYPE.A),
    ]
    assert rdata(await ask(server, "wiki", "AAAA"))[-1] == "2001:db8::7"
    assert rdata(await ask(server, "printer")) == ["198.51.100.8"]
    assert (await ask(server, "nobody")).header.rcode == dnslib.RCODE.NXDOMAIN
    assert rdata(await ask(server, "kitchen")) == ["10.90.0.2"], "devices first"
    before = len(resolver.queries)
    assert rdata(await ask(server, "wiki"))[-1] == "198.51.100.7"
    assert len(resolver.queries) == before
    await ask(server, "org", "NS")
    assert str(resolver.queries[-1][1].q.qname) == "org.", "other types of a single label are a zone's business"
    await server.close()


async def test_a_setting_beats_the_files_search_domains(tmp_path: Path, resolver: LoopbackResolver) -> None:
    resolver.add("wiki.two.example 60 A 198.51.100.7")
    conf = resolv_conf(resolver) + "search one.example\n"
    server = make_server(make_config(tmp_path, conf, search_domains=("two.example",)))
    assert rdata(await ask(server, "wiki"))[-1] == "198.51.100.7"
    await server.close()


async def test_limits_in_all_and_per_client(tmp_path: Path, resolver: LoopbackResolver) -> None:
    resolver.behaviour.delay = 0.3
    server = make_server(make_config(tmp_path, resolv_conf(resolver), max_in_flight=8, max_in_flight_per_client=3))
    resolver.add("\n".join(f"n{number}.example.org 5 A 192.0.2.1" for number in range(100)))

    async def flood(client: str, first: int) -> list[int]:
        names = [f"n{first + number}.example.org" for number in range(10)]
        return [reply.header.rcode for reply in await asyncio.gather(*(ask(server, n, client=client) for n in names))]

    flooded = await asyncio.gather(*(flood(f"device {number}", 10 * number) for number in range(4)))
    assert [codes.count(0) for codes in flooded] == [3, 3, 2, 0]
    counters = server.status()["counters"]
    assert counters["too_many_of_client"] == 14
    assert counters["too_many"] == 18
    assert server.status()["in_flight"] == 0
    assert await flood("device 0", 50) == [0, 0, 0] + [2] * 7
    await server.close()


async def test_a_slow_resolver_delays_no_cached_and_no_local_name(
    server: DnsServer, resolver: LoopbackResolver
) -> None:
    await ask(server, "www.example.org")
    resolver.behaviour.delay = 1.0
    slow = asyncio.create_task(ask(server, "slow.example.org"))
    await asyncio.sleep(0.05)
    start = time.monotonic()
    for _ in range(100):
        assert rdata(await ask(server, "www.example.org")) == ["192.0.2.1"]
        assert rdata(await ask(server, "kitchen")) == ["10.90.0.2"]
    assert time.monotonic() - start < 0.8
    assert not slow.done()
    await slow


async def test_a_thousand_questions_leave_nothing_behind(
    tmp_path: Path, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    process = psutil.Process()
    gc.collect()  # earlier tests' garbage closes its descriptors now, not while these are counted
    tasks, descriptors = len(asyncio.all_tasks()), process.num_fds()
    server = make_server(make_config(tmp_path, resolv_conf(resolver, second)))
    resolver.behaviour.wrong_ids = 1
    for round_ in range(20):
        resolver.behaviour.truncate = round_ % 3 == 0
        asking = [asyncio.create_task(ask(server, f"n{round_}-{number}.example.org")) for number in range(50)]
        await asyncio.sleep(0)
        for given_up in asking[::5]:
            given_up.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    status = server.status()
    assert status["in_flight"] == status["pending"] == 0
    assert status["cache"]["entries"] == 1000
    await server.close()
    await asyncio.sleep(0.05)
    resolver.behaviour.wrong_ids = 0
    gc.collect()
    assert len(asyncio.all_tasks()) == tasks
    assert process.num_fds() <= descriptors


async def test_reload_lets_what_is_under_way_end(
    tmp_path: Path, server: DnsServer, resolver: LoopbackResolver, second: LoopbackResolver
) -> None:
    resolver.behaviour.delay = 0.2
    asking = asyncio.create_task(ask(server, "www.example.org"))
    await asyncio.sleep(0.05)
    server.reload(make_config(tmp_path, resolv_conf(second)))
    assert rdata(await ask(server, "www.example.org")) == ["192.0.2.2"]
    assert rdata(await asking) == ["192.0.2.1"]
    server.reload()
    assert len(server.status()["upstreams"]) == 0


async def test_close_ends_everything_with_servfail(server: DnsServer, resolver: LoopbackResolver) -> None:
    resolver.behaviour.silent = True
    asking = asyncio.create_task(ask(server, "www.example.org"))
    await asyncio.sleep(0.05)
    server.reload()
    other = asyncio.create_task(ask(server, "www.example.org"))
    await asyncio.sleep(0.05)
    await server.close()
    assert (await asking).header.rcode == dnslib.RCODE.SERVFAIL
    assert (await other).header.rcode == dnslib.RCODE.SERVFAIL
    await asyncio.sleep(0.05)
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not {name for name in names if name.startswith("dns ")}
