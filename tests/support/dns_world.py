"""What the DNS server is given in tests: devices with names, settings for loopback, and helpers to ask it."""

from __future__ import annotations

import random
import time
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import dnslib

from lopower.dns.config import DnsConfig, IPAddress
from lopower.dns.server import DnsServer, Transport

GATEWAY = (ip_address("10.90.0.1"), ip_address("fd7a:115c:a1e0:9909::1"))
RANGES = (IPv4Network("10.90.0.0/24"), IPv6Network("fd7a:115c:a1e0:9909::/64"))


class Devices:
    """The devices' names, as the daemon's registry gives them."""

    def __init__(self, **addresses: tuple[str, ...]) -> None:
        self.by_name = {name: tuple(map(ip_address, texts)) for name, texts in addresses.items()}

    def addresses(self, label: str) -> tuple[IPAddress, ...] | None:
        return self.by_name.get(label)

    def name_of(self, address: IPAddress) -> str | None:
        return next((name for name, addresses in self.by_name.items() if address in addresses), None)


class NoTailnetError(Exception):
    """What a driver raises."""


async def no_tailnet(_message: bytes) -> bytes:
    """The tailnet's resolver on a host in no tailnet."""
    raise NoTailnetError("this host is in no tailnet")


def make_config(directory: Path, resolv_conf: str = "", **settings: Any) -> DnsConfig:
    """Settings with a resolv.conf of the test's own, and no resolver over HTTPS unless given."""
    path = directory / "resolv.conf"
    path.write_text(resolv_conf)
    given = {"gateway_addresses": GATEWAY, "ranges": RANGES, "resolv_conf": path, "https_resolvers": (), **settings}
    return DnsConfig(**given)


def make_server(config: DnsConfig, devices: Devices | None = None, tailnet: Any = no_tailnet) -> DnsServer:
    """A server with reproducible ids."""
    devices = devices or Devices(kitchen=("10.90.0.2", "fd7a:115c:a1e0:9909::2"))
    entropy = random.Random(1).randbytes
    return DnsServer(config, names=devices, tailnet=tailnet, entropy=entropy, clock=time.monotonic)


async def ask_wire(server: DnsServer, query: bytes, transport: Transport = "udp", client: str = "device") -> bytes:
    """As the bridge does it."""
    answer = server.answer_now(query, transport, client, time.monotonic())
    return await server.resolve(query, transport, client) if answer is None else answer


async def ask(
    server: DnsServer,
    name: str,
    qtype: str = "A",
    *,
    transport: Transport = "udp",
    edns: int = 0,
    dnssec: bool = False,
    client: str = "device",
) -> dnslib.DNSRecord:
    """Ask, and parse the answer with dnslib."""
    query = dnslib.DNSRecord.question(name, qtype)
    if edns:
        query.add_ar(dnslib.EDNS0(udp_len=edns, flags="do" if dnssec else ""))
    wire = await ask_wire(server, bytes(query.pack()), transport, client)
    reply = dnslib.DNSRecord.parse(wire)
    assert reply.header.id == query.header.id
    assert reply.q.qname == query.q.qname
    return reply


def rdata(reply: dnslib.DNSRecord) -> list[str]:
    """The data of the answers, as text."""
    return [str(record.rdata) for record in reply.rr]
