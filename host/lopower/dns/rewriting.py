"""Responses whose records have to change: IPv4 addresses taken out, an alias put in front. dnslib does the moving.

Names in a message point to other names in it, so that a record cannot leave without all the others being written anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import dnslib

from lopower.dns import names
from lopower.dns.message import CNAME, RRSIG, A, MessageError, Response

# A compression pointer reaches no further (RFC 1035 section 4.1.4), and dnslib does not look whether it does.
_MAX_BYTES: Final = 0x3FFF


def without_ipv4(response: Response, is_tailnet: Callable[[bytes], bool]) -> Response:
    """The response without the IPv4 addresses of tailnet names, which an IPv6-only device would dial in vain.

    For a question about a tailnet name that is all A records, to the end of a chain of aliases; for any other, those
    that belong to a tailnet name. The signatures over them leave as well.

    Raises:
        MessageError: dnslib cannot read or write it.
    """
    everything = is_tailnet(response.name)
    records = response.answers + response.authority + response.additional
    if not any(record.type == A for record in records):
        return response

    def stays(record: Any) -> bool:
        is_ipv4 = record.rtype == A or (record.rtype == RRSIG and getattr(record.rdata, "covered", None) == A)
        return not (is_ipv4 and (everything or is_tailnet(_wire(record.rname))))

    def rewrite(parsed: Any) -> None:
        parsed.rr = [record for record in parsed.rr if stays(record)]
        parsed.auth = [record for record in parsed.auth if stays(record)]
        parsed.ar = [record for record in parsed.ar if stays(record)]

    return _rewritten(response, rewrite)


def under_alias(response: Response, alias: bytes) -> Response:
    """The response as one to the same question about `alias`, which is an alias (CNAME) of the name that was asked.

    Raises:
        MessageError: dnslib cannot read or write it.
    """
    ttl = min((record.ttl for record in response.answers), default=0)

    def rewrite(parsed: Any) -> None:
        parsed.questions[0].qname = label = dnslib.DNSLabel(names.labels_of(alias))
        target = dnslib.CNAME(dnslib.DNSLabel(names.labels_of(response.name)))
        parsed.rr.insert(0, dnslib.RR(label, CNAME, ttl=ttl, rdata=target))

    return _rewritten(response, rewrite)


def _rewritten(response: Response, rewrite: Callable[[Any], None]) -> Response:
    if len(response.wire) > _MAX_BYTES:
        raise MessageError("too large to be rewritten")
    try:
        parsed = dnslib.DNSRecord.parse(response.wire)
        rewrite(parsed)
        wire = bytes(parsed.pack())
    except Exception as exc:  # it reads what a resolver sent, and has an exception of its own for nearly every field
        raise MessageError(f"cannot be rewritten: {exc}") from None
    if len(wire) > _MAX_BYTES:
        raise MessageError("too large to be rewritten")
    return Response(wire)


def _wire(label: Any) -> bytes:
    return b"".join(bytes([len(part)]) + part for part in label.label).lower() + names.ROOT
