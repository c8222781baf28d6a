"""What stands for the module `socket`: the same calls, through the tunnel or past it, by address.

A socket decides when it learns its address. Inside it is then a TCP connection, a listener or a UDP port of the tunnel's
stack; outside, a socket of the original module.
"""

import errno
import io
import select
import sys

from . import _once, addresses, ticks
from .stack import Listener
from .tcp import CLOSE_WAIT, CLOSED, ESTABLISHED, SYN_SENT
from .tunnel import clock
from .udp import Endpoint

original = sys.modules.get("lopower_original_socket") or __import__("socket")
sys.modules["lopower_original_socket"] = original

AF_INET = original.AF_INET
AF_INET6 = getattr(original, "AF_INET6", 10)
SOCK_STREAM = original.SOCK_STREAM
SOCK_DGRAM = original.SOCK_DGRAM
SOL_SOCKET = original.SOL_SOCKET
SO_REUSEADDR = original.SO_REUSEADDR
SO_KEEPALIVE = getattr(original, "SO_KEEPALIVE", 8)
IPPROTO_TCP = getattr(original, "IPPROTO_TCP", 6)
IPPROTO_UDP = getattr(original, "IPPROTO_UDP", 17)
TCP_NODELAY = getattr(original, "TCP_NODELAY", 1)

_POLL, _CLOSE = 3, 4
_IN, _OUT, _ERR, _HUP = 1, 4, 8, 16
_EINPROGRESS = errno.EINPROGRESS
_ENOTCONN = errno.ENOTCONN
MAX_ACCEPT_QUEUE = 4

tunnel = None
"""The running tunnel, or None: then all goes past it."""
_cache = {}
"""(packed addresses, when they end) by (name, kind)."""


def _is_local(packed):
    return packed[0] == 127 if len(packed) == 4 else packed == bytes(15) + b"\x01"


def _through(packed):
    """Whether an address is reached through the tunnel."""
    if tunnel is None or _is_local(packed) or packed in tunnel.proxy.addresses:
        return False
    if tunnel.settings.everything:
        return True
    return tunnel.proxy.allowed.has(packed)


def _unpack(address):
    """(host text, port) of what `connect` and the like are given: a tuple, or the port's own sockaddr."""
    if isinstance(address, tuple):
        return address[0], address[1]
    family = address[0] | address[1] << 8
    port = address[2] << 8 | address[3]
    packed = bytes(address[4:8] if family == AF_INET else address[8:24])
    return addresses.format(packed), port


def _outside(host, port, kind=0):
    """The original module's form of an address."""
    return original.getaddrinfo(host, port, 0, kind)[0][-1]


def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    """As the original; a name is asked of the tunnel's DNS server first."""
    if tunnel is None:
        return original.getaddrinfo(host, port, family, type)
    if not host:
        host = "0.0.0.0"
    if addresses.is_address(host):
        found = [addresses.parse(host)]
    else:
        found = _resolve(host, family)
        if not found:
            if tunnel.settings.everything:
                raise OSError(-2)
            return original.getaddrinfo(host, port, family, type)
    kind = type or SOCK_STREAM
    return [
        (AF_INET if len(packed) == 4 else AF_INET6, kind, proto, "", (addresses.format(packed), port))
        for packed in found
    ]


def _resolve(name, family):
    """Packed addresses of a name by the tunnel's DNS server, IPv4 first; empty if it knows none."""
    servers = tunnel.proxy.dns
    families = [size for size in (4, 16) if any(len(own) == size for own in tunnel.proxy.addresses)]
    if family == AF_INET or family == AF_INET6:
        families = [4 if family == AF_INET else 16]
    found = []
    for size in families:
        key = (name, 1 if size == 4 else 28)  # A, AAAA
        entry = _cache.get(key)
        if entry is not None and ticks.diff(clock(), entry[1]) >= 0:
            del _cache[key]
            entry = None
        if entry is not None:
            found += entry[0]
        elif servers:
            found += _once("resolver").ask(_port, _cache, tunnel.stack.entropy, clock, servers, *key) or ()
        if found:
            break
    return found


def _port(server, seconds):
    port = socket(AF_INET if len(server) == 4 else AF_INET6, SOCK_DGRAM)
    try:
        port.settimeout(seconds)
        port.connect((addresses.format(server), 53))
    except OSError:
        port.close()
        raise
    return port


class socket(io.IOBase):  # noqa: N801 - the original's name
    """One socket. Its timeout: None blocks, 0 does not, else seconds."""

    # What most sockets never change costs an entry in the class once, instead of one in each of them
    _timeout = _flow = _real = _bound = _poller = None
    _options = ()
    _keepalive = _closed = False
    _generation = -1

    def __init__(self, family=AF_INET, type=SOCK_STREAM, proto=0, fileno=None):
        self._family, self._type = family, type
        self._tunnel = tunnel

    # --- addresses

    def bind(self, address):
        """Take a port. One of all addresses (0.0.0.0, ::, "") serves both sides, unless all goes through the tunnel."""
        host, port = _unpack(address)
        packed = addresses.parse(host) if host else bytes(4)
        self._bound = (packed, port)
        anywhere = not any(packed)
        inside = tunnel is not None and (anywhere or packed in tunnel.proxy.addresses)
        outside = not inside or (anywhere and not tunnel.settings.everything)
        if outside:
            self._open_real().bind(_outside(host or "0.0.0.0", port, self._type))
        if inside and self._type == SOCK_DGRAM:
            self._locked(self._open_udp, len(packed), port)

    def listen(self, backlog=2):
        """Accept connections."""
        if self._real is not None:
            self._real.listen(backlog)
        if tunnel is not None and self._bound is not None:
            packed, port = self._bound
            if not any(packed) or packed in tunnel.proxy.addresses:
                self._locked(self._open_listener, port, backlog)

    def accept(self):
        """(socket, (address, port)) of the next connection."""
        self._wait(self._can_accept)
        flow = self._flow
        if isinstance(flow, Listener) and flow.ready:
            made = socket(self._family, SOCK_STREAM)
            made._flow = flow.ready.pop(0)
            return made, (addresses.format(made._flow.remote[0]), made._flow.remote[1])
        real, address = self._real.accept()
        made = socket(self._family, SOCK_STREAM)
        made._real = real
        return made, address

    def connect(self, address):
        """Connect; EINPROGRESS without blocking. For UDP, the only address to talk to."""
        host, port = _unpack(address)
        if not addresses.is_address(host):
            host = getaddrinfo(host, port, 0, self._type)[0][-1][0]
        packed = addresses.parse(host)
        if not _through(packed):
            self._open_real().connect(_outside(host, port, self._type))
            return
        remote = (packed, port)
        if self._type == SOCK_DGRAM:
            if self._flow is None:
                self._locked(self._open_udp, len(packed), 0)
            self._flow.remote = remote
            return
        if self._flow is not None:
            raise OSError(errno.EALREADY if self._flow.state == SYN_SENT else errno.EISCONN)
        local_port = self._bound[1] if self._bound else 0
        self._locked(self._open_tcp, remote, local_port)
        if self._timeout == 0:
            raise OSError(_EINPROGRESS)
        self._wait(self._is_connected)
        self._check()

    # --- data

    def send(self, data):
        """Send some of it; how much."""
        n = self.write(data)
        if n is None:
            raise OSError(errno.EAGAIN)
        return n

    def write(self, data, *limits):
        """As `send`, but None instead of EAGAIN; `limits` are a length, or an offset and a length.

        Blocking, all of it is sent: that is what a stream's `write` does.
        """
        if isinstance(data, str):
            data = data.encode()
        if self._real is not None and not isinstance(self._flow, Endpoint):
            return self._real.write(data, *limits) if hasattr(self._real, "write") else self._real.send(data)
        offset, length = 0, len(data)
        if len(limits) == 1:
            length = min(length, limits[0])
        elif limits:
            offset, length = limits[0], min(limits[1], length - limits[0])
        if isinstance(self._flow, Endpoint):
            if self._flow.remote is None:
                raise OSError(_ENOTCONN)
            self._send_datagram(data, self._flow.remote)
            return length
        sent = 0
        has_pumped = False
        while True:
            self._check()
            sent += self._locked(self._flow.write, data, offset + sent, length - sent)
            if sent == length or self._timeout == 0:
                if not has_pumped:
                    self._pump()  # a program that only writes must learn of a reset, too
                return sent or None if length else 0
            self._wait(self._can_send)
            has_pumped = True

    def sendall(self, data):
        """Send all of it."""
        view = memoryview(data.encode() if isinstance(data, str) else data)
        while len(view):
            view = view[self.send(view) :]

    def sendto(self, data, address):
        """Send one datagram."""
        host, port = _unpack(address)
        packed = addresses.parse(host)
        if not _through(packed):
            return self._open_real().sendto(data, _outside(host, port, SOCK_DGRAM))
        if self._flow is None:
            self._locked(self._open_udp, len(packed), 0)
        self._send_datagram(data, (packed, port))
        return len(data)

    def _send_datagram(self, data, remote):
        self._pump()
        try:
            self._locked(self._flow.send, data, remote)
        except ValueError:
            raise OSError(90) from None  # EMSGSIZE

    def recv(self, size, flags=0):
        """Up to `size` bytes, one datagram of UDP; b"" at the end."""
        if self._real is not None and self._flow is None:
            return self._real.recv(size)
        if self._type == SOCK_DGRAM:
            return self.recvfrom(size)[0]
        self._wait(self._can_receive)
        flow = self._flow
        if not flow.received.length:
            self._check_end()
            return b""
        data = bytearray(min(size, flow.received.length))
        self._locked(flow.read, data, len(data))
        return bytes(data)

    def recvfrom(self, size, flags=0):
        """(data, (address, port))."""
        if self._real is not None and not self._flow:
            return self._real.recvfrom(size)
        if self._type != SOCK_DGRAM:
            return self.recv(size), (addresses.format(self._flow.remote[0]), self._flow.remote[1])
        if self._flow is None:
            raise OSError(_ENOTCONN)
        self._wait(self._can_receive)
        flow = self._flow
        if flow.queue:
            data, packed, port = flow.queue.pop(0)
            return data[:size], (addresses.format(packed), port)
        if flow.error:
            error, flow.error = flow.error, 0
            raise OSError(error)
        return self._real.recvfrom(size)

    def readinto(self, buffer, size=None):
        """As `recv`, into a buffer; None instead of EAGAIN."""
        if self._real is not None and self._flow is None:
            return self._real.readinto(buffer) if size is None else self._real.readinto(buffer, size)
        length = len(buffer) if size is None else min(size, len(buffer))
        try:
            if self._type == SOCK_DGRAM:
                data = self.recv(length)
                buffer[: len(data)] = data
                return len(data)
            self._wait(self._can_receive)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return None
            raise
        flow = self._flow
        if not flow.received.length:
            self._check_end()
            return 0
        return self._locked(flow.read, buffer, length)

    def read(self, size=-1):
        """`size` bytes, or all until the end; without blocking, what there is, or None."""
        if self._real is not None and self._flow is None:
            return self._real.read(size) if size >= 0 else self._real.read()
        if self._timeout == 0:
            self._pump()
            if not self._can_receive():
                return None
            return self.recv(size if size >= 0 else self._flow.received.length or 1)
        parts = []
        while size:
            part = self.recv(size if size > 0 else 2048)
            if not part:
                break
            parts.append(part)
            if size > 0:
                size -= len(part)
        return b"".join(parts)

    def readline(self, size=-1):
        """A line with its end, or what there is at the end."""
        if self._real is not None and self._flow is None:
            return self._real.readline()
        line = b""
        while True:
            flow = self._flow
            self._pump()
            at = flow.received.find(10)
            length = at + 1 if at >= 0 else flow.received.length
            if 0 <= size < len(line) + length:
                length = size - len(line)
            if length:
                line += self.recv(length)
            if at >= 0 or len(line) == size or (not flow.received.length and self._ended()):
                if not line:
                    self._check_end()
                return line
            if self._timeout == 0:
                return line or None
            self._wait(self._can_receive)

    def makefile(self, mode="rb", buffering=0):
        """The socket itself is a stream."""
        return self

    # --- the rest

    def setblocking(self, flag):
        """`settimeout` of None or 0."""
        self.settimeout(None if flag else 0)

    def settimeout(self, seconds):
        """None blocks, 0 does not."""
        self._timeout = seconds
        if self._real is not None:
            self._real.settimeout(seconds)

    def setsockopt(self, level, option, value):
        """SO_KEEPALIVE, and whatever the original module knows, outside; Nagle's delay does not exist inside."""
        if level == SOL_SOCKET and option == SO_KEEPALIVE:
            self._keepalive = bool(value)
            if self._flow is not None and hasattr(self._flow, "set_keepalive"):
                self._locked(self._flow.set_keepalive, self._keepalive)
        if self._real is not None:
            self._real.setsockopt(level, option, value)
        else:
            self._options += ((level, option, value),)

    def shutdown(self, how):
        """SHUT_WR (1) and SHUT_RDWR (2): no more data from us."""
        if self._flow is None:
            raise OSError(_ENOTCONN)
        if how:
            self._locked(self._flow.shutdown)

    def fileno(self):
        """Only sockets outside the tunnel have one."""
        return self._real.fileno() if self._real is not None else -1

    def close(self):
        """Done; what was written is still sent."""
        if self._closed:
            return
        self._closed = True
        flow, real = self._flow, self._real
        if flow is not None:
            self._locked(flow.close)
            self._pump()
        if real is not None:
            real.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ioctl(self, request, argument):
        """What `select` and `ssl` ask of a stream."""
        if request == _POLL:
            return self._events() & (argument | _ERR | _HUP)
        if request == _CLOSE:
            self.close()
            return 0
        return -1

    def _events(self):
        if self._closed:
            return _ERR | _HUP
        events = 0
        if self._real is not None:
            for entry in _poll_once(self._real):
                events |= entry[1]
            if self._flow is None:
                return events
        self._pump()
        flow = self._flow
        if flow is None:
            return events | _OUT | _HUP
        if isinstance(flow, Listener):
            return events | (_IN if flow.ready else 0)
        if isinstance(flow, Endpoint):
            return events | _OUT | (_IN if flow.queue or flow.error else 0)
        if self._can_receive():
            events |= _IN
        if self._can_send():
            events |= _OUT
        if flow.state == CLOSED:
            events |= _HUP if not flow.error else _HUP | _ERR
        return events

    # --- inside

    def _open_real(self):
        if self._real is None:
            self._real = original.socket(self._family, self._type)
            self._real.settimeout(self._timeout)
            for option in self._options:
                self._real.setsockopt(*option)
        return self._real

    def _set_flow(self, flow):
        self._flow = flow
        if self._keepalive and hasattr(flow, "set_keepalive"):
            flow.set_keepalive(True, clock())

    def _locked(self, action, *arguments):
        """`action(*arguments, now)` under the tunnel's lock."""
        lock = self._tunnel.lock if self._tunnel is not None else tunnel.lock
        lock.acquire()
        try:
            return action(*arguments, clock())
        finally:
            lock.release()

    def _open_udp(self, size, port, now):
        self._set_flow(tunnel.stack.open_udp(size, port))

    def _open_tcp(self, remote, port, now):
        self._set_flow(tunnel.stack.connect(remote, now, port))

    def _open_listener(self, port, backlog, now):
        self._set_flow(tunnel.stack.listen(port, backlog))

    def _pump(self):
        if tunnel is not None:
            tunnel.pump()

    def _wait(self, condition):
        """Pump until `condition()`; raises EAGAIN or ETIMEDOUT as the timeout says."""
        self._pump()
        if condition():
            return
        if self._flow is None and self._real is None:
            raise OSError(_ENOTCONN)
        if self._timeout == 0:
            raise OSError(errno.EAGAIN)
        left = None if self._timeout is None else int(self._timeout * 1000)
        before = clock()
        while not condition():
            if tunnel is None:
                raise OSError(errno.ECONNABORTED)
            if self._generation != tunnel.generation:
                self._generation, self._poller = tunnel.generation, tunnel.poller()
            wait = 1000 if left is None else left
            if self._real is not None:
                wait = min(wait, 20)  # two sides to look at
            tunnel.wait(self._poller, wait)
            self._pump()
            if left is not None:
                now = clock()
                left -= ticks.diff(now, before)
                before = now
                if left <= 0 and not condition():
                    raise OSError(errno.ETIMEDOUT)

    def _is_connected(self):
        return self._flow.state != SYN_SENT

    def _can_send(self):
        return self._flow.can_write or self._flow.state == CLOSED

    def _can_accept(self):
        if isinstance(self._flow, Listener) and self._flow.ready:
            return True
        return self._real is not None and bool(_poll_once(self._real))

    def _can_receive(self):
        flow = self._flow
        if flow is None:
            return self._real is not None and bool(_poll_once(self._real))
        if isinstance(flow, Endpoint):
            return bool(flow.queue or flow.error) or (self._real is not None and bool(_poll_once(self._real)))
        return flow.received.length > 0 or self._ended()

    def _ended(self):
        return self._flow.peer_closed or self._flow.state == CLOSED

    def _check(self):
        """Raises what has ended the connection, or ENOTCONN before it is one."""
        flow = self._flow
        if flow is None or self._closed:
            raise OSError(errno.EBADF if self._closed else _ENOTCONN)
        if flow.state == CLOSED:
            raise OSError(flow.error or errno.ECONNRESET)
        if flow.state not in (ESTABLISHED, CLOSE_WAIT) and self._timeout != 0 and flow.state > CLOSE_WAIT:
            raise OSError(32)  # EPIPE

    def _check_end(self):
        flow = self._flow
        if flow.error and not flow.peer_closed:
            raise OSError(flow.error)


def _poll_once(real):
    poller = select.poll()
    poller.register(real, select.POLLIN)
    return poller.poll(0)


def install(running):
    """From here on `import socket` gives this module, and sockets use the tunnel."""
    global tunnel
    tunnel = running
    this = sys.modules[__name__]
    sys.modules["socket"] = sys.modules["usocket"] = this


def uninstall():
    """Back to the original."""
    global tunnel
    tunnel = None
    sys.modules["socket"] = sys.modules["usocket"] = original
