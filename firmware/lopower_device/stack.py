"""The device's end of the tunnel: IPv4 and IPv6, ICMP, and who gets what of TCP and UDP. No I/O.

Packets lie in the peer's buffer behind 16 bytes of WireGuard's header: what arrives in `rx`, what leaves in `tx`, which are
the same: an answer is written when what it answers has been read.
"""

import errno

from . import kernels as k
from .counters import (
    BACKLOG_FULL,
    FRAGMENTS,
    ICMP_IGNORED,
    MALFORMED_UDP,
    NO_MEMORY,
    NO_SOCKET,
    NOT_FOR_US,
    UNKNOWN_PROTOCOL,
)
from .crypto import words
from .ip import ICMP, ICMPV6, START, TCP, UDP, Header
from .ring import Ring
from .tcp import ACK, CLOSED, FIN, RST, SYN, SYN_SENT, TIME_WAIT, Connection
from .udp import Endpoint

MAX_CONNECTIONS = 12
"""With all rings out; a device's heap has no room for more."""
MAX_TIME_WAIT = 8
FIRST_PORT, PORTS = 49152, 16384  # RFC 6056 section 3.2
_NO_RING = Ring(0)
_scratch = words(1)


class Listener:
    """A listening port; `ready` holds connections that nobody has accepted yet.

    For all but the packed addresses in `sources`, unless that is None, the port is closed.
    """

    def __init__(self, stack, port, backlog, sources):
        self.stack, self.port, self.backlog, self.sources = stack, port, backlog, sources
        self.ready = []

    def pending(self):
        """Connections that take up the backlog."""
        half = [c for c in self.stack.connections if c.listener is self and c not in self.ready and c.state < 3]
        return len(self.ready) + len(half)

    def established(self, connection):
        """A handshake is done; whether there is room."""
        self.ready.append(connection)
        connection.listener = None
        return True

    def close(self, now):
        """No more connections; those that wait are reset."""
        self.stack.listeners.remove(self)
        for connection in self.ready + [c for c in self.stack.connections if c.listener is self]:
            connection.is_detached = True
            connection.abort(now)
        self.ready = []


class Stack:
    """Keyword arguments: the peer; our packed addresses; the MTU; `entropy(n)`; the sizes of a connection's rings."""

    def __init__(self, *, peer, addresses, mtu, entropy, receive_ring=4140, send_ring=2760):
        self.peer = peer
        self.tx, self.rx = peer.tx, peer.rx
        self.mtu = mtu
        self.entropy = entropy
        self._own = {len(address): address for address in addresses}
        self._ring_sizes = (receive_ring, send_ring)
        self._rings = []
        self.connections = []
        self.listeners = []
        self.udp = []
        random = entropy(2)
        self._last_port = random[0] << 8 | random[1]
        self.counters = peer.counters

    # --- what sockets ask

    def own(self, size):
        """Our address of 4 or 16 bytes. Raises OSError(EHOSTUNREACH) without one of that family."""
        if size not in self._own:
            raise OSError(errno.EHOSTUNREACH)
        return self._own[size]

    def connect(self, remote, now, local_port=0):
        """Open a TCP connection to (packed address, port). Raises OSError, ENOMEM among them."""
        local = (self.own(len(remote[0])), local_port or self._free_port())
        self._make_room()
        connection = None
        try:
            connection = Connection(self, local, remote)
            self.connections.append(connection)
            connection.connect(now)
        except MemoryError:
            if connection in self.connections:
                self.connections.remove(connection)
            self.counters[NO_MEMORY] += 1
            raise OSError(errno.ENOMEM) from None
        return connection

    def listen(self, port, backlog, sources=None):
        """Accept TCP connections at a port, from anywhere or from some addresses. Raises OSError(EADDRINUSE)."""
        if any(listener.port == port for listener in self.listeners):
            raise OSError(errno.EADDRINUSE)
        listener = Listener(self, port or self._free_port(), max(backlog, 1), sources)
        self.listeners.append(listener)
        return listener

    def open_udp(self, size, port=0):
        """A UDP port for addresses of 4 or 16 bytes. Raises OSError(EADDRINUSE)."""
        self.own(size)
        if port and any(endpoint.port == port and endpoint.size == size for endpoint in self.udp):
            raise OSError(errno.EADDRINUSE)
        endpoint = Endpoint(self, size, port or self._free_port())
        self.udp.append(endpoint)
        return endpoint

    def fail_all(self, error):
        """The tunnel's other end has changed: nothing that was open goes on."""
        for connection in self.connections[:]:
            connection.finish(error)
        for endpoint in self.udp:
            endpoint.error = error

    def next_timer(self, now):
        """Milliseconds until `handle_timers` has something to do."""
        least = 60_000
        for connection in self.connections:
            least = min(least, connection.next_timer(now))
        return max(least, 0)

    def handle_timers(self, now):
        """Do what is due for one connection; whether there was one."""
        for connection in self.connections:
            if connection.next_timer(now) <= 0:
                connection.handle_timers(now)
                # It goes behind the others: not even one that is always due keeps them from their turn
                if connection in self.connections:
                    self.connections.remove(connection)
                    self.connections.append(connection)
                return True
        return False

    # --- what connections ask

    def take_rings(self):
        """Rings for a connection. Raises OSError(ENOMEM)."""
        if self._rings:
            return self._rings.pop()
        try:
            return Ring(self._ring_sizes[0]), Ring(self._ring_sizes[1])
        except MemoryError:
            self.counters[NO_MEMORY] += 1
            raise OSError(errno.ENOMEM) from None

    def release_rings(self, connection):
        """The socket needs them no more; two pairs are kept, so that the heap is not cut up."""
        received, outgoing = connection.received, connection.outgoing
        if received is not _NO_RING:
            connection.received = connection.outgoing = _NO_RING
            if len(self._rings) < 2:
                received.clear()
                outgoing.clear()
                self._rings.append((received, outgoing))

    def forget(self, connection):
        """It has ended."""
        if connection in self.connections:
            self.connections.remove(connection)
        if connection.is_detached:
            self.release_rings(connection)

    def mss(self, header_size):
        """RFC 9293 section 3.7.1, by the tunnel's MTU."""
        return self.mtu - header_size - 20

    def count(self, reason):
        """One more."""
        self.counters[reason] += 1

    def send(self, header, length, checksum_field, now):
        """Send `length` bytes of payload that lie in tx behind the room for the header."""
        total = header.write(self.tx, length)
        header.seal(self.tx, length, checksum_field)
        self.peer.send(total, now)

    # --- what arrives

    def receive(self, length, now):
        """The packet of `length` bytes at rx[16]; its length was checked against its header's."""
        packet = self.rx
        if packet[START] >> 4 == 4:
            header = (packet[START] & 15) * 4
            if packet[START + 6] & 0x3F or packet[START + 7]:
                self.counters[FRAGMENTS] += 1
                return
            size, source, destination, protocol = 4, START + 12, START + 16, packet[START + 9]
        else:
            header = 40
            size, source, destination, protocol = 16, START + 8, START + 24, packet[START + 6]
            if protocol == 44:
                self.counters[FRAGMENTS] += 1
                return
        own = self._own.get(size)
        if own is None or k.differ(own, 0, packet, destination, size):
            self.counters[NOT_FOR_US] += 1
            return
        at = START + header
        length -= header
        if protocol == TCP and length >= 20:
            self._receive_tcp(packet, at, length, source, size, now)
        elif protocol == UDP:
            self._receive_udp(packet, at, length, source, size)
        elif protocol == (ICMP if size == 4 else ICMPV6) and length >= 8:
            self._receive_icmp(packet, at, length, source, size, now)
        else:
            self.counters[UNKNOWN_PROTOCOL] += 1

    def _receive_tcp(self, packet, at, length, source, size, now):
        remote_port = packet[at] << 8 | packet[at + 1]
        local_port = packet[at + 2] << 8 | packet[at + 3]
        for connection in self.connections:
            if (
                connection.local[1] == local_port
                and connection.remote[1] == remote_port
                and len(connection.remote[0]) == size
                and not k.differ(connection.remote[0], 0, packet, source, size)
            ):
                connection.receive(packet, at, length, now)
                return
        flags = packet[at + 13]
        if flags & (SYN | ACK | RST | FIN) == SYN and (packet[at + 12] >> 4) * 4 <= length:
            for listener in self.listeners:
                if listener.port == local_port:
                    address = bytes(memoryview(packet)[source : source + size])
                    if listener.sources is None or address in listener.sources:
                        self._accept_syn(listener, packet, at, address, now)
                        return
        self.counters[NO_SOCKET] += 1
        self.send_reset(packet, at, flags, length - (packet[at + 12] >> 4) * 4, now)

    def _accept_syn(self, listener, packet, at, source, now):
        if listener.pending() >= listener.backlog:
            self.counters[BACKLOG_FULL] += 1  # the peer tries again
            return
        remote = (source, packet[at] << 8 | packet[at + 1])
        try:
            self._make_room()
            connection = Connection(self, (self.own(len(source)), listener.port), remote, listener)
        except (OSError, MemoryError):
            self.counters[NO_MEMORY] += 1
            return
        self.connections.append(connection)
        connection.accept_syn(packet, at, now)

    def send_reset(self, packet, at, flags, data, now):
        """RFC 9293 section 3.10.7.1: the answer to a segment of no connection, whose packet is in rx."""
        if flags & RST or data < 0:
            return
        size = 4 if packet[START] >> 4 == 4 else 16
        source = START + (12 if size == 4 else 8)
        header = Header(self.own(size), bytes(memoryview(packet)[source : source + size]), TCP)
        segment = bytes(memoryview(packet)[at : at + 12])  # the answer is written over it
        out, to = self.tx, header.payload
        k.copy(out, to, segment, 2, 2)
        k.copy(out, to + 2, segment, 0, 2)
        k.copy(out, to + 4, bytes(16), 0, 16)
        out[to + 12] = 0x50
        if flags & ACK:
            k.copy(out, to + 4, segment, 8, 4)
            out[to + 13] = RST
        else:
            scratch = _scratch
            extra = data + (1 if flags & SYN else 0) + (1 if flags & FIN else 0)
            k.load_word(segment, 4, scratch, 0, extra)
            k.put_word(out, to + 8, scratch, 0, 0)
            out[to + 13] = RST | ACK
        self.send(header, 20, 16, now)

    def _receive_udp(self, packet, at, length, source, size):
        if length < 8:
            self.counters[MALFORMED_UDP] += 1
            return
        claimed = packet[at + 4] << 8 | packet[at + 5]
        if not 8 <= claimed <= length:
            self.counters[MALFORMED_UDP] += 1
            return
        port = packet[at + 2] << 8 | packet[at + 3]
        for endpoint in self.udp:
            if endpoint.port == port and endpoint.size == size and endpoint.receive(packet, at, claimed, source):
                return
        self.counters[NO_SOCKET] += 1

    def _receive_icmp(self, packet, at, length, source, size, now):
        kind = packet[at]
        if kind == (8 if size == 4 else 128):  # echo request: the same data back
            address = bytes(memoryview(packet)[source : source + size])
            header = Header(self.own(size), address, ICMP if size == 4 else ICMPV6)
            if length + header.size > self.mtu:
                return
            k.copy(self.tx, header.payload, packet, at, length)
            self.tx[header.payload] = 0 if size == 4 else 129
            total = header.write(self.tx, length)
            header.seal(self.tx, length, 2, size == 16)  # ICMP has no pseudo header, ICMPv6 has
            self.peer.send(total, now)
            return
        if kind != (3 if size == 4 else 1):
            self.counters[ICMP_IGNORED] += 1
            return
        # Destination unreachable: it quotes the packet that could not go on.
        quoted = at + 8
        if size == 4:
            inner = (packet[quoted] & 15) * 4 if length > 8 else 0
            protocol, refused, prohibited = packet[quoted + 9], 3, b"\x0a\x0d"  # RFC 1122 section 3.2.2.1
        else:
            inner = 40
            protocol, refused, prohibited = packet[quoted + 6], 4, b"\x01"  # RFC 4443 section 3.1
        if length < 8 + inner + 8:
            self.counters[ICMP_IGNORED] += 1
            return
        code = packet[at + 1]
        error = errno.EACCES if code in prohibited else errno.EHOSTUNREACH
        if code == refused:
            error = errno.ECONNREFUSED
        to = quoted + (16 if size == 4 else 24)
        ports = quoted + inner
        local_port = packet[ports] << 8 | packet[ports + 1]
        remote_port = packet[ports + 2] << 8 | packet[ports + 3]
        if protocol == TCP:
            for connection in self.connections:
                # RFC 5927 section 4.1 and RFC 1122 section 4.2.3.9: it ends attempts only, and only those it quotes
                if (
                    connection.state == SYN_SENT
                    and connection.local[1] == local_port
                    and connection.remote[1] == remote_port
                    and not k.differ(connection.remote[0], 0, packet, to, len(connection.remote[0]))
                    and k.sequence_difference(packet, ports + 4, connection._words, 0) == 0
                ):
                    connection.finish(error)
                    return
        elif protocol == UDP:
            for endpoint in self.udp:
                if endpoint.port == local_port and endpoint.size == size:
                    if endpoint.remote is not None:
                        endpoint.error = error
                    return
        self.counters[ICMP_IGNORED] += 1

    # --- small things

    def _free_port(self):
        used = [c.local[1] for c in self.connections] + [e.port for e in self.udp] + [s.port for s in self.listeners]
        while True:
            # In turn: a random one is soon one whose last connection the other end still has in TIME-WAIT, where a SYN
            # with a lower sequence number opens nothing (RFC 9293 section 3.10.7.4)
            self._last_port += 1
            port = FIRST_PORT + self._last_port % PORTS
            if port not in used:
                return port

    def _make_room(self):
        """Raises OSError(ENOMEM) if there are too many connections; the oldest in TIME_WAIT go first."""
        waiting = [c for c in self.connections if c.state == TIME_WAIT and c.is_detached]
        if len(waiting) >= MAX_TIME_WAIT or (waiting and len(self.connections) >= MAX_CONNECTIONS):
            waiting[0].finish(0)
        if len([c for c in self.connections if c.state != CLOSED]) >= MAX_CONNECTIONS:
            raise OSError(errno.ENOMEM)
