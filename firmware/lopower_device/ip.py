"""IPv4 and IPv6 headers: one template per flow, from which each packet's is copied."""

from . import kernels as k

TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
START = 16
"""Where a packet begins in a buffer: behind the header of WireGuard's data message."""


class Header:
    """The header of packets from `source` to `destination` (packed), and the checksum's part that never changes."""

    def __init__(self, source, destination, protocol):
        self.destination = destination
        self.size = 20 if len(source) == 4 else 40
        addresses = source + destination
        if self.size == 20:
            fixed = b"\x45\x00\x00\x00\x00\x00\x40\x00\x40" + bytes((protocol, 0, 0))  # DF, TTL 64; RFC 6864: ID 0
        else:
            fixed = b"\x60\x00\x00\x00\x00\x00" + bytes((protocol, 64))
        self._template = bytearray(fixed + addresses)
        self._pseudo = k.checksum_add(bytearray(addresses), 0, len(addresses), protocol << 8)
        self._fixed = k.checksum_add(self._template, 0, 20, 0)

    @property
    def payload(self):
        """Where the payload begins in a buffer."""
        return START + self.size

    def write(self, buffer, length):
        """The header for `length` bytes of payload; the length of the whole packet."""
        k.copy(buffer, START, self._template, 0, self.size)
        total = length
        at = START + 4
        if self.size == 20:
            total += 20
            at = START + 2
            low = total & 0xFF
            checksum = self._fixed + (low << 8 | total >> 8)
            checksum = ~((checksum & 0xFFFF) + (checksum >> 16))
            buffer[START + 10] = checksum & 0xFF
            buffer[START + 11] = checksum >> 8 & 0xFF
        buffer[at] = total >> 8
        buffer[at + 1] = total & 0xFF
        return length + self.size

    def seal(self, buffer, length, field, pseudo=True):
        """Put the checksum of `length` bytes of payload into the two bytes at `field`, relative to the payload."""
        at = self.payload
        buffer[at + field] = buffer[at + field + 1] = 0
        start = self._pseudo + ((length & 0xFF) << 8 | length >> 8) if pseudo else 0
        checksum = ~k.checksum_add(buffer, at, length, start) & 0xFFFF
        if not checksum:
            checksum = 0xFFFF  # RFC 768: 0 would mean that there is none; for the others both are right
        buffer[at + field] = checksum & 0xFF
        buffer[at + field + 1] = checksum >> 8
