"""The gateway's and the devices' names, forward and reverse, and names that must not leave."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path

import dnslib
import pytest

from lopower.dns.local_names import NEGATIVE_TTL
from lopower.dns.message import QUESTION_NAME
from lopower.dns.server import DnsServer
from tests.support.dns_world import Devices, make_config, make_server


@pytest.fixture
def server(tmp_path: Path) -> DnsServer:
    return make_server(make_config(tmp_path))


def now(server: DnsServer, name: str, qtype: str = "A") -> dnslib.DNSRecord | None:
    answer = server.answer_now(bytes(dnslib.DNSRecord.question(name, qtype).pack()), "udp", "device", 0.0)
    assert answer != b""
    return dnslib.DNSRecord.parse(answer) if answer else None


def told(server: DnsServer, name: str, qtype: str) -> tuple[str, list[str]]:
    reply = now(server, name, qtype)
    assert reply is not None
    if not reply.rr:
        assert reply.auth[0].rtype == dnslib.QTYPE.SOA
        assert reply.auth[0].ttl == NEGATIVE_TTL
    return dnslib.RCODE[reply.header.rcode], [str(record.rdata) for record in reply.rr]


@pytest.mark.parametrize(
    ("name", "qtype", "rcode", "data"),
    [
        ("gateway", "A", "NOERROR", ["10.90.0.1"]),
        ("gateway", "AAAA", "NOERROR", ["fd7a:115c:a1e0:9909::1"]),
        ("GateWay", "A", "NOERROR", ["10.90.0.1"]),
        ("kitchen", "A", "NOERROR", ["10.90.0.2"]),
        ("kitchen", "AAAA", "NOERROR", ["fd7a:115c:a1e0:9909::2"]),
        ("kitchen", "MX", "NOERROR", []),
        ("kitchen", "HTTPS", "NOERROR", []),
        ("kitchen", "SOA", "NOERROR", ["gateway. nobody.invalid. 1 3600 600 86400 5"]),
        ("1.0.90.10.in-addr.arpa", "PTR", "NOERROR", ["gateway."]),
        ("2.0.90.10.in-addr.arpa", "PTR", "NOERROR", ["kitchen."]),
        ("2.0.90.10.IN-ADDR.ARPA", "PTR", "NOERROR", ["kitchen."]),
        ("2.0.90.10.in-addr.arpa", "TXT", "NOERROR", []),
        ("3.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("0.90.10.in-addr.arpa", "PTR", "NOERROR", []),
        ("0.90.10.in-addr.arpa", "SOA", "NOERROR", ["gateway. nobody.invalid. 1 3600 600 86400 5"]),
        ("lb._dns-sd._udp.0.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("03.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("256.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        (f"2.{'0.' * 15}9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR", "NOERROR", ["kitchen."]),
        (f"1.{'0.' * 15}9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR", "NOERROR", ["gateway."]),
        (f"9.{'0.' * 15}9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR", "NXDOMAIN", []),
        ("0.0.9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR", "NOERROR", []),
        ("zz.9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", "PTR", "NXDOMAIN", []),
        ("localhost", "A", "NOERROR", ["127.0.0.1"]),
        ("a.localhost", "AAAA", "NOERROR", ["::1"]),
        ("printer.invalid", "A", "NXDOMAIN", []),
        ("abc.onion", "A", "NXDOMAIN", []),
        ("_dns.resolver.arpa", "SVCB", "NOERROR", []),
    ],
)
def test_names(server: DnsServer, name: str, qtype: str, rcode: str, data: list[str]) -> None:
    if qtype == "SVCB":
        qtype = "HTTPS"
    assert told(server, name, qtype) == (rcode, data)


@pytest.mark.parametrize(
    "name",
    [
        "nobody", "kitchen.example", "90.10.in-addr.arpa", "10.in-addr.arpa", "in-addr.arpa", "arpa", "notlocalhost",
        "1.1.90.10.in-addr.arpa", "1.0.0.127.in-addr.arpa", "8.9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.e.ip6.arpa",
    ],
)  # fmt: skip
def test_others_names_are_not_ours(server: DnsServer, name: str) -> None:
    assert now(server, name, "PTR") is None


def test_answers_are_authoritative(server: DnsServer) -> None:
    reply = now(server, "kitchen")
    assert reply is not None
    assert reply.header.aa == 1


def test_a_new_device_is_known_at_once(tmp_path: Path) -> None:
    devices = Devices()
    server = make_server(make_config(tmp_path), devices)
    assert now(server, "garage") is None
    devices.by_name |= Devices(garage=("10.90.0.7",)).by_name
    assert told(server, "garage", "A") == ("NOERROR", ["10.90.0.7"])
    assert told(server, "garage", "AAAA") == ("NOERROR", [])
    assert told(server, "7.0.90.10.in-addr.arpa", "PTR") == ("NOERROR", ["garage."])


def test_a_range_that_does_not_end_at_an_octet(tmp_path: Path) -> None:
    server = make_server(make_config(tmp_path, ranges=(IPv4Network("10.90.0.0/22"),)), Devices(attic=("10.90.3.9",)))
    assert told(server, "9.3.90.10.in-addr.arpa", "PTR") == ("NOERROR", ["attic."])
    assert told(server, "8.3.90.10.in-addr.arpa", "PTR") == ("NXDOMAIN", [])
    assert told(server, "3.90.10.in-addr.arpa", "PTR") == ("NOERROR", [])
    assert now(server, "1.4.90.10.in-addr.arpa", "PTR") is None
    assert now(server, "90.10.in-addr.arpa", "PTR") is None


def test_labels_that_are_not_text_are_nobodys(server: DnsServer) -> None:
    wire = bytes(dnslib.DNSRecord.question("kitchen").pack()).replace(b"kitchen", b"kitch\xff\0")
    assert server.answer_now(wire, "udp", "device", 0.0) is None


def test_records_point_to_the_question(server: DnsServer) -> None:
    answer = server.answer_now(bytes(dnslib.DNSRecord.question("kitchen").pack()), "udp", "device", 0.0)
    assert answer is not None
    assert answer.count(b"kitchen") == 1
    assert QUESTION_NAME in answer
