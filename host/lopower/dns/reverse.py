"""Names of addresses under in-addr.arpa (RFC 1035 section 3.5) and ip6.arpa (RFC 3596 section 2.5)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Final

from lopower.dns import names
from lopower.dns.config import IPAddress, IPNetwork

IN_ADDR_ARPA: Final = names.from_text("in-addr.arpa")
IP6_ARPA: Final = names.from_text("ip6.arpa")


def network_of(name: bytes) -> IPNetwork | None:
    """The addresses that a reverse name stands for: one, or all that begin as it says.

    Labels in front that are no part of an address (`_dns-sd._udp`) are left out. None: no reverse name, or the top of
    the tree.
    """
    labels = names.labels_of(name)
    if name.endswith(IN_ADDR_ARPA):
        octets: list[int] = []
        for label in reversed(labels[:-2]):
            if len(octets) == 4 or not (label.isdigit() and label == b"%d" % int(label) and int(label) < 256):
                break
            octets.append(int(label))
        if not octets:
            return None
        return IPv4Network((bytes(octets).ljust(4, b"\0"), 8 * len(octets)))
    if name.endswith(IP6_ARPA):
        digits = ""
        for label in reversed(labels[:-2]):
            if len(digits) == 32 or len(label) != 1 or label not in b"0123456789abcdef":
                break
            digits += label.decode()
        if not digits:
            return None
        return IPv6Network((bytes.fromhex(digits.ljust(32, "0")), 4 * len(digits)))
    return None


def zone_of(network: IPNetwork) -> bytes:
    """The reverse name of a network; one that does not end at a label's edge is taken up to the next edge below it."""
    step, suffix = (8, IN_ADDR_ARPA) if network.version == 4 else (4, IP6_ARPA)
    count = -(-network.prefixlen // step)
    packed = network.network_address.packed
    parts = [str(octet) for octet in packed] if network.version == 4 else list(packed.hex())
    return b"".join(bytes([len(part)]) + part.encode() for part in reversed(parts[:count])) + suffix


def name_of(address: IPAddress) -> bytes:
    """The reverse name of one address."""
    return names.from_text(address.reverse_pointer)
