"""Devices' queries and resolvers' responses: what is accepted, and what each fault gets."""

from __future__ import annotations

import struct
from collections.abc import Callable

import dnslib
import pytest

from lopower.dns import message, names
from lopower.dns.message import MessageError, QueryError, Response, parse_query, write_query


def query(name: str = "www.example.org", qtype: str = "A", **header: int) -> bytes:
    record = dnslib.DNSRecord.question(name, qtype)
    for field, value in header.items():
        setattr(record.header, field, value)
    return bytes(record.pack())


def with_opt(wire: bytes, opt: bytes, count: int = 1) -> bytes:
    return wire[:10] + struct.pack("!H", count) + wire[12:] + opt


OPT = b"\0" + struct.pack("!HHBBHH", 41, 1400, 0, 0, 0x8000, 0)


def rejected(wire: bytes) -> tuple[str, dnslib.DNSRecord | None]:
    with pytest.raises(QueryError) as caught:
        parse_query(wire)
    response = caught.value.response
    return caught.value.reason, dnslib.DNSRecord.parse(response) if response else None


def test_a_query_without_edns() -> None:
    parsed = parse_query(query("WWW.Example.org", "AAAA"))
    assert parsed.name == b"\x03WWW\x07Example\x03org\0"
    assert parsed.question == message.Question(names.from_text("www.example.org"), 28, False, False, True)
    assert parsed.udp_bytes == 0


def test_a_query_with_edns_and_dnssec_bits() -> None:
    parsed = parse_query(with_opt(query(cd=1), OPT))
    assert parsed.udp_bytes == 1400
    assert parsed.question.dnssec_ok
    assert parsed.question.checking_disabled


def test_edns_sizes_below_512_mean_512() -> None:
    opt = b"\0" + struct.pack("!HHIH", 41, 100, 0, 0)
    assert parse_query(with_opt(query(), opt)).udp_bytes == 512


def test_views_and_bytearrays_are_read_as_well() -> None:
    assert parse_query(memoryview(bytearray(query()))).question == parse_query(query()).question


def test_edns_options_are_passed_over() -> None:
    cookie = struct.pack("!HH", 10, 8) + b"cookie!!"
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(cookie)) + cookie
    assert parse_query(with_opt(query(), opt)).udp_bytes == 1232


@pytest.mark.parametrize("wire", [b"", b"\0" * 11])
def test_too_short_for_a_header_is_dropped(wire: bytes) -> None:
    assert rejected(wire) == ("short", None)


def test_responses_are_dropped() -> None:
    assert rejected(query(qr=1)) == ("response", None)


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    reason, response = rejected(query(opcode=opcode))
    assert reason == "opcode"
    assert response is not None
    assert (response.header.rcode, response.header.opcode) == (dnslib.RCODE.NOTIMP, opcode)


NAME_END = 12 + len(names.from_text("www.example.org"))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("no question", lambda w: w[:4] + b"\0\0" + w[6:12]),
        ("two questions", lambda w: w[:4] + b"\0\2" + w[6:] + w[12:]),
        ("answers", lambda w: w[:6] + b"\0\1" + w[8:]),
        ("authority", lambda w: w[:8] + b"\0\1" + w[10:]),
        ("a cut name", lambda w: w[: NAME_END - 3]),
        ("no type", lambda w: w[:NAME_END]),
        ("trailing bytes", lambda w: w + b"\0"),
        ("a pointer to itself", lambda w: w[:12] + b"\xc0\x0c" + w[NAME_END:]),
        ("a pointer into the header", lambda w: w[:12] + b"\x01a\xc0\x00" + w[NAME_END:]),
        ("a label of an unknown kind", lambda w: w[:12] + b"\x41" + b"a" * 65 + b"\0" + w[NAME_END:]),
        ("a name of 256 bytes", lambda w: w[:12] + (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + w[NAME_END - 1 :]),
        ("OPT twice", lambda w: with_opt(w, OPT + OPT, 2)),
        ("OPT for a name", lambda w: with_opt(w, b"\x01a" + OPT)),
        ("a missing additional record", lambda w: with_opt(w, b"")),
        ("OPT data cut short", lambda w: with_opt(w, OPT[:-2] + b"\0\x08abc")),
        ("many additional records", lambda w: with_opt(w, OPT * 5, 5)),
        ("4 KB", lambda w: with_opt(w, b"\0" + struct.pack("!HHIH", 41, 1232, 0, 4096) + bytes(4096))),
        ("type 0", lambda w: w[:NAME_END] + b"\0\0" + w[NAME_END + 2 :]),
        ("OPT as type", lambda w: w[:NAME_END] + b"\0\x29" + w[NAME_END + 2 :]),
    ],
)  # fmt: skip
def test_malformed_queries(what: str, change: Callable[[bytes], bytes]) -> None:
    reason, response = rejected(change(query()))
    assert reason == "malformed", what
    assert response is not None
    assert response.header.rcode == dnslib.RCODE.FORMERR
    assert response.header.qr == 1


def test_the_longest_name_is_taken() -> None:
    longest = query()[:12] + b"\x3f".ljust(64, b"a") * 3 + b"\x3d" + b"a" * 61 + b"\0" + b"\0\1\0\1"
    assert len(parse_query(longest).name) == 255


def test_unknown_edns_versions() -> None:
    reason, response = rejected(with_opt(query(), b"\0" + struct.pack("!HHBBHH", 41, 1232, 0, 1, 0, 0)))
    assert reason == "edns_version"
    assert response is not None
    assert response.ar[0].edns_rcode << 4 | response.header.rcode == 16
    assert response.ar[0].edns_ver == 0


@pytest.mark.parametrize("qtype", [251, 252])
def test_transfers_are_refused(qtype: int) -> None:
    wire = query()
    reason, response = rejected(wire[:NAME_END] + struct.pack("!HH", qtype, 1))
    assert reason == "transfer"
    assert response is not None
    assert response.header.rcode == dnslib.RCODE.REFUSED


def test_ixfr_with_its_soa_is_refused() -> None:
    soa = b"\xc0\x0c" + struct.pack("!HHIH", 6, 1, 0, 22) + b"\0\0" + bytes(20)
    wire = query()
    reason, _ = rejected(wire[:8] + b"\0\1" + wire[10:NAME_END] + struct.pack("!HH", 251, 1) + soa)
    assert reason == "transfer"


@pytest.mark.parametrize("qtype", [128, 249, 250, 253, 254])
def test_meta_types_are_not_implemented(qtype: int) -> None:
    reason, response = rejected(query()[:NAME_END] + struct.pack("!HH", qtype, 1))
    assert reason == "type"
    assert response is not None
    assert response.header.rcode == dnslib.RCODE.NOTIMP


def test_any_is_answered_minimally() -> None:
    reason, response = rejected(query(qtype="ANY"))
    assert reason == "any"
    assert response is not None
    assert [record.rtype for record in response.rr] == [dnslib.QTYPE.HINFO]


@pytest.mark.parametrize("qclass", [3, 4, 254, 255])
def test_other_classes_are_refused(qclass: int) -> None:
    reason, response = rejected(query()[:-2] + struct.pack("!H", qclass))
    assert reason == "class"
    assert response is not None
    assert (response.header.rcode, response.q.qclass) == (dnslib.RCODE.REFUSED, qclass)


def test_our_queries_are_what_others_can_read() -> None:
    question = message.Question(names.from_text("a.example"), 1, True, True, True)
    parsed = dnslib.DNSRecord.parse(write_query(7, question))
    assert (parsed.header.id, parsed.header.rd, parsed.header.cd, parsed.header.ad) == (7, 1, 1, 1)
    assert str(parsed.q.qname) == "a.example."
    assert parsed.ar[0].edns_len == 1232
    assert parsed.ar[0].edns_do
    assert not dnslib.DNSRecord.parse(write_query(7, question, edns=False)).ar


def response(zone: str = "www.example.org 300 A 192.0.2.1", name: str = "www.example.org", qtype: str = "A") -> bytes:
    reply = dnslib.DNSRecord.question(name, qtype).reply()
    reply.add_answer(*dnslib.RR.fromZone(zone))
    return bytes(reply.pack())


def test_a_response_is_walked_through() -> None:
    parsed = Response(response("www.example.org 300 CNAME a.example.org\na.example.org 60 A 192.0.2.1"))
    assert [(record.type, record.ttl) for record in parsed.answers] == [(5, 300), (1, 60)]
    assert parsed.wire[parsed.answers[1].data : parsed.answers[1].end] == b"\xc0\x00\x02\x01"


def test_a_ttl_with_the_highest_bit_is_zero() -> None:
    wire = bytearray(response())
    record = Response(wire).answers[0]
    struct.pack_into("!I", wire, record.ttl_offset, 0xFFFFFFFF)
    assert Response(wire).answers[0].ttl == 0


def test_what_follows_opt_does_not_leave() -> None:
    reply = dnslib.DNSRecord.parse(response())
    reply.add_ar(dnslib.EDNS0(udp_len=1232), *dnslib.RR.fromZone("x.example 5 A 192.0.2.9"))
    parsed = Response(bytes(reply.pack()))
    assert parsed.opt is not None
    assert parsed.additional == []


def test_the_upper_bits_of_the_response_code() -> None:
    reply = dnslib.DNSRecord.parse(response())
    reply.add_ar(dnslib.EDNS0(ext_rcode=1))
    assert Response(bytes(reply.pack())).rcode == 16


RECORD = 12 + len(names.from_text("www.example.org")) + 4


@pytest.mark.parametrize(
    ("what", "record"),
    [
        ("pointing to itself", bytes([0xC0, RECORD])),
        ("pointing forwards", b"\xc0\xff"),
        ("pointing into the header", b"\xc0\x00"),
        ("in a loop of two", b"\x01a" + bytes([0xC0, RECORD])),
        ("cut in mid-pointer", b"\xc0"),
        ("a label of an unknown kind", b"\x80a"),
    ],
)
def test_hostile_names_in_responses(what: str, record: bytes) -> None:
    wire = response()[:RECORD] + record + struct.pack("!HHIH", 1, 1, 5, 4) + bytes(4)
    with pytest.raises(MessageError):
        Response(wire if what != "cut in mid-pointer" else wire[: RECORD + 1])


def test_a_chain_of_pointers_is_bounded() -> None:
    data = b"\xc0\x0c"
    start = RECORD + 2 + 10
    for index in range(40):
        data += bytes([0xC0, start + 2 * index])
    wire = response()[:6] + b"\0\2\0\0\0\0" + response()[12:RECORD]
    wire += b"\xc0\x0c" + struct.pack("!HHIH", 99, 1, 5, len(data)) + data
    wire += bytes([0xC0, start + len(data) - 2]) + struct.pack("!HHIH", 1, 1, 5, 4) + bytes(4)
    with pytest.raises(MessageError, match="pointer"):
        Response(wire)


def test_a_loop_in_a_records_data() -> None:
    data = RECORD + 12
    wire = response()[:RECORD] + b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 5, 2) + bytes([0xC0, data])
    with pytest.raises(MessageError):
        Response(wire)


@pytest.mark.parametrize("target", [RECORD + 2 + 4, RECORD + 2 + 6, 14])
def test_pointers_into_what_is_patched_later(target: int) -> None:
    """Into a TTL, whose bytes change with age; into the middle of the question's label."""
    wire = response()[:6] + b"\0\2\0\0\0\0" + response()[12:RECORD]
    wire = wire[:14] + b"\0" + wire[15:] if target == 14 else wire
    wire += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 0x00010001, 4) + bytes(4)
    wire += bytes([0xC0, target]) + struct.pack("!HHIH", 1, 1, 5, 4) + bytes(4)
    with pytest.raises(MessageError, match="no name"):
        Response(wire)


def test_a_name_grown_beyond_255_bytes_by_compression() -> None:
    long_name = ".".join(["a" * 60] * 4)
    wire = bytearray(response("x.example 5 A 192.0.2.1", long_name))
    assert Response(wire)
    record = 12 + len(names.from_text(long_name)) + 4
    wire[record:] = b"\x3f" + b"b" * 63 + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 5, 4) + bytes(4)
    with pytest.raises(MessageError, match="255"):
        Response(wire)


@pytest.mark.parametrize(
    ("what", "wire"),
    [
        ("a query", query()),
        ("cut in a record", response()[:-1]),
        ("no question", response()[:4] + b"\0\0" + response()[6:]),
        ("a name beyond its data", response()[:RECORD] + b"\0" + struct.pack("!HHIH", 5, 1, 5, 1) + b"\x01a\0"),
        ("another opcode", response()[:2] + b"\xa8" + response()[3:]),
        ("empty", b""),
    ],
    ids=["query", "cut", "no-question", "name-beyond", "opcode", "empty"],  # the messages' ids are random
)
def test_malformed_responses(what: str, wire: bytes) -> None:
    with pytest.raises(MessageError):
        Response(wire)


def test_the_number_of_records_is_bounded() -> None:
    record = b"\0" + struct.pack("!HHIH", 99, 1, 5, 0)
    head = response()[:6] + struct.pack("!HHH", 2000, 0, 0) + response()[12:RECORD]
    with pytest.raises(MessageError, match="too many"):
        Response(head + record * 2000)


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q._replace(name=names.from_text("other.example")),
        lambda q: q._replace(qtype=28),
    ],
)
def test_answers_to_other_questions_are_known_as_such(change: Callable[[message.Question], message.Question]) -> None:
    parsed = Response(b"\0\x07" + response()[2:])
    question = message.Question(names.from_text("www.example.org"), 1)
    assert parsed.answers_to(7, question)
    assert not parsed.answers_to(8, question)
    assert not parsed.answers_to(7, change(question))


def test_names_in_text() -> None:
    assert names.from_text("Kitchen.") == b"\x07kitchen\0"
    assert names.from_text(".") == b"\0"
    assert names.to_text(b"\x03a.b\x02\xff \0") == "a\\046b.\\255\\032"
    for bad in ("", "a..b", "a" * 64, "küche", ".".join(["a" * 63] * 4)):
        with pytest.raises(names.DomainNameError):
            names.from_text(bad)
