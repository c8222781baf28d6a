"""UDP of a device: datagrams in a short queue."""

from . import kernels as k
from .counters import UDP_QUEUE_DROPPED
from .ip import UDP, Header

MAX_QUEUED = 6
"""Datagrams that wait for `recv`; whoever floods a port must not exhaust the heap."""


class Endpoint:
    """One UDP port. `remote` is None, or the only (address, port) it talks to."""

    def __init__(self, stack, family_size, port):
        self.stack = stack
        self.size = family_size
        self.port = port
        self.remote = None
        self.error = 0
        self.queue = []
        self._header = None

    def send(self, data, remote, now):
        """Send one datagram to (packed address, port). Raises ValueError if it is longer than the tunnel's MTU."""
        address, port = remote
        header = self._header
        if header is None or header.destination != address:
            header = self._header = Header(self.stack.own(len(address)), address, UDP)
        length = len(data) + 8
        if length + header.size > self.stack.mtu:
            raise ValueError("a datagram is longer than the tunnel's MTU")
        buffer, at = self.stack.tx, header.payload
        for offset, value in ((0, self.port), (2, port), (4, length)):
            buffer[at + offset] = value >> 8
            buffer[at + offset + 1] = value & 0xFF
        k.copy(buffer, at + 8, data, 0, len(data))
        self.stack.send(header, length, 6, now)

    def receive(self, packet, at, length, source):
        """A datagram for this port; whether it was taken. `source`: where its packed address lies."""
        size = self.size
        port = packet[at] << 8 | packet[at + 1]
        if self.remote is not None and (port != self.remote[1] or k.differ(self.remote[0], 0, packet, source, size)):
            return False
        if len(self.queue) >= MAX_QUEUED:
            self.stack.count(UDP_QUEUE_DROPPED)
            return True
        view = memoryview(packet)
        self.queue.append((bytes(view[at + 8 : at + length]), bytes(view[source : source + size]), port))
        return True

    def close(self, now):
        """Free the port."""
        self.stack.udp.remove(self)
        self.queue = []
