"""Whom to ask: suffixes, the tailnet's names, resolv.conf, and never ourselves."""

from __future__ import annotations

import ast
from ipaddress import ip_address
from pathlib import Path

import pytest

import lopower.dns
from lopower.dns import names
from lopower.dns.config import DnsConfig, ServerAddress, parse_route, parse_server
from lopower.dns.resolv_conf import ResolvConf, parse
from lopower.dns.routing import SYSTEM, TAILNET, Route, Routing
from lopower.dns.system_resolvers import CHECK_SECONDS, SystemResolvers

OFFICE = ServerAddress(ip_address("192.0.2.1"))
LAB = ServerAddress(ip_address("2001:db8::1"), 5353)


@pytest.fixture
def routing() -> Routing:
    return Routing(
        DnsConfig(
            gateway_addresses=(ip_address("10.90.0.1"),),
            routes={
                "corp.example": (OFFICE,),
                "lab.corp.example": (LAB, OFFICE),
                "special.ts.net": (LAB,),
                "2.0.192.in-addr.arpa": (OFFICE,),
                "self.example": (ServerAddress(ip_address("10.90.0.1")),),
            },
            tailnet_suffixes=("ts.net", "tail.example"),
        )
    )


@pytest.mark.parametrize(
    ("name", "route"),
    [
        ("www.example.org", SYSTEM),
        ("corp.example", (OFFICE,)),
        ("a.corp.example", (OFFICE,)),
        ("notcorp.example", SYSTEM),
        ("a.b.lab.corp.example", (LAB, OFFICE)),
        ("node.tail1234.ts.net", TAILNET),
        ("ts.net", TAILNET),
        ("xts.net", SYSTEM),
        ("a.tail.example", TAILNET),
        ("a.special.ts.net", (LAB,)),
        ("self.example", ()),
        ("1.2.0.192.in-addr.arpa", (OFFICE,)),
        ("1.1.64.100.in-addr.arpa", TAILNET),
        ("1.1.128.100.in-addr.arpa", SYSTEM),
        ("100.in-addr.arpa", SYSTEM),
        ("0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa", TAILNET),
        ("8.b.d.0.1.0.0.2.ip6.arpa", SYSTEM),
        ("com", SYSTEM),
        (".", SYSTEM),
    ],
)
def test_routes(routing: Routing, name: str, route: Route) -> None:
    assert routing.route(names.from_text(name)) == route


def test_a_route_for_everything() -> None:
    routing = Routing(DnsConfig(routes={"": (OFFICE,)}))
    assert routing.route(names.from_text("www.example.org")) == (OFFICE,)
    assert routing.route(names.from_text("node.ts.net")) is TAILNET
    assert not routing.has_route(names.from_text("www.example.org"))


def test_tailnet_names(routing: Routing) -> None:
    assert routing.is_tailnet(names.from_text("a.ts.net"))
    assert not routing.is_tailnet(names.from_text("a.xts.net"))
    assert not routing.is_tailnet(names.from_text("a.example"))


def test_server_and_route_texts() -> None:
    assert parse_server("192.0.2.1") == OFFICE
    assert parse_server("[2001:db8::1]:5353") == LAB
    assert parse_server("2001:db8::1").port == 53
    assert parse_server("192.0.2.1:5353").port == 5353
    assert parse_route("Corp.Example.=192.0.2.1,[2001:db8::1]:5353") == ("corp.example", (OFFICE, LAB))
    assert (str(OFFICE), str(LAB)) == ("192.0.2.1", "[2001:db8::1]:5353")
    for bad in ("dns.example", "192.0.2.1:0", "192.0.2.1:x", "[2001:db8::1]5353", "[2001:db8::1", ""):
        with pytest.raises(ValueError, match=r"."):
            parse_server(bad)
    for bad in ("corp.example", "corp.example=", "a..b=192.0.2.1", "corp.example=x"):
        with pytest.raises(ValueError, match=r"."):
            parse_route(bad)


RESOLV_CONF = """\
# a comment
nameserver 192.0.2.1   # the office
nameserver 10.90.0.1
nameserver [2001:db8::1]:5353
nameserver not-an-address
nameserver 192.0.2.1
nameserver 192.0.2.3
nameserver 192.0.2.4
domain old.example
search tail1234.ts.net Corp.Example bad..name .
options ndots:1 edns0
"""


def test_resolv_conf() -> None:
    read = parse(RESOLV_CONF, {ip_address("10.90.0.1")})
    assert read.servers == (OFFICE, LAB, ServerAddress(ip_address("192.0.2.3")))
    assert read.search == (names.from_text("tail1234.ts.net"), names.from_text("corp.example"))
    assert read.ourselves == 1
    assert parse("", set()) == ResolvConf()


def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    changes: list[str] = []
    system = SystemResolvers(path, (), lambda: changes.append(path.read_text() if path.exists() else ""))
    assert system.current(0.0).servers == ()
    path.write_text("nameserver 192.0.2.1\n")
    assert system.current(CHECK_SECONDS / 2).servers == ()
    assert system.current(CHECK_SECONDS).servers == (OFFICE,)
    replacement = tmp_path / "new"
    replacement.write_text("nameserver 192.0.2.9\n")  # as long as the old one, and perhaps of the same time
    replacement.rename(path)
    assert system.current(2 * CHECK_SECONDS).servers == (ServerAddress(ip_address("192.0.2.9")),)
    path.write_text("nameserver 192.0.2.9\n# the same\n")
    assert system.current(3 * CHECK_SECONDS).servers == (ServerAddress(ip_address("192.0.2.9")),)
    path.unlink()
    assert system.current(4 * CHECK_SECONDS).servers == ()
    assert len(changes) == 3


def test_what_decides_does_no_io() -> None:
    deciding = (
        "answer", "cache", "config", "local_names", "message", "names",
        "resolv_conf", "reverse", "rewriting", "routing",
    )  # fmt: skip
    forbidden = {"socket", "asyncio", "time", "os", "random", "secrets", "threading"}
    folder = Path(lopower.dns.__path__[0])
    for module in deciding:
        for node in ast.walk(ast.parse((folder / f"{module}.py").read_text())):
            imported = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in imported} & forbidden, module
