"""What is kept, for how long, and how it ages: TTLs, negative answers, bounds, truncation."""

from __future__ import annotations

import struct

import dnslib
import pytest

from lopower.dns import names
from lopower.dns.answer import MAX_NEGATIVE_TTL, MAX_TTL, Answer, failure, prepare
from lopower.dns.cache import ENTRY_OVERHEAD, Cache
from lopower.dns.message import Question, Response, parse_query

SOA = "example.org {ttl} SOA ns.example.org admin.example.org 1 3600 600 86400 {minimum}"


def answer(answers: str = "", authority: str = "", *, rcode: int = 0, qtype: str = "A", tc: int = 0) -> Answer:
    reply = dnslib.DNSRecord.question("www.example.org", qtype).reply()
    reply.header.rcode = rcode
    reply.header.tc = tc
    if answers:
        reply.add_answer(*dnslib.RR.fromZone(answers))
    if authority:
        reply.add_auth(*dnslib.RR.fromZone(authority))
    return prepare(Response(bytes(reply.pack())))


def render(answer: Answer, age: int = 0, limit: int = 512, *, edns: int = 0, dnssec: bool = False) -> dnslib.DNSRecord:
    query = dnslib.DNSRecord.question("wWw.exaMple.org")
    if edns:
        query.add_ar(dnslib.EDNS0(udp_len=edns, flags="do" if dnssec else ""))
    wire = answer.render(parse_query(bytes(query.pack())), age, limit)
    assert len(wire) <= limit
    reply = dnslib.DNSRecord.parse(wire)
    assert (reply.header.id, str(reply.q.qname)) == (query.header.id, "wWw.exaMple.org.")
    return reply


@pytest.mark.parametrize(
    ("what", "made", "lifetime"),
    [
        ("the smallest TTL", answer("www.example.org 300 CNAME a.example.org\na.example.org 60 A 192.0.2.1"), 60),
        ("zero", answer("www.example.org 0 A 192.0.2.1"), 0),
        ("a week", answer("www.example.org 604800 A 192.0.2.1"), MAX_TTL),
        ("NXDOMAIN: SOA's minimum", answer(authority=SOA.format(ttl=900, minimum=60), rcode=3), 60),
        ("NXDOMAIN: SOA's TTL", answer(authority=SOA.format(ttl=50, minimum=60), rcode=3), 50),
        ("NODATA", answer(authority=SOA.format(ttl=900, minimum=70)), 70),
        ("negative, very long", answer(authority=SOA.format(ttl=86400, minimum=86400), rcode=3), MAX_NEGATIVE_TTL),
        ("negative without SOA", answer(rcode=3), 0),
        ("NODATA without SOA", answer(), 0),
        ("an alias of nothing", answer("www.example.org 40 CNAME a.example", SOA.format(ttl=9, minimum=9), rcode=3), 9),
        ("an alias without its end", answer("www.example.org 40 CNAME a.example.org"), 0),
        ("an alias that was asked for", answer("www.example.org 40 CNAME a.example.org", qtype="CNAME"), 40),
        ("a referral", answer(authority="example.org 300 NS ns.example.org"), 0),
        ("truncated", answer("www.example.org 300 A 192.0.2.1", tc=1), 0),
        ("YXDOMAIN", answer(rcode=6), 0),
    ],
)  # fmt: skip
def test_lifetimes(what: str, made: Answer, lifetime: int) -> None:
    assert made.lifetime == lifetime


def test_ttls_count_down_and_stop_at_zero() -> None:
    made = answer("www.example.org 300 A 192.0.2.1\nwww.example.org 20 A 192.0.2.2")
    assert [record.ttl for record in render(made, age=0).rr] == [300, 20]
    assert [record.ttl for record in render(made, age=19).rr] == [281, 1]
    assert [record.ttl for record in render(made, age=25).rr] == [275, 0]


def test_the_soa_of_a_negative_answer_ages_from_its_lifetime() -> None:
    made = answer(authority=SOA.format(ttl=900, minimum=60), rcode=3)
    assert render(made, age=10).auth[0].ttl == 50


def test_flags() -> None:
    reply = render(answer("www.example.org 300 A 192.0.2.1"))
    header = reply.header
    assert (header.qr, header.aa, header.ra, header.rd, header.tc) == (1, 0, 1, 1, 0)


def test_edns_only_for_those_who_speak_it() -> None:
    made = answer("www.example.org 300 A 192.0.2.1")
    assert render(made).ar == []
    opt = render(made, edns=4096, dnssec=True).ar[0]
    assert opt.edns_len == 1232
    assert opt.edns_do


def test_authentic_data_only_for_those_who_asked() -> None:
    reply = dnslib.DNSRecord.question("www.example.org").reply()
    reply.header.ad = 1
    reply.add_answer(*dnslib.RR.fromZone("www.example.org 5 A 192.0.2.1"))
    made = prepare(Response(bytes(reply.pack())))
    assert render(made).header.ad == 0
    assert render(made, edns=1232, dnssec=True).header.ad == 1


def test_truncation_keeps_whole_records() -> None:
    made = answer("\n".join(f"www.example.org 300 A 192.0.2.{n}" for n in range(1, 60)))
    reply = render(made, limit=512)
    assert reply.header.tc == 1
    assert len(reply.rr) == (512 - 12 - 21) // 16
    assert str(reply.rr[0].rdata) == "192.0.2.1"
    assert len(render(made, limit=1232, edns=1232).rr) == 59
    assert len(render(made, limit=512, edns=512).ar) == 1


def test_additional_records_leave_silently() -> None:
    reply = dnslib.DNSRecord.question("www.example.org", "MX").reply()
    reply.add_answer(*dnslib.RR.fromZone("www.example.org 300 MX 1 mx.example.org"))
    reply.add_ar(*dnslib.RR.fromZone("\n".join(f"mx.example.org 300 A 192.0.2.{n}" for n in range(1, 60))))
    rendered = render(prepare(Response(bytes(reply.pack()))))
    assert (rendered.header.tc, len(rendered.rr), rendered.ar) == (0, 1, [])


def test_failures_say_why() -> None:
    made = failure(Question(names.from_text("www.example.org"), 1), 22, "192.0.2.1: Connection refused")
    assert render(made).header.rcode == 2
    reply = render(made, edns=1232)
    option = reply.ar[0].rdata[0]
    assert option.code == 15
    assert struct.unpack("!H", option.data[:2]) == (22,)
    assert option.data[2:] == b"192.0.2.1: Connection refused"


def question(number: int) -> Question:
    return Question(names.from_text(f"n{number}.example"), 1)


def test_the_cache_ends_an_answer_at_its_time() -> None:
    cache = Cache(max_entries=10, max_bytes=10**6)
    made = answer("www.example.org 60 A 192.0.2.1")
    cache.put(question(1), made, 1000.0)
    assert cache.get(question(1), 1000.0) == (made, 0)
    assert cache.get(question(1), 1059.9) == (made, 59)
    assert cache.get(question(1), 1060.0) is None
    assert len(cache) == cache.size == 0


def test_uncacheable_answers_replace_cached_ones() -> None:
    cache = Cache(max_entries=10, max_bytes=10**6)
    cache.put(question(1), answer("www.example.org 60 A 192.0.2.1"), 0.0)
    cache.put(question(1), answer("www.example.org 0 A 192.0.2.1"), 1.0)
    assert len(cache) == cache.size == 0


def test_the_number_of_entries_is_bounded_and_the_oldest_use_leaves() -> None:
    cache = Cache(max_entries=3, max_bytes=10**6)
    made = answer("www.example.org 60 A 192.0.2.1")
    for number in range(3):
        cache.put(question(number), made, 0.0)
    assert cache.get(question(0), 1.0)
    cache.put(question(3), made, 1.0)
    assert [cache.get(question(number), 1.0) is not None for number in range(4)] == [True, False, True, True]
    assert cache.evicted == 1


def test_the_bytes_are_bounded() -> None:
    made = answer("\n".join(f"www.example.org 300 TXT {'x' * 200}" for _ in range(10)), qtype="TXT")
    cache = Cache(max_entries=10**6, max_bytes=50_000)
    for number in range(100):
        cache.put(question(number), made, 0.0)
    assert 30_000 < cache.size <= 50_000
    assert len(cache) < 50_000 / (ENTRY_OVERHEAD + len(made.wire))
    cache.clear()
    assert len(cache) == cache.size == 0


def test_dnssec_bits_are_part_of_the_question() -> None:
    cache = Cache(max_entries=10, max_bytes=10**6)
    cache.put(question(1), answer("www.example.org 60 A 192.0.2.1"), 0.0)
    assert cache.get(question(1)._replace(dnssec_ok=True), 0.0) is None
    assert cache.get(question(1)._replace(checking_disabled=True), 0.0) is None
