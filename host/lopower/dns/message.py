"""DNS messages as they are on the wire: devices' queries parsed, resolvers' responses checked, ours written.

This is a forwarder's codec. It never takes a message apart into records: it finds where names, TTLs and sections lie,
so that an answer goes from the cache to a device by patching its id, flags, letter case and TTLs. The rare change that
moves records (see `rewriting`) is dnslib's.

Everything from outside is bounded: a compression pointer must point before the name it ends (RFC 1035 section 4.1.4
says "a prior occurrence"), so no chain of them can loop, and a name is at most 255 bytes long however it is compressed.
It may not lead into what we patch later, a TTL or the middle of a label of the question: what was checked stays true.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Final, NamedTuple

from lopower.dns.names import MAX_NAME_BYTES, ROOT

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
YXDOMAIN: Final = 6
BADVERS: Final = 16

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
HINFO: Final = 13
MX: Final = 15
AAAA: Final = 28
SRV: Final = 33
DNAME: Final = 39
OPT: Final = 41
RRSIG: Final = 46
IXFR: Final = 251
AXFR: Final = 252
ANY: Final = 255
CLASS_IN: Final = 1

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
_OPCODE: Final = 0x7800
_RCODE: Final = 0x000F
DO: Final = 0x8000  # of EDNS's flags (RFC 3225)

HEADER_BYTES: Final = 12
OPT_BYTES: Final = 11  # without options
# A compression pointer to the question's name, which always follows the header.
QUESTION_NAME: Final = b"\xc0\x0c"
# What a client without EDNS takes over UDP (RFC 1035 section 4.2.1).
CLASSIC_UDP_BYTES: Final = 512
# What we say we take, and at most send, over UDP: fits every path without fragments (DNS Flag Day 2020).
EDNS_UDP_BYTES: Final = 1232
MAX_MESSAGE_BYTES: Final = 65_535
# A question with every EDNS option in use and padding (RFC 8467: blocks of 128) is far below; a device may send 64 KB.
MAX_QUERY_BYTES: Final = 4096
# OPT and a signature are what a query may add; a device may claim 65,535.
_MAX_QUERY_ADDITIONAL: Final = 4
# A resolver may send 5,900 records of 11 bytes in 64 KB; walking them would hold up the loop for many milliseconds.
MAX_RECORDS: Final = 1024
# More pointers in one name than any encoder makes; each costs the same again wherever the name is pointed to.
_MAX_POINTERS: Final = 32

_EXTENDED_ERROR: Final = 15  # RFC 8914
_MAX_ERROR_TEXT_BYTES: Final = 100  # keeps every error within 512 bytes

_header: Final = struct.Struct("!HHHHHH")
_question: Final = struct.Struct("!HH")
_record: Final = struct.Struct("!HHIH")
_u16: Final = struct.Struct("!H")
_u32: Final = struct.Struct("!I")

# Where names lie in the data of the types that may hold compressed ones (RFC 3597 section 4), and of SRV and DNAME,
# which some servers compress all the same. Others are opaque.
_NAME_IN_DATA: Final = {NS: 0, 3: 0, 4: 0, CNAME: 0, SOA: 0, 7: 0, 8: 0, 9: 0, PTR: 0, MX: 2, SRV: 6, DNAME: 0}


Message = bytes | bytearray | memoryview


class Question(NamedTuple):
    """What is asked, as far as it changes the answer.

    Attributes:
        name: in lower case.
        qtype: 16 bits; `qclass` is always IN.
        dnssec_ok: EDNS's DO bit: signatures are wanted (RFC 3225).
        checking_disabled: the CD bit (RFC 4035 section 3.2.2).
        recursion_desired: the RD bit.
    """

    name: bytes
    qtype: int
    dnssec_ok: bool = False
    checking_disabled: bool = False
    recursion_desired: bool = True


class Query:
    """A device's query.

    Attributes:
        id: 16 bits, of the device's choice.
        flags: the header's.
        name: as the device wrote it; an answer repeats its letter case.
        question: what is asked.
        udp_bytes: the largest UDP payload the device takes (RFC 6891 section 6.2.3); 0 without EDNS.
    """

    __slots__ = ("flags", "id", "name", "question", "udp_bytes")

    def __init__(self, id_: int, flags: int, name: bytes, question: Question, udp_bytes: int) -> None:
        self.id = id_
        self.flags = flags
        self.name = name
        self.question = question
        self.udp_bytes = udp_bytes


class QueryError(Exception):
    """A query that gets an error, or nothing.

    Attributes:
        reason: the counter's name.
        response: what the device is told; empty where any answer would be wrong or dangerous.
    """

    def __init__(self, reason: str, response: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.response = response


class MessageError(Exception):
    """A response that breaks the wire format or our bounds."""


class Record(NamedTuple):
    """Where a record lies in its message: its owner's name at `start`, its data in `[data, end)`."""

    start: int
    type: int
    ttl: int
    ttl_offset: int
    data: int
    end: int


class Response:
    """A resolver's response, walked through once.

    Attributes:
        wire: the message.
        flags: the header's.
        name, qtype, qclass: its question's, the name in lower case.
        question_end: where the first record begins.
        answers, authority, additional: the sections' records; OPT is not among them.
        opt: EDNS's record, if there is one.
    """

    __slots__ = (
        "_patched",
        "additional",
        "answers",
        "authority",
        "flags",
        "name",
        "opt",
        "qclass",
        "qtype",
        "question_end",
        "wire",
    )

    def __init__(self, wire: Message) -> None:
        """Parse.

        Raises:
            MessageError: it breaks the wire format, is no response to one question, or has too many records.
        """
        try:
            self._parse(bytes(wire))
        except (IndexError, struct.error):
            raise MessageError("cut short") from None

    def _parse(self, wire: bytes) -> None:
        self.wire = wire
        _, self.flags, questions, answers, authority, additional = _header.unpack_from(wire)
        if not self.flags & QR or self.flags & _OPCODE or questions != 1:
            raise MessageError("no response to one question")
        if answers + authority + additional > MAX_RECORDS:
            raise MessageError("too many records")
        end = _check_name(wire, HEADER_BYTES)
        self._patched = set(range(HEADER_BYTES, end - 1))
        offset = HEADER_BYTES
        while length := wire[offset]:
            self._patched.discard(offset)
            if length > 63:
                raise MessageError("a compressed question")
            offset += 1 + length
        self.name = wire[HEADER_BYTES:end].lower()
        self.qtype, self.qclass = _question.unpack_from(wire, end)
        self.question_end = offset = end + 4
        self.opt: Record | None = None
        self.answers, offset = self._section(offset, answers)
        self.authority, offset = self._section(offset, authority)
        self.additional, offset = self._section(offset, additional)
        if self.additional:
            for index, record in enumerate(self.additional):
                if record.type == OPT:
                    self.opt = record
                    # What follows may point behind OPT, which never leaves the hop; nobody needs it.
                    del self.additional[index:]
                    break

    def _section(self, offset: int, count: int) -> tuple[list[Record], int]:
        wire = self.wire
        patched = self._patched
        records = []
        for _ in range(count):
            start = offset
            offset = _check_name(wire, offset, patched)
            type_, _class, ttl, length = _record.unpack_from(wire, offset)
            data = offset + 10
            ttl_offset = offset + 4
            patched.update(range(ttl_offset, ttl_offset + 4))
            offset = data + length
            if offset > len(wire):
                raise MessageError("cut short")
            if (skip := _NAME_IN_DATA.get(type_)) is not None:
                end = _check_name(wire, data + skip, patched)
                if type_ == SOA:
                    end = _check_name(wire, end, patched) + 20
                if end > offset:
                    raise MessageError("a name beyond its record's data")
            # RFC 2181 section 8: a TTL with the highest bit set is zero.
            records.append(Record(start, type_, ttl if ttl < 1 << 31 else 0, ttl_offset, data, offset))
        return records, offset

    @property
    def rcode(self) -> int:
        """The response code, with EDNS's upper bits."""
        upper = _u32.unpack_from(self.wire, self.opt.ttl_offset)[0] >> 24 if self.opt else 0
        return int(self.flags & _RCODE | upper << 4)

    def answers_to(self, id_: int, question: Question) -> bool:
        """Whether this is the response to the query that `write_query` wrote."""
        return (
            _u16.unpack_from(self.wire)[0] == id_
            and self.qclass == CLASS_IN
            and self.qtype == question.qtype
            and self.name == question.name
        )

    def aged(self, age: int) -> Response:
        """The response `age` seconds later: it lay in an HTTP cache on the way (RFC 8484 section 5.1)."""
        wire = bytearray(self.wire)
        for record in self.answers + self.authority + self.additional:
            _u32.pack_into(wire, record.ttl_offset, max(record.ttl - age, 0))
        return Response(bytes(wire))

    def soa_minimum(self, record: Record) -> int:
        """The last field of an SOA record: how long a negative answer lives (RFC 2308 section 4)."""
        return int(_u32.unpack_from(self.wire, record.end - 4)[0])


def _check_name(wire: bytes, offset: int, patched: Collection[int] = ()) -> int:
    """Check the name at `offset`; returns where it ends in the message. IndexError where it is cut short.

    No pointer may lead to an offset in `patched`.
    """
    end = 0
    total = 1
    limit = offset
    pointers = 0
    while True:
        length = wire[offset]
        if end and offset in patched:
            raise MessageError("a compression pointer to what is no name")
        if not length:
            return end or offset + 1
        if length < 64:
            total += length + 1
            offset += length + 1
            if total > MAX_NAME_BYTES:
                raise MessageError("a name of more than 255 bytes")
        elif length >= 192:
            target = (length & 63) << 8 | wire[offset + 1]
            pointers += 1
            if not HEADER_BYTES <= target < limit or pointers > _MAX_POINTERS:
                raise MessageError("a compression pointer that does not point back")
            end = end or offset + 2
            offset = limit = target
        else:
            raise MessageError("a label of an unknown kind")


def parse_query(message: Message) -> Query:
    """A device's query; strict, and in the order in which a server has to look.

    Raises:
        QueryError: it is answered with an error, or dropped.
    """
    message = bytes(message)
    if len(message) < HEADER_BYTES:
        raise QueryError("short")
    id_, flags, questions, answers, authority, additional = _header.unpack_from(message)
    if flags & QR:
        raise QueryError("response")  # answering it could start a loop between two servers
    if flags & _OPCODE:
        raise QueryError("opcode", _bare_error(id_, flags, NOTIMP))
    if questions != 1 or len(message) > MAX_QUERY_BYTES:  # RFC 9619
        raise QueryError("malformed", _bare_error(id_, flags, FORMERR))
    offset = HEADER_BYTES
    try:
        while length := message[offset]:
            if length > 63:  # a pointer, which could only point into the header or to itself
                raise QueryError("malformed", _bare_error(id_, flags, FORMERR))
            offset += length + 1
        offset += 1
        if offset - HEADER_BYTES > MAX_NAME_BYTES:
            raise QueryError("malformed", _bare_error(id_, flags, FORMERR))
        name = message[HEADER_BYTES:offset]
        qtype, qclass = _question.unpack_from(message, offset)
        offset += 4
        udp_bytes = edns_flags = 0
        if additional or answers or authority:
            query = Query(id_, flags, name, Question(name.lower(), qtype), 0)
            if qtype == IXFR:  # it carries an SOA in its authority section
                raise QueryError("transfer", write_error(query, REFUSED, qclass=qclass))
            if answers or authority or additional > _MAX_QUERY_ADDITIONAL:
                raise QueryError("malformed", write_error(query, FORMERR, qclass=qclass))
            offset, udp_bytes, edns_flags = _parse_additional(message, offset, additional, query)
        if offset != len(message):
            raise QueryError("malformed", _bare_error(id_, flags, FORMERR))
    except (IndexError, struct.error, MessageError):
        raise QueryError("malformed", _bare_error(id_, flags, FORMERR)) from None
    question = Question(name.lower(), qtype, bool(edns_flags & DO), bool(flags & CD), bool(flags & RD))
    query = Query(id_, flags, name, question, udp_bytes)
    if qclass != CLASS_IN:
        raise QueryError("class", write_error(query, REFUSED, qclass=qclass))
    if 127 < qtype < 256 or qtype == OPT or not qtype:
        raise _rejected_type(query)
    return query


def _parse_additional(message: bytes, offset: int, count: int, query: Query) -> tuple[int, int, int]:
    """Where the section ends, the EDNS payload size (0 without EDNS) and the EDNS flags."""
    udp_bytes = edns_flags = 0
    for _ in range(count):
        root = message[offset] == 0
        offset = _check_name(message, offset)
        type_, size, extended, length = _record.unpack_from(message, offset)
        offset += 10 + length
        if type_ != OPT:
            continue
        if not root or udp_bytes:  # RFC 6891 section 6.1.1
            raise MessageError("EDNS twice, or for a name")
        udp_bytes = max(size, CLASSIC_UDP_BYTES)
        edns_flags = extended & 0xFFFF
        if extended >> 16 & 0xFF:  # RFC 6891 section 6.1.3
            query.udp_bytes = udp_bytes
            raise QueryError("edns_version", write_error(query, BADVERS))
    return offset, udp_bytes, edns_flags


def _rejected_type(query: Query) -> QueryError:
    qtype = query.question.qtype
    if qtype == ANY:  # RFC 8482 section 4.2
        data = b"\x07RFC8482\x00"
        return QueryError(
            "any", write_response(query, NOERROR, [(QUESTION_NAME, HINFO, 3600, data)], authoritative=False)
        )
    if qtype in (AXFR, IXFR):
        return QueryError("transfer", write_error(query, REFUSED))
    if qtype in (OPT, 0):
        return QueryError("malformed", write_error(query, FORMERR))
    return QueryError("type", write_error(query, NOTIMP))  # transactions and meta types (RFC 6895 section 3.1)


def write_query(id_: int, question: Question, *, edns: bool = True) -> bytes:
    """Our query to a resolver.

    The AD bit asks for the response's (RFC 6840 section 5.7); whether the device gets to see it is decided later.
    """
    flags = AD | (RD if question.recursion_desired else 0) | (CD if question.checking_disabled else 0)
    query = _header.pack(id_, flags, 1, 0, 0, int(edns)) + question.name + _question.pack(question.qtype, CLASS_IN)
    return query + _write_opt(question.dnssec_ok) if edns else query


def _write_opt(dnssec_ok: bool, *, upper_rcode: int = 0, options: bytes = b"") -> bytes:
    extended = upper_rcode << 24 | (DO if dnssec_ok else 0)
    return ROOT + _record.pack(OPT, EDNS_UDP_BYTES, extended, len(options)) + options


def write_extended_error(code: int, text: str) -> bytes:
    """The EDNS option that says why there is no answer (RFC 8914 section 2)."""
    data = _u16.pack(code) + text.encode("ascii", "replace")[:_MAX_ERROR_TEXT_BYTES]
    return _u16.pack(_EXTENDED_ERROR) + _u16.pack(len(data)) + data


def response_flags(query: Query, rcode: int) -> int:
    """The header's flags for an answer of ours: RD and CD as the device set them."""
    return QR | RA | query.flags & (RD | CD) | rcode & _RCODE


def write_error(query: Query, rcode: int, *, qclass: int = CLASS_IN, options: bytes = b"") -> bytes:
    """A response that says `rcode` and holds no records; `options` are EDNS's, for a device that speaks it."""
    edns = query.udp_bytes > 0
    response = (
        _header.pack(query.id, response_flags(query, rcode), 1, 0, 0, int(edns))
        + query.name
        + _question.pack(query.question.qtype, qclass)
    )
    if edns:
        response += _write_opt(query.question.dnssec_ok, upper_rcode=rcode >> 4, options=options)
    return response


def write_response(
    query: Query,
    rcode: int,
    answers: list[tuple[bytes, int, int, bytes]],
    authority: list[tuple[bytes, int, int, bytes]] | None = None,
    *,
    additional: list[tuple[bytes, int, int, bytes]] | None = None,
    authoritative: bool = True,
) -> bytes:
    """An answer out of our own knowledge; small, so it is never truncated.

    Args:
        query: what it answers.
        rcode: the response code.
        answers: `(owner, type, ttl in s, data)`, the owner uncompressed or `QUESTION_NAME`.
        authority, additional: the same.
        authoritative: whether AA is set.
    """
    edns = query.udp_bytes > 0
    flags = response_flags(query, rcode) | (AA if authoritative else 0)
    parts = [
        _header.pack(query.id, flags, 1, len(answers), len(authority or ()), len(additional or ()) + int(edns)),
        query.name,
        _question.pack(query.question.qtype, CLASS_IN),
    ]
    for owner, type_, ttl, data in answers + (authority or []) + (additional or []):
        parts += [owner, _record.pack(type_, CLASS_IN, ttl, len(data)), data]
    if edns:
        parts.append(_write_opt(query.question.dnssec_ok))
    return b"".join(parts)


def _bare_error(id_: int, flags: int, rcode: int) -> bytes:
    """An error for a query whose question could not be read."""
    return _header.pack(id_, QR | RA | flags & (_OPCODE | RD) | rcode, 0, 0, 0, 0)
