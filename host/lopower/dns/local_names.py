"""The names we know ourselves: the gateway, the devices, their reverse names, and those that must not leave a host."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

from lopower.dns import message, names
from lopower.dns.config import DnsConfig, IPAddress, IPNetwork
from lopower.dns.message import AAAA, NOERROR, NXDOMAIN, PTR, QUESTION_NAME, SOA, A, Query
from lopower.dns.reverse import network_of, zone_of

# Devices come, go and change names at any time, and a question costs a round trip to the gateway only.
TTL: Final = 60
NEGATIVE_TTL: Final = 5

_GATEWAY: Final = "gateway"
_LOCALHOST: Final = names.from_text("localhost")
# Never asked upstream: RFC 6761 section 6.4, RFC 7686 section 2; RFC 9462 section 6.4 for the designated resolvers of
# whatever is upstream, which a device is not to go to past us.
_NONEXISTENT: Final = (names.from_text("invalid"), names.from_text("onion"))
_EMPTY: Final = names.from_text("resolver.arpa")
_SOA_DATA: Final = (
    names.from_text(_GATEWAY)
    + names.from_text("nobody.invalid")  # whom to write to (RFC 1035 section 3.3.13)
    + b"".join(value.to_bytes(4, "big") for value in (1, 3600, 600, 86_400, NEGATIVE_TTL))
)
_LAST_LABELS: Final = (b"\x04arpa\0", _LOCALHOST, *_NONEXISTENT)


class LocalNames(Protocol):
    """Whose addresses the devices' names are."""

    def addresses(self, label: str) -> Sequence[IPAddress] | None:
        """The addresses of the device `label` (lower case); None: there is no such device."""

    def name_of(self, address: IPAddress) -> str | None:
        """The name of the device that has `address`."""


class LocalZone:
    """Answers what we are the authority for."""

    def __init__(self, config: DnsConfig, devices: LocalNames) -> None:
        self._devices = devices
        self._gateway = config.gateway_addresses
        self._ranges = config.ranges

    def answer(self, query: Query) -> bytes | None:
        """The response; None where the name is not ours. Cheap for a name that is not."""
        name = query.question.name
        if names.is_bare(name):
            addresses = self._addresses(name)
            if addresses is not None:
                return _answer(query, _address_records(query, addresses), name)
        if not name.endswith(_LAST_LABELS):
            return None
        if names.is_within(name, _LOCALHOST):  # RFC 6761 section 6.3
            return _answer(query, _address_records(query, (IPv4Address("127.0.0.1"), IPv6Address("::1"))), _LOCALHOST)
        for zone in _NONEXISTENT:
            if names.is_within(name, zone):
                return _answer(query, [], zone, NXDOMAIN)
        if names.is_within(name, _EMPTY):
            return _answer(query, [], _EMPTY)
        return self._reverse(query, name)

    def _addresses(self, name: bytes) -> Sequence[IPAddress] | None:
        try:
            label = name[1:-1].decode("ascii")
        except UnicodeDecodeError:
            return None
        if label == _GATEWAY:
            return self._gateway
        return self._devices.addresses(label)

    def _reverse(self, query: Query, name: bytes) -> bytes | None:
        network = network_of(name)
        if network is None:
            return None
        for ours in self._ranges:
            if ours.version == network.version and network.subnet_of(ours):  # type: ignore[arg-type]
                return self._reverse_answer(query, name, network, zone_of(ours))
        return None

    def _reverse_answer(self, query: Query, name: bytes, network: IPNetwork, zone: bytes) -> bytes:
        if not name.endswith(zone):
            zone = zone_of(network)  # the range does not end at a label's edge: each name below is a zone of its own
        if len(name) != len(zone_of(network)):  # labels in front that are no part of an address
            return _answer(query, [], zone, NXDOMAIN)
        if network.num_addresses > 1:
            return _answer(query, [], zone)  # RFC 8020: there are names below it
        address = network.network_address
        device = _GATEWAY if address in self._gateway else self._devices.name_of(address)
        if device is None:
            return _answer(query, [], zone, NXDOMAIN)
        pointer = (QUESTION_NAME, PTR, TTL, names.from_text(device))
        return _answer(query, [pointer] if query.question.qtype == PTR else [], zone)


def _address_records(query: Query, addresses: Sequence[IPAddress]) -> list[tuple[bytes, int, int, bytes]]:
    version = {A: 4, AAAA: 6}.get(query.question.qtype)
    qtype = query.question.qtype
    return [(QUESTION_NAME, qtype, TTL, address.packed) for address in addresses if address.version == version]


def _answer(query: Query, answers: list[tuple[bytes, int, int, bytes]], zone: bytes, rcode: int = NOERROR) -> bytes:
    if query.question.qtype == SOA and query.question.name == zone:
        return message.write_response(query, NOERROR, [_soa(QUESTION_NAME)])
    # RFC 2308 section 2: the SOA says for how long there is nothing.
    return message.write_response(query, rcode, answers, None if answers else [_soa(zone)])


def _soa(owner: bytes) -> tuple[bytes, int, int, bytes]:
    return owner, SOA, NEGATIVE_TTL, _SOA_DATA
