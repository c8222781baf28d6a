"""A zone of our own for others than the devices: an authoritative server's answers (RFC 1034 section 4.3.2), no more.

`kitchen.ZONE` is the device of that name. The zone's own name is its name server, whose addresses it has. Reverse names
are answered for what names lead to. Whatever else is asked for is refused: nothing is looked up for anybody here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from lopower.dns import names
from lopower.dns.config import IPAddress, IPNetwork
from lopower.dns.message import (
    AAAA,
    HEADER_BYTES,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    QUESTION_NAME,
    RA,
    REFUSED,
    SOA,
    A,
    Message,
    Query,
    QueryError,
    parse_query,
    write_error,
    write_response,
)
from lopower.dns.reverse import network_of, zone_of

# Devices come, go and change names at any time; clients in the tailnet ask over an encrypted link that costs little.
TTL: Final = 60
NEGATIVE_TTL: Final = 5
# Whom to write to (RFC 1035 section 3.3.13): nobody.
_MAILBOX: Final = names.from_text("nobody.invalid")
_TIMES: Final = struct.Struct("!IIIII")
_POINTER: Final = 0xC000
_flags: Final = struct.Struct("!H")

Record = tuple[bytes, int, int, bytes]


class ZoneNames(Protocol):
    """Whose addresses the names in the zone are, as clients reach them."""

    def addresses(self, label: str) -> Sequence[IPAddress] | None:
        """The addresses of the device `label` (lower case), none if it is not reached; None: no such device."""

    def name_of(self, address: IPAddress) -> str | None:
        """The name of the device that is reached at `address`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneConfig:
    """The zone.

    Attributes:
        name: in wire form, in lower case, below the root.
        server: our own addresses, where the zone is served.
        networks: where the devices are reached; their reverse names are ours.
    """

    name: bytes
    server: tuple[IPAddress, ...] = ()
    networks: tuple[IPNetwork, ...] = ()


class ZoneServer:
    """Answers queries about one zone. Every answer fits 512 bytes, so none is ever truncated.

    Args:
        config: called for each query, since it changes while the server is up.
        devices: the devices.
        serial: of the zone; it must grow when the zone changes, and nobody transfers it, so seconds do.
    """

    def __init__(self, config: Callable[[], ZoneConfig | None], devices: ZoneNames, serial: Callable[[], int]) -> None:
        self._config = config
        self._devices = devices
        self._serial = serial

    def answer(self, query: Message) -> bytes:
        """The response to one message; empty where any would be wrong. Nothing is raised for what a client sends."""
        try:
            parsed = parse_query(query)
        except QueryError as error:
            return _without_recursion(error.response)
        config = self._config()
        if config is None:
            return _without_recursion(write_error(parsed, REFUSED))
        name = parsed.question.name
        if names.is_within(name, config.name):
            return _without_recursion(self._forward(parsed, config))
        return _without_recursion(self._reverse(parsed, config, name))

    def _forward(self, query: Query, config: ZoneConfig) -> bytes:
        name, qtype = query.question.name, query.question.qtype
        if name == config.name:
            if qtype == SOA:
                return write_response(query, NOERROR, [self._soa(QUESTION_NAME, QUESTION_NAME)])
            if qtype == NS:
                glue = [
                    (QUESTION_NAME, A if address.version == 4 else AAAA, TTL, address.packed)
                    for address in config.server
                ]
                # The server's addresses go with it (RFC 1034 section 3.7), so that nobody asks for them.
                return write_response(query, NOERROR, [(QUESTION_NAME, NS, TTL, QUESTION_NAME)], additional=glue)
            return self._addresses(query, config, config.server)
        labels = names.labels_of(name[: len(name) - len(config.name)] + names.ROOT)
        addresses = self._devices.addresses(labels[-1].decode("ascii", "replace"))
        if addresses is None or len(labels) > 1:
            return self._nothing(query, config, NXDOMAIN)
        return self._addresses(query, config, addresses)

    def _reverse(self, query: Query, config: ZoneConfig, name: bytes) -> bytes:
        network = network_of(name)
        if network is None:
            return write_error(query, REFUSED)
        for ours in config.networks:
            if ours.version != network.version or not network.subnet_of(ours):  # type: ignore[arg-type]
                continue
            zone = zone_of(ours)
            if not name.endswith(zone):
                zone = zone_of(network)  # the range does not end at a label's edge: each name below is a zone
            soa = self._soa(_in_question(query, zone), config.name)
            if len(name) != len(zone_of(network)):  # labels in front that are no part of an address
                return write_response(query, NXDOMAIN, [], [soa])
            if name == zone and query.question.qtype == SOA:
                return write_response(query, NOERROR, [soa])
            if name == zone and query.question.qtype == NS:
                return write_response(query, NOERROR, [(QUESTION_NAME, NS, TTL, config.name)])
            if network.num_addresses > 1:  # RFC 8020: there are names below it
                return write_response(query, NOERROR, [], [soa])
            device = self._devices.name_of(network.network_address)
            if device is None or query.question.qtype != PTR:
                return write_response(query, NXDOMAIN if device is None else NOERROR, [], [soa])
            target = names.from_text(device)[:-1] + config.name
            return write_response(query, NOERROR, [(QUESTION_NAME, PTR, TTL, target)])
        return write_error(query, REFUSED)

    def _addresses(self, query: Query, config: ZoneConfig, addresses: Sequence[IPAddress]) -> bytes:
        version = {A: 4, AAAA: 6}.get(query.question.qtype)
        records: list[Record] = [
            (QUESTION_NAME, query.question.qtype, TTL, address.packed)
            for address in addresses
            if address.version == version
        ]
        return write_response(query, NOERROR, records) if records else self._nothing(query, config, NOERROR)

    def _nothing(self, query: Query, config: ZoneConfig, rcode: int) -> bytes:
        """RFC 2308 section 2: the SOA says for how long there is nothing."""
        zone = _in_question(query, config.name)
        return write_response(query, rcode, [], [self._soa(zone, zone)])

    def _soa(self, owner: bytes, server: bytes) -> Record:
        times = _TIMES.pack(self._serial() & 0xFFFF_FFFF, 3600, 600, 86_400, NEGATIVE_TTL)
        return owner, SOA, NEGATIVE_TTL, server + _MAILBOX + times


def _in_question(query: Query, zone: bytes) -> bytes:
    """A compression pointer to a zone that the question's name ends with (RFC 1035 section 4.1.4)."""
    return _flags.pack(_POINTER | HEADER_BYTES + len(query.question.name) - len(zone))


def _without_recursion(response: bytes) -> bytes:
    """RA cleared: nobody's questions are looked up here (RFC 1035 section 4.1.1)."""
    if not response:
        return response
    (flags,) = _flags.unpack_from(response, 2)
    return response[:2] + _flags.pack(flags & ~RA) + response[4:]
