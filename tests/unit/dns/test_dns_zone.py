"""The zone that the tailnet asks for: what is in it, what is not, and what is none of its business."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.dns import names
from lopower.dns.config import IPAddress
from lopower.dns.message import CLASSIC_UDP_BYTES
from lopower.dns.zone import NEGATIVE_TTL, TTL, ZoneConfig, ZoneServer

VIA = "fd7a:115c:a1e0:b1a:0:7:a5a:2"
LONG = ".".join(["a" * 63, "b" * 63, "c" * 61])


class Devices:
    """`kitchen` is reached, `hall` is not."""

    def addresses(self, label: str) -> tuple[IPAddress, ...] | None:
        return {
            "kitchen": (ip_address("10.90.0.2"), ip_address("fd7a:115c:a1e0:9909::2")),
            "shed": (ip_address(VIA),),
            "hall": (),
        }.get(label)

    def name_of(self, address: IPAddress) -> str | None:
        return {"10.90.0.2": "kitchen", "fd7a:115c:a1e0:9909::2": "kitchen", VIA: "shed"}.get(str(address))


def server(zone: str | None = "iot.home.arpa", networks: tuple[str, ...] = ("10.90.0.0/24",)) -> ZoneServer:
    config = None
    if zone is not None:
        config = ZoneConfig(
            name=names.from_text(zone),
            server=(ip_address("100.64.0.3"), ip_address("fd7a:115c:a1e0::3")),
            networks=tuple(map(ip_network, networks)),
        )
    return ZoneServer(lambda: config, Devices(), lambda: 2**33 + 7)


def ask(asked: ZoneServer, name: str, qtype: str = "A", **edns: int) -> dnslib.DNSRecord:
    question = dnslib.DNSRecord.question(name, qtype)
    if edns:
        question.add_ar(dnslib.EDNS0(**edns))
    answer = asked.answer(bytes(question.pack()))
    assert len(answer) <= CLASSIC_UDP_BYTES
    reply = dnslib.DNSRecord.parse(answer)
    assert reply.header.id == question.header.id
    assert (reply.header.qr, reply.header.ra) == (1, 0)
    return reply


@pytest.mark.parametrize(
    ("name", "qtype", "rcode", "data"),
    [
        ("kitchen.iot.home.arpa", "A", "NOERROR", ["10.90.0.2"]),
        ("kitchen.iot.home.arpa", "AAAA", "NOERROR", ["fd7a:115c:a1e0:9909::2"]),
        ("KITCHEN.Iot.home.ARPA", "A", "NOERROR", ["10.90.0.2"]),
        ("kitchen.iot.home.arpa", "MX", "NOERROR", []),
        ("kitchen.iot.home.arpa", "HTTPS", "NOERROR", []),
        ("shed.iot.home.arpa", "AAAA", "NOERROR", [VIA]),
        ("shed.iot.home.arpa", "A", "NOERROR", []),
        ("hall.iot.home.arpa", "A", "NOERROR", []),
        ("hall.iot.home.arpa", "AAAA", "NOERROR", []),
        ("nobody.iot.home.arpa", "A", "NXDOMAIN", []),
        ("_http._tcp.kitchen.iot.home.arpa", "SRV", "NXDOMAIN", []),
        ("kitchen.kitchen.iot.home.arpa", "A", "NXDOMAIN", []),
        (f"{LONG[:-8]}.iot.home.arpa", "A", "NXDOMAIN", []),
        ("iot.home.arpa", "SOA", "NOERROR", ["iot.home.arpa. nobody.invalid. 7 3600 600 86400 5"]),
        ("iot.home.arpa", "NS", "NOERROR", ["iot.home.arpa."]),
        ("iot.home.arpa", "A", "NOERROR", ["100.64.0.3"]),
        ("iot.home.arpa", "AAAA", "NOERROR", ["fd7a:115c:a1e0::3"]),
        ("iot.home.arpa", "TXT", "NOERROR", []),
        ("2.0.90.10.in-addr.arpa", "PTR", "NOERROR", ["kitchen.iot.home.arpa."]),
        ("2.0.90.10.in-addr.arpa", "A", "NOERROR", []),
        ("3.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("x.2.0.90.10.in-addr.arpa", "PTR", "NXDOMAIN", []),
        ("0.90.10.in-addr.arpa", "SOA", "NOERROR", ["iot.home.arpa. nobody.invalid. 7 3600 600 86400 5"]),
        ("0.90.10.in-addr.arpa", "NS", "NOERROR", ["iot.home.arpa."]),
        ("0.90.10.in-addr.arpa", "PTR", "NOERROR", []),
    ],
)
def test_names(name: str, qtype: str, rcode: str, data: list[str]) -> None:
    for edns in ({}, {"udp_len": 1232}):
        reply = ask(server(), name, qtype, **edns)
        assert dnslib.RCODE[reply.header.rcode] == rcode
        assert [str(record.rdata) for record in reply.rr] == data
        assert reply.header.aa == 1
        assert str(reply.q.qname).rstrip(".") == name
        assert all(record.ttl in (TTL, NEGATIVE_TTL) for record in reply.rr)
        if not data:
            assert [(record.rtype, record.ttl) for record in reply.auth] == [(dnslib.QTYPE.SOA, NEGATIVE_TTL)]
            assert str(reply.auth[0].rdata.mname) == "iot.home.arpa."
        assert bool([record for record in reply.ar if record.rtype == dnslib.QTYPE.OPT]) is bool(edns)


def test_the_servers_addresses_go_with_its_name() -> None:
    reply = ask(server(), "iot.home.arpa", "NS", udp_len=1232)
    glue = [str(record.rdata) for record in reply.ar if record.rtype != dnslib.QTYPE.OPT]
    assert glue == ["100.64.0.3", "fd7a:115c:a1e0::3"]


@pytest.mark.parametrize(
    "name",
    ["example.org", "home.arpa", "xiot.home.arpa", "kitchen", "2.1.90.10.in-addr.arpa", "90.10.in-addr.arpa", "arpa"],
)
def test_outside_the_zone_is_refused(name: str) -> None:
    reply = ask(server(), name, "PTR" if name.endswith("arpa") else "A", udp_len=4096)
    assert dnslib.RCODE[reply.header.rcode] == "REFUSED"
    assert not reply.rr
    assert not reply.auth


def test_transfers_are_refused_and_without_a_zone_everything() -> None:
    assert dnslib.RCODE[ask(server(), "iot.home.arpa", "AXFR").header.rcode] == "REFUSED"
    assert dnslib.RCODE[ask(server(None), "kitchen.iot.home.arpa").header.rcode] == "REFUSED"


@pytest.mark.parametrize("length", [120, 117, 32])
def test_reverse_names_of_a_via_range(length: int) -> None:
    network = IPv6Network((int(ip_address(VIA)), length), strict=False)
    asked = server(networks=(str(network),))
    reply = ask(asked, ip_address(VIA).reverse_pointer, "PTR")
    assert [str(record.rdata) for record in reply.rr] == ["shed.iot.home.arpa."]
    other = ip_address(int(ip_address(VIA)) + 1).reverse_pointer
    reply = ask(asked, other, "PTR")
    assert dnslib.RCODE[reply.header.rcode] == "NXDOMAIN"
    assert str(reply.auth[0].rdata.mname) == "iot.home.arpa."


def test_the_longest_names_fit() -> None:
    zone = LONG[-189:].strip(".")
    asked = server(zone)
    name = f"{'x' * (253 - len(zone) - 1)}.{zone}" if len(zone) < 252 else zone
    for qtype in ("A", "NS", "SOA"):
        ask(asked, name, qtype, udp_len=512)
        ask(asked, zone, qtype, udp_len=512)
    ask(asked, "2.0.90.10.in-addr.arpa", "PTR", udp_len=512)


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    answer = server().answer(data)
    assert len(answer) <= CLASSIC_UDP_BYTES
    if answer:
        assert answer[:2] == data[:2]


@given(
    st.lists(st.text("abcdefghijklmnopqrstuvwxyz-.", min_size=1, max_size=63), min_size=1, max_size=6),
    st.sampled_from(["A", "AAAA", "PTR", "SOA", "NS", "TXT"]),
    st.sampled_from(["iot.home.arpa", "in-addr.arpa", "90.10.in-addr.arpa", "ip6.arpa", "org"]),
)
def test_any_name(labels: list[str], qtype: str, suffix: str) -> None:
    try:
        wire = names.from_text(".".join([*labels, suffix]))
    except names.DomainNameError:
        return
    question = dnslib.DNSRecord(q=dnslib.DNSQuestion(names.to_text(wire), getattr(dnslib.QTYPE, qtype)))
    reply = dnslib.DNSRecord.parse(server().answer(bytes(question.pack())))
    inside = f".{names.to_text(wire)}".endswith(".iot.home.arpa")
    assert (dnslib.RCODE[reply.header.rcode] == "REFUSED") is not (inside or bool(reply.header.aa))


def test_networks_are_of_the_version_asked_for() -> None:
    asked = server(networks=(str(IPv4Network("10.90.0.0/24")), "fd7a:115c:a1e0:9909::/64"))
    reply = ask(asked, ip_address("fd7a:115c:a1e0:9909::2").reverse_pointer, "PTR")
    assert [str(record.rdata) for record in reply.rr] == ["kitchen.iot.home.arpa."]
