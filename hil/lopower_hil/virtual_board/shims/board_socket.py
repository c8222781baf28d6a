"""`socket` of the ESP32 port (addresses are tuples) over the unix port's, as far as the radio carries it.

Without a link a datagram or a dial is refused, as lwIP does for want of a route; what an established connection sends
waits, and datagrams that arrive are lost. With a slow radio the program waits as long as its packet is on the air.
"""

import errno
import io
import os
import select
import socket as _socket
import time as _time

import _board
from board_network import station
from board_time import sleep_us

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
_EISCONN = 106  # the module errno does not have it
_POLL = 3
_CLOSE = 4
_FILENO = 10
_LOOK = 10
"""Milliseconds between two looks at a link that is down."""

_PATIENCE = 100
"""Milliseconds between two looks at the link by whoever waits without end."""

_bound = set()
"""(datagrams or not, port) of what this board's program has bound."""


def _raw(address):
    """The unix port's form of an address."""
    if isinstance(address, tuple):
        try:
            return _socket.getaddrinfo(station.resolve(address[0] or "0.0.0.0"), address[1])[0][-1]
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
        found = _socket.getaddrinfo(station.resolve(host), port, af or AF_INET, type or SOCK_STREAM)
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
        sleep_us(wait)
    if wires.loss:
        return int.from_bytes(os.urandom(3), "little") * 1_000_000 >> 24 >= wires.loss
    return True


class socket(io.IOBase):
    """A socket of the host behind the radio.

    The host's never blocks: this one waits for it with poll, which alone keeps its time when timers interrupt it.
    """

    def __init__(self, af=AF_INET, type=SOCK_STREAM, proto=0, *, _accepted=None):
        self._socket = _socket.socket(af, type) if _accepted is None else _accepted
        self._socket.setblocking(False)
        self._is_datagram = type == SOCK_DGRAM
        self._timeout = None
        self._outages = station.outages
        self._closed = False
        self._port = None

    def _wait(self, events, began):
        """Until the host's socket is ready; raises OSError when this one does not wait so long."""
        if self._timeout == 0:
            raise OSError(errno.EAGAIN)
        poller = select.poll()
        poller.register(self._socket, events)
        while True:
            left = -1
            if self._timeout is not None:
                left = int(self._timeout * 1000) - _time.ticks_diff(_time.ticks_ms(), began)
                if left <= 0:
                    raise OSError(errno.ETIMEDOUT)
            if not station.up():
                _time.sleep_ms(_LOOK)
            elif poller.poll(_LOOK if 0 <= left < _LOOK else left if left >= 0 else _PATIENCE):
                return

    def _try(self, events, action, *arguments):
        """What `action` of the host's socket gives, once there is a link and it does not block."""
        began = _time.ticks_ms()
        while True:
            if station.up():
                self._lose()
                try:
                    result = action(*arguments)
                except OSError as error:
                    if error.errno != errno.EAGAIN:
                        raise
                else:
                    if result is not None:
                        return result
            self._wait(events, began)

    def _lose(self):
        """Datagrams that came while there was no link are gone."""
        if self._outages == station.outages:
            return
        self._outages = station.outages
        if not self._is_datagram:
            return
        try:
            while self._socket.recv(2048):
                pass
        except OSError:
            pass

    def _require_route(self):
        if not station.up():
            raise OSError(errno.EHOSTUNREACH)

    def bind(self, address):
        """A board has an address of its own, and all ports of it: for one this host keeps for itself or for another
        board a free one is taken, at which nobody on the radio's side finds it."""
        raw = _raw(address)
        host, port = _tuple(raw)
        if (self._is_datagram, port) in _bound:
            raise OSError(errno.EADDRINUSE)
        try:
            self._socket.bind(raw)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            self._socket.bind(_raw((host, 0)))
        if port:
            self._port = port
            _bound.add((self._is_datagram, port))

    def listen(self, backlog=2):
        self._socket.listen(backlog)

    def accept(self):
        accepted, raw = self._try(select.POLLIN, self._socket.accept)
        return socket(AF_INET, SOCK_STREAM, _accepted=accepted), _tuple(raw)

    def connect(self, address):
        self._require_route()
        _air(60)
        raw = _raw(address)
        try:
            return self._socket.connect(raw)
        except OSError as error:
            if error.errno != errno.EINPROGRESS or self._timeout == 0:
                raise
        self._wait(select.POLLOUT, _time.ticks_ms())
        try:
            self._socket.connect(raw)
        except OSError as error:  # what became of it
            if error.errno != _EISCONN:
                raise

    def send(self, data):
        if self._is_datagram:
            self._require_route()
            if not _air(len(data)):
                return len(data)
        else:
            _air(len(data))
        return self._try(select.POLLOUT, self._socket.send, data)

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[self.send(view) :]

    def sendto(self, data, address):
        self._require_route()
        if not _air(len(data)):
            return len(data)
        return self._try(select.POLLOUT, self._socket.sendto, data, _raw(address))

    def recv(self, size, flags=0):
        return self._try(select.POLLIN, self._socket.recv, size)

    def recvfrom(self, size, flags=0):
        data, raw = self._try(select.POLLIN, self._socket.recvfrom, size)
        return data, _tuple(raw)

    def recv_into(self, buffer, size=0, flags=0):
        data = self.recv(size or len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _stream(self, action, *arguments):
        """As `_try`, with None where a socket that does not block would."""
        try:
            return self._try(select.POLLIN, action, *arguments)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return None

    def read(self, size=-1):
        if self._timeout == 0 or self._is_datagram:
            return self._stream(self._socket.read, size) if size >= 0 else self._stream(self._socket.read)
        data = bytearray()
        while size < 0 or len(data) < size:
            part = self.recv(1024 if size < 0 else min(1024, size - len(data)))
            if not part:
                break
            data += part
        return bytes(data)

    def readline(self):
        line = self._stream(self._socket.readline)
        while self._timeout != 0 and line and not line.endswith(b"\n"):
            part = self._stream(self._socket.readline)
            if not part:
                break
            line += part
        return line

    def readinto(self, buffer, size=-1):
        data = self._stream(self._socket.recv, len(buffer) if size < 0 else min(size, len(buffer)))
        if data is None:
            return None
        buffer[: len(data)] = data
        return len(data)

    def write(self, data, size=-1):
        view = memoryview(data)
        if size >= 0:
            view = view[:size]
        sent = 0
        try:
            while sent < len(view) or not len(view):
                sent += self.send(view[sent:])
                if self._timeout == 0 or not len(view):
                    break
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            return sent or None
        return sent

    def setsockopt(self, level, option, value):
        if level != IPPROTO_TCP:  # the unix port takes none of those
            self._socket.setsockopt(level, option, value)

    def settimeout(self, seconds):
        self._timeout = seconds

    def setblocking(self, flag):
        self._timeout = None if flag else 0

    def makefile(self, mode="rwb", buffering=0):
        return self

    def fileno(self):
        return self._socket.fileno()

    def close(self):
        if not self._closed:
            self._closed = True
            _bound.discard((self._is_datagram, self._port))
            self._socket.close()

    def ioctl(self, operation, argument):
        if operation == _FILENO:
            return self._socket.fileno()
        if operation == _CLOSE:
            self.close()
        elif operation == _POLL:
            poller = select.poll()
            poller.register(self._socket, argument)
            ready = poller.poll(0)
            return ready[0][1] if ready else 0
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
