"""An answer made ready once, to be sent to any device that asks the same: from the cache, or to all who waited for it.

A device gets the prepared bytes with its own id, flags, letter case and EDNS record, and TTLs that count down. Nothing
is parsed on the way, which is what makes a cached answer cheap.
"""

from __future__ import annotations

import struct
from typing import Final

from lopower.dns.message import (
    AD,
    CD,
    CLASS_IN,
    CNAME,
    DNAME,
    DO,
    EDNS_UDP_BYTES,
    HEADER_BYTES,
    NOERROR,
    NXDOMAIN,
    OPT,
    OPT_BYTES,
    QR,
    RA,
    RD,
    RRSIG,
    SERVFAIL,
    SOA,
    TC,
    Query,
    Question,
    Response,
    write_extended_error,
)

# A day: what is asked for daily should be looked up daily (RFC 8767 section 4 permits a cap of days).
MAX_TTL: Final = 86_400
# RFC 2308 section 5 suggests one to three hours.
MAX_NEGATIVE_TTL: Final = 3_600
# RFC 9520 section 3.2: a failure is remembered for at least one second. No longer: networks come back.
FAILURE_TTL: Final = 1

_id_and_flags: Final = struct.Struct("!HH")
_additional_count: Final = struct.Struct("!H")
_u32: Final = struct.Struct("!I")
_opt: Final = struct.Struct("!BHHHHH")
_RCODE: Final = 0x000F
_FROM_RESOLVER: Final = QR | TC | AD | _RCODE
_FROM_QUERY: Final = RD | CD  # RFC 1035 section 4.1.1, RFC 4035 section 3.2.2


class Answer:
    """A response without id and without EDNS.

    Attributes:
        wire: header, question in lower case, and records; TTLs as they were at the beginning.
        flags: of the header: QR, RA, AD as the resolver set it, TC only if that is all there is, and the response code.
        ttls: `(offset, ttl in s)` of each record.
        lifetime: s for which it may be cached; 0: not at all.
        options: EDNS options that go with it (RFC 8914's, of a failure).
    """

    __slots__ = ("flags", "lifetime", "options", "ttls", "wire")

    def __init__(
        self, wire: bytes, flags: int, ttls: tuple[tuple[int, int], ...], lifetime: int, options: bytes = b""
    ) -> None:
        self.wire = wire
        self.flags = flags
        self.ttls = ttls
        self.lifetime = lifetime
        self.options = options

    @property
    def rcode(self) -> int:
        """The response code, 0 to 15."""
        return self.flags & _RCODE

    def render(self, query: Query, age: int, limit: int) -> bytes:
        """The message for a device.

        Args:
            query: what it answers; its question is the answer's.
            age: s since the answer was made ready.
            limit: bytes the device takes; what does not fit is left out, and TC says so.
        """
        wire = bytearray(self.wire)
        name = query.name
        question = query.question
        flags = self.flags | query.flags & _FROM_QUERY
        if flags & AD and not (question.dnssec_ok or query.flags & AD):
            flags ^= AD  # RFC 6840 section 5.8
        _id_and_flags.pack_into(wire, 0, query.id, flags)
        wire[HEADER_BYTES : HEADER_BYTES + len(name)] = name
        if age:
            for offset, ttl in self.ttls:
                _u32.pack_into(wire, offset, ttl - age if ttl > age else 0)
        if not query.udp_bytes:
            return bytes(wire) if len(wire) <= limit else _truncate(wire, limit)
        options = self.options
        if len(wire) + OPT_BYTES + len(options) > limit:
            wire = bytearray(_truncate(wire, limit - OPT_BYTES - len(options)))
        _additional_count.pack_into(wire, 10, _additional_count.unpack_from(wire, 10)[0] + 1)
        wire += _opt.pack(0, OPT, EDNS_UDP_BYTES, 0, DO if question.dnssec_ok else 0, len(options))
        return bytes(wire + options)


def prepare(response: Response) -> Answer:
    """Make a resolver's response ready; it must have a response code below 16."""
    records = response.answers + response.authority + response.additional
    end = records[-1].end if records else response.question_end
    flags = response.flags & _FROM_RESOLVER | RA
    wire = bytearray(response.wire[:end])
    counts = (1, len(response.answers), len(response.authority), len(response.additional))
    struct.pack_into("!HHHHHH", wire, 0, 0, flags, *counts)
    wire[HEADER_BYTES : HEADER_BYTES + len(response.name)] = response.name
    lifetime = _lifetime(response)
    limit = lifetime if _is_negative(response) else MAX_TTL
    ttls = []
    for record in records:
        ttl = min(record.ttl, limit) if record.type == SOA else min(record.ttl, MAX_TTL)
        _u32.pack_into(wire, record.ttl_offset, ttl)
        ttls.append((record.ttl_offset, ttl))
    return Answer(bytes(wire), flags, tuple(ttls), lifetime)


def failure(question: Question, code: int, text: str) -> Answer:
    """SERVFAIL, and why (RFC 8914: an info code, and a text for people)."""
    flags = QR | RA | SERVFAIL
    wire = struct.pack("!HHHHHH", 0, flags, 1, 0, 0, 0) + question.name
    wire += struct.pack("!HH", question.qtype, CLASS_IN)
    return Answer(wire, flags, (), FAILURE_TTL, write_extended_error(code, text))


def _is_negative(response: Response) -> bool:
    """Whether it says that there is nothing (RFC 2308 section 2), at the end of a chain of aliases or at once."""
    if response.rcode == NXDOMAIN:
        return True
    return response.rcode == NOERROR and all(
        record.type != response.qtype and record.type in (CNAME, DNAME, RRSIG) for record in response.answers
    )


def _lifetime(response: Response) -> int:
    """Seconds for which the response may be given again."""
    if response.flags & TC or response.rcode not in (NOERROR, NXDOMAIN):
        return 0
    lifetime = min((record.ttl for record in response.answers + response.authority + response.additional), default=0)
    if not _is_negative(response):
        return min(lifetime, MAX_TTL)
    minimum = min((response.soa_minimum(record) for record in response.authority if record.type == SOA), default=0)
    return min(lifetime, minimum, MAX_NEGATIVE_TTL)  # RFC 2308 section 5: without an SOA it is not cached


def _truncate(wire: bytearray, limit: int) -> bytes:
    """Leave out what does not fit: additional records silently, else from the end on, with TC (RFC 2181 section 9).

    The records of the answer that fit stay: a device that cannot do TCP finds its address among them.
    """
    response = Response(bytes(wire))
    counts = []
    end = response.question_end
    room = True
    for section in (response.answers, response.authority):
        kept = 0
        for record in section:
            room = room and record.end <= limit
            if not room:
                break
            kept += 1
            end = record.end
        counts.append(kept)
    flags = response.flags if room else response.flags | TC
    struct.pack_into("!HHHHH", wire, 2, flags, 1, *counts, 0)
    return bytes(wire[:end])
