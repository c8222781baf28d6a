"""`socket` of the ESP32 port (addresses are tuples) over the unix port's, as far as the radio carries it.

Without a link a datagram or a dial is refused, as lwIP does for want of a route; what an established connection sends waits,
and datagrams that arrive are lost. With a slow radio the program waits as long as its packet is on the air.
"""

import errno
import io
import os
import socket as _socket
import time as _time

import _board
from board_network import station

AF_INET = 2
AF_INET6 = 10
SOCK_STREAM = 1
SOCK_DGRAM = 2
SOCK_RAW = 3
IPPROTO_IP = 0
IPPROTO_TCP = 6
IPPROTO_UDP = 17
TCP_NODELAY = 1
SOL_SOCKET = _socket.SOL_SOCKET
SO_REUSEADDR = _socket.SO_REUSEADDR
SO_BROADCAST = _socket.SO_BROADCAST
SO_KEEPALIVE = _socket.SO_KEEPALIVE
IP_ADD_MEMBERSHIP = _socket.IP_ADD_MEMBERSHIP
IP_DROP_MEMBERSHIP = _socket.IP_DROP_MEMBERSHIP

_EAI_FAIL = -202
_POLL = 3
_CLOSE = 4
_FILENO = 10
_LOOK = 10
"""Milliseconds between two looks at a link that is down."""


def _raw(address, kind):
    """The unix port's form of an address."""
    if isinstance(address, tuple):
        try:
            return _socket.getaddrinfo(address[0] or "0.0.0.0", address[1], 0, kind)[0][-1]
        except OSError:
            raise OSError(_EAI_FAIL)
    return address


def _tuple(raw):
    """An address as programs see it."""
    parts = _socket.sockaddr(raw)
    return (_socket.inet_ntop(parts[0], parts[1]), parts[2])


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    if not station.up():
        raise OSError(_EAI_FAIL)
    _air(64)
    try:
        found = _socket.getaddrinfo(host, port, af or AF_INET, type or SOCK_STREAM)
    except OSError:
        raise OSError(_EAI_FAIL)
    return [(f, t, p, "", _tuple(raw)) for f, t, p, _name, raw in found[:1]]


def _air(length):
    """Wait while `length` bytes are on the air; whether they arrive."""
    wires = _board.wires
    wait = wires.delay
    if wires.rate:
        wait += length * 1_000_000 // wires.rate
    if wait:
        _time.sleep_us(wait)
    if wires.loss:
        return int.from_bytes(os.urandom(3), "little") * 1_000_000 >> 24 >= wires.loss
    return True


class socket(io.IOBase):
    """A socket of the host behind the radio."""

    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0, *, _accepted=None):
        self._socket = _socket.socket(af, type) if _accepted is None else _accepted
        self._kind = type
        self._timeout = None
        self._outages = station.outages
        self._closed = False

    def _wait_for_link(self):
        """None once there is a link; raises OSError when this socket does not wait so long."""
        began = _time.ticks_ms()
        while not station.up():
            if self._timeout is not None:
                if _time.ticks_diff(_time.ticks_ms(), began) >= self._timeout * 1000:
                    raise OSError(errno.ETIMEDOUT if self._timeout else errno.EAGAIN)
            _time.sleep_ms(_LOOK)

    def _lose(self):
        """Datagrams that came while there was no link are gone."""
        if self._kind != SOCK_DGRAM or self._outages == station.outages:
            return
        self._outages = station.outages
        self._socket.setblocking(False)
        try:
            while self._socket.recv(2048):
                pass
        except OSError:
            pass
        self._restore()

    def _restore(self):
        if self._timeout is None:
            self._socket.setblocking(True)
        elif self._timeout == 0:
            self._socket.setblocking(False)
        else:
            self._socket.settimeout(self._timeout)

    def _require_route(self):
        if not station.up():
            raise OSError(errno.EHOSTUNREACH)

    def bind(self, address):
        self._socket.bind(_raw(address, self._kind))

    def listen(self, backlog=2):
        self._socket.listen(backlog)

    def accept(self):
        self._wait_for_link()
        accepted, raw = self._socket.accept()
        return socket(AF_INET, SOCK_STREAM, _accepted=accepted), _tuple(raw)

    def connect(self, address):
        self._require_route()
        _air(60)
        self._socket.connect(_raw(address, self._kind))

    def send(self, data):
        n = self.write(data)
        if n is None:
            raise OSError(errno.EAGAIN)
        return n

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def sendto(self, data, address):
        self._require_route()
        if not _air(len(data)):
            return len(data)
        return self._socket.sendto(data, _raw(address, self._kind))

    def recv(self, size, flags=0):
        self._wait_for_link()
        self._lose()
        return self._socket.recv(size)

    def recvfrom(self, size, flags=0):
        self._wait_for_link()
        self._lose()
        data, raw = self._socket.recvfrom(size)
        return data, _tuple(raw)

    def recv_into(self, buffer, size=0, flags=0):
        data = self.recv(size or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size=-1):
        self._wait_for_link()
        self._lose()
        return self._socket.read() if size < 0 else self._socket.read(size)

    def readinto(self, buffer, size=-1):
        try:
            self._wait_for_link()
        except OSError:
            return None
        self._lose()
        return self._socket.readinto(buffer) if size < 0 else self._socket.readinto(buffer, size)

    def readline(self):
        self._wait_for_link()
        return self._socket.readline()

    def write(self, data, size=-1):
        if size >= 0:
            data = memoryview(data)[:size]
        if self._kind == SOCK_DGRAM:
            self._require_route()
        else:
            try:
                self._wait_for_link()
            except OSError:
                return None
        if not _air(len(data)) and self._kind == SOCK_DGRAM:
            return len(data)
        return self._socket.write(data)

    def setsockopt(self, level, option, value):
        if level == IPPROTO_TCP:
            return
        self._socket.setsockopt(level, option, value)

    def settimeout(self, seconds):
        self._timeout = seconds
        self._restore()

    def setblocking(self, flag):
        self.settimeout(None if flag else 0)

    def makefile(self, mode="rwb", buffering=0):
        return self

    def fileno(self):
        return self._socket.fileno()

    def close(self):
        if not self._closed:
            self._closed = True
            self._socket.close()

    def ioctl(self, operation, argument):
        if operation == _FILENO:
            return self._socket.fileno()
        if operation == _CLOSE:
            self.close()
        elif operation == _POLL:
            import select

            poller = select.poll()
            poller.register(self._socket, argument)
            return poller.poll(0)[0][1] if poller.poll(0) else 0
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
