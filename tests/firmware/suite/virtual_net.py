"""The network outside for a virtual board: names, UDP, and a proxy of the package's own cores behind it.

`socket` and `network` as the ESP32's port has them, as far as the package uses them. Imported after `virtual.install`.
"""

import io
import sys

from virtual import board

AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOL_SOCKET, SO_REUSEADDR = 2, 10, 1, 2, 1, 2


class Internet:
    """`names`: what they resolve to; `hosts`: what takes a datagram there, as function(datagram, answer)."""

    def __init__(self):
        self.names = {}
        self.hosts = {}
        self.resolved = []
        self.sent = []
        self.is_up = True


internet = Internet()


class Socket(io.IOBase):
    """UDP, connected."""

    def __init__(self, family=AF_INET, type=SOCK_STREAM, proto=0):
        self.queue = []
        self.remote = None
        self.closed = False

    def setblocking(self, flag):
        pass

    def bind(self, address):
        pass

    def listen(self, backlog):
        pass

    def settimeout(self, seconds):
        pass

    def connect(self, address):
        self.remote = address

    def write(self, buffer, *limits):
        datagram = bytes(buffer[: limits[0]] if limits else buffer)
        board.step()
        if not internet.is_up:
            raise OSError(118)  # EHOSTUNREACH of lwIP
        internet.sent.append(datagram)
        host = internet.hosts.get(self.remote[0])
        if host is not None:
            host(datagram, self.queue.append)
        board.step()
        return len(datagram)

    def recv(self, size):
        if not self.queue:
            raise OSError(11)
        return self.queue.pop(0)[:size]

    def ioctl(self, request, argument):
        if request == 3:
            return argument & (1 if self.queue else 0)
        return 0

    def close(self):
        self.closed = True


class SocketModule:
    """`socket`."""

    AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM = AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM
    SOL_SOCKET, SO_REUSEADDR = SOL_SOCKET, SO_REUSEADDR
    __name__ = "socket"
    socket = Socket

    def getaddrinfo(self, host, port, family=0, type=0):
        internet.resolved.append(host)
        if not internet.is_up:
            raise OSError(-202)
        if host[0].isdigit() if isinstance(host, str) else False:
            address = host
        elif host in internet.names:
            address = internet.names[host]
        else:
            raise OSError(-202)
        return [(AF_INET, type, 0, "", (address, port))]


class WLAN:
    """`network.WLAN` as ports/esp32/network_wlan.c of MicroPython 1.23 to 1.28 is written: status above all.

    `air`: access points in reach, ssid -> (password or None, whether DHCP answers). A reason stays until the next
    success; without `reconnects` the handshake's time-out is told as "connecting".
    """

    air = {}
    log = []
    IF_STA = 0

    def __init__(self, interface=0):
        self.is_active = False
        self.wanted = None
        self.joined = False
        self.has_lease = False
        self.reason = 0
        self.limit = self.failed = 0
        self.fixed = None
        self.due = 0

    def active(self, flag=None):
        if flag is None:
            return self.is_active
        self.is_active = flag
        return None

    def config(self, *names, **values):
        if names:
            return self.wanted[0] if self.wanted and names[0] in ("ssid", "essid") else ""
        for name, value in values.items():
            assert name == "reconnects", name
            self.limit = value + 1 if value >= 0 else 0
        return None

    def ifconfig(self, told=None):
        if told is None:
            return self.fixed or (("192.168.1.7", "255.255.255.0", "192.168.1.1", "192.168.1.1"))
        self.log.append(("ifconfig", told))
        if told == "dhcp":
            if not self.fixed:
                raise OSError("Wifi Internal Error")  # the client runs already
            self.fixed = None
        else:
            assert len(told) == 4
            self.fixed = told
        return None

    def connect(self, ssid, key=None):
        if not self.is_active:
            raise OSError("Wifi Not Started")
        if self.wanted and self.joined:
            raise OSError("Wifi Internal State Error")
        self.log.append(("connect", ssid, key))
        self.wanted, self.failed = (ssid, key), 0
        self.due = board.now + 2500

    def disconnect(self):
        if self.joined:
            self.reason = 8
        self.wanted, self.joined, self.has_lease = None, False, False

    def _look(self):
        if self.wanted is None:
            return
        point = self.air.get(self.wanted[0])
        if self.joined:
            if point is None:
                self.joined = self.has_lease = False
                self._fail(200)
            elif not self.has_lease and (point[1] or self.fixed):
                self.has_lease, self.reason = True, 0
            return
        if board.now < self.due or (self.limit and self.failed >= self.limit):
            return
        if point is None:
            self._fail(201)
        elif point[0] != self.wanted[1]:
            self._fail(15 if point[0] and self.wanted[1] else 210)
        else:
            self.joined = True
            self._look()

    def _fail(self, reason):
        self.reason = reason
        self.failed += 1
        self.due = board.now + 2500

    def isconnected(self):
        self._look()
        return self.has_lease

    def status(self, name=None):
        self._look()
        if name == "rssi":
            if not self.joined:
                raise OSError("Wifi Not Connected")
            return -60
        if self.has_lease:
            return 1010
        if self.reason in (201, 210, 211, 212):
            return self.reason
        if self.reason in (202, 205):
            return 202
        if self.reason == 8:
            return 1000
        if self.wanted and (not self.limit or self.failed < self.limit):
            return 1001
        return self.reason or 1000


class Network:
    """`network`."""

    STA_IF = 0
    log = WLAN.log

    def __init__(self):
        self.station = WLAN()

    def WLAN(self, interface=0):  # noqa: N802 - the module's name
        assert interface == 0
        return self.station

    def country(self, code):
        if len(code) != 2:
            raise ValueError
        self.log.append(("country", code))

    def hostname(self, name):
        if len(name) > 32:
            raise ValueError
        self.log.append(("hostname", name))

    def ipconfig(self, **values):
        self.log.append(("ipconfig", values))


class Proxy:
    """A WireGuard endpoint of the package's cores at an address of the Internet; it answers UDP and TCP at 10.0.0.1."""

    def __init__(self, address, private_key, device_key, psk=None):
        import os

        from lopower.addresses import Networks
        from lopower.counters import COUNT
        from lopower.crypto import words
        from lopower.keypair import Static
        from lopower.peer import Peer
        from lopower.stack import Stack

        self.answers = True
        self.received = []
        self._sink = None
        static = Static(private_key, device_key, psk)
        self.peer = Peer(
            static=static,
            mtu=1420,
            allowed=Networks(["10.0.0.2/32"]),
            persistent_keepalive=0,
            transmit=self._transmit,
            entropy=os.urandom,
            jitter=lambda limit: 0,
            timestamp=lambda: bytes(8) + (board.now & 0xFFFFFFF).to_bytes(4, "big"),
            counters=words(COUNT),
        )
        while self.peer.step(0):
            pass
        self.stack = Stack(peer=self.peer, addresses=[bytes((10, 0, 0, 1))], mtu=1420, entropy=os.urandom)
        internet.hosts[address] = self.take

    def _now(self):
        return board.now & 0x1FFFFFFF

    def _transmit(self, buffer, length):
        if self._sink is not None:
            self._sink(bytes(memoryview(buffer)[:length]))

    def take(self, datagram, answer):
        """One datagram, and what follows from it at once."""
        if not self.answers:
            return
        self._sink = answer
        peer = self.peer
        peer.rx[: len(datagram)] = datagram
        length = peer.receive(len(datagram), self._now())
        if length:
            self.received.append(bytes(memoryview(peer.rx)[16 : 16 + length]))
            self.stack.receive(length, self._now())
        while peer.step(self._now()):
            pass
        if length:
            self.serve()

    def serve(self):
        """Time passes here too: listeners and UDP ports echo."""
        now = self._now()
        self.peer.handle_timers(now)
        self.stack.handle_timers(now)
        for endpoint in self.stack.udp:
            while endpoint.queue:
                data, address, port = endpoint.queue.pop(0)
                endpoint.send(data, (address, port), now)
        for listener in self.stack.listeners:
            listener.ready.clear()


def install(with_wifi=False):
    """From here on `import socket` (and `network`) give this; where the package is gone, as after a boot, too."""
    sys.modules["socket"] = sys.modules["usocket"] = SocketModule()
    if with_wifi:
        sys.modules["network"] = Network()
        return sys.modules["network"].station
    return None
