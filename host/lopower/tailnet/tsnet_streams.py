"""Flows through the sidecar's unix sockets: a TCP dial by SOCKS5, and UDP datagrams with their lengths in front."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lopower.tailnet.driver import (
    DialError,
    DialForbidden,
    DialRefused,
    DialUnreachable,
    IPAddress,
)
from lopower.wire import socks5
from lopower.wire.proxy_protocol import ProxyHeader
from lopower.wire.socks5 import ReplyReader, SocksError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LENGTH: Final = struct.Struct("!H")
MAX_DATAGRAM: Final = 65_507
NOTICE: Final = 65_535  # in the place of a length: one byte follows, a reply code
TLV_NODE: Final = 0xE0
# Read at a time: many datagrams of the usual size for one system call, and always the longest and the next one's head.
_READ_BYTES: Final = 128 << 10

_REPLIES: Final[dict[int, Callable[[str], DialError]]] = {
    socks5.NOT_ALLOWED: DialForbidden,
    socks5.NETWORK_UNREACHABLE: DialUnreachable,
    socks5.HOST_UNREACHABLE: DialUnreachable,
    socks5.CONNECTION_REFUSED: DialRefused,
    socks5.TTL_EXPIRED: DialUnreachable,
}
_REPLY_TEXTS: Final = {
    socks5.NOT_ALLOWED: "the tailnet has no node and no accepted route there, or its ACLs refuse it",
    socks5.NETWORK_UNREACHABLE: "this node is not in the tailnet at the moment",
    socks5.HOST_UNREACHABLE: "the tailnet's node, or a router behind it, says that it cannot be reached",
    socks5.CONNECTION_REFUSED: "the tailnet's node refused the connection",
    socks5.TTL_EXPIRED: "the tailnet's node is offline, or did not answer",
}


def connect(path: Path) -> socket.socket:
    """A non-blocking stream to one of the sidecar's sockets.

    Raises:
        DialError: it does not listen, or has more connections waiting than it can take.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.setblocking(False)
    try:
        made.connect(str(path))
    except BlockingIOError:
        made.close()
        raise DialError("the tailnet's sidecar is too busy to take another connection") from None
    except OSError as exc:
        made.close()
        raise DialUnreachable(f"the tailnet's sidecar does not listen: {exc.strerror}") from None
    return made


class TsnetTcpDial:
    """A connection that the sidecar is making.

    Attributes:
        socket: the stream; once `advance` said True it carries the connection's bytes, and nothing else was read of it.
    """

    __slots__ = ("_reader", "socket")

    def __init__(self, path: Path, node: str, destination: IPAddress, port: int) -> None:
        self.socket = connect(path)
        self._reader = ReplyReader()
        try:
            # A fresh stream's buffer takes these few bytes whole.
            self.socket.send(socks5.connect_messages(node, node, destination, port))
        except OSError as exc:
            self.socket.close()
            raise DialUnreachable(f"the tailnet's sidecar does not listen: {exc.strerror}") from None

    def advance(self) -> bool:
        """As `TcpDial.advance`."""
        reader = self._reader
        try:
            while True:
                data = self.socket.recv(reader.wanted)
                if not data:
                    raise DialUnreachable("the tailnet's sidecar ended")
                if reader.feed(data):
                    break
        except BlockingIOError:
            return False
        except OSError:
            raise DialUnreachable("the tailnet's sidecar ended") from None
        except SocksError as exc:
            raise DialError(f"the tailnet's sidecar: {exc}") from None
        code = reader.code or socks5.SUCCEEDED
        if code == socks5.SUCCEEDED:
            return True
        raise _REPLIES.get(code, DialError)(_REPLY_TEXTS.get(code, f"the tailnet's sidecar failed (code {code})"))


def reply_error(code: int) -> int:
    """The `errno` that stands for a reply code on a UDP flow."""
    return _ERRNOS.get(code, errno.EIO)


_ERRNOS: Final = {
    socks5.NOT_ALLOWED: errno.EACCES,
    socks5.NETWORK_UNREACHABLE: errno.ENETUNREACH,
    socks5.HOST_UNREACHABLE: errno.EHOSTUNREACH,
    socks5.CONNECTION_REFUSED: errno.ECONNREFUSED,
    socks5.TTL_EXPIRED: errno.EHOSTUNREACH,
}


class FramedUdp:
    """Datagrams in frames over a stream, with the calls of a connected, non-blocking UDP socket.

    An error that came back for an earlier datagram is raised by `recv_into` as the kernel would, once, and the flow
    stays open. The end of the stream is an EOFError: the flow is over.

    Args:
        stream: the connected stream, non-blocking; owned from now on.
        answered: False: a reply code comes before the first frame.
    """

    __slots__ = ("_answered", "_buffer", "_end", "_start", "_stream", "_unsent", "_view")

    def __init__(self, stream: socket.socket, *, answered: bool) -> None:
        self._stream = stream
        self._answered = answered
        self._unsent = b""
        # Made when the first byte is read: most flows of devices are one question and one answer.
        self._buffer: bytearray | None = None
        self._view = memoryview(b"")
        self._start = self._end = 0

    def fileno(self) -> int:
        """As `socket.socket.fileno`."""
        return self._stream.fileno()

    def close(self) -> None:
        """As `socket.socket.close`."""
        self._stream.close()

    def send(self, payload: Buffer) -> int:
        """Send one datagram: all of it, or BlockingIOError and nothing.

        Raises:
            BlockingIOError: the stream is full.
            OSError: EMSGSIZE for a datagram that is longer than UDP permits.
            EOFError: the stream has ended.
        """
        view = memoryview(payload)
        size = view.nbytes
        if size > MAX_DATAGRAM:
            raise OSError(errno.EMSGSIZE, "too long for a datagram")
        if self._unsent:
            self.flush()
            if self._unsent:
                raise BlockingIOError(errno.EAGAIN, "the stream is full")
        try:
            sent = self._stream.sendmsg((_LENGTH.pack(size), view))
        except BlockingIOError:
            raise
        except OSError:
            raise EOFError("the stream has ended") from None
        if sent < _LENGTH.size + size:
            # The kernel took a part of it; the rest leaves when there is room again.
            self._unsent = (_LENGTH.pack(size) + bytes(view))[sent:]
        return size

    def send_notice(self, code: int) -> None:
        """Say what became of the other side's latest datagrams, with a reply code; dropped if there is no room."""
        if not self._unsent:
            with contextlib.suppress(OSError):
                self._stream.send(_LENGTH.pack(NOTICE) + bytes((code,)))

    def flush(self) -> None:
        """Send what is left of a datagram, if something is; to be called when there is room to write.

        Raises:
            EOFError: the stream has ended.
        """
        while self._unsent:
            try:
                sent = self._stream.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:
                raise EOFError("the stream has ended") from None
            self._unsent = self._unsent[sent:]

    def recv_into(self, slot: memoryview[int]) -> int:
        """Receive one datagram; its length.

        Raises:
            BlockingIOError: there is none.
            OSError: what became of an earlier datagram of ours.
            EOFError: the stream has ended.
        """
        while True:
            size = self._next(slot)
            if size is not None:
                return size
            self._read()

    def _next(self, slot: memoryview[int]) -> int | None:
        """The next whole datagram of what was read, or None."""
        start, available = self._start, self._end - self._start
        if not self._answered:
            if not available:
                return None
            self._answered = True
            self._start += 1
            code = self._view[start]
            if code:
                raise OSError(reply_error(code), "the sidecar refused the flow")
            return self._next(slot)
        if available < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._view, start)
        if size == NOTICE:
            if available < _LENGTH.size + 1:
                return None
            self._start = start + _LENGTH.size + 1
            raise OSError(reply_error(self._view[start + _LENGTH.size]), "an error came back")
        if available < _LENGTH.size + size:
            return None
        first = start + _LENGTH.size
        self._start = first + size
        slot[:size] = self._view[first : self._start]
        return int(size)

    def _read(self) -> None:
        if self._buffer is None:
            self._buffer = bytearray(_READ_BYTES)
            self._view = memoryview(self._buffer)
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start:
            kept = bytes(self._view[self._start : self._end])
            self._view[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        try:
            taken = self._stream.recv_into(self._view[self._end :])
        except BlockingIOError:
            raise
        except OSError:
            taken = 0
        if not taken:
            raise EOFError("the stream has ended")
        self._end += taken


def open_udp(path: Path, node: str, destination: IPAddress, port: int) -> FramedUdp:
    """A UDP flow to the tailnet, through the sidecar.

    Raises:
        DialError: the sidecar does not take it.
    """
    nowhere: IPAddress = IPv4Address(0) if destination.version == 4 else IPv6Address(0)
    header = ProxyHeader(
        transport="udp",
        source=nowhere,
        source_port=0,
        destination=destination,
        destination_port=port,
        tlvs=((TLV_NODE, node.encode()),),
    )
    stream = connect(path)
    try:
        stream.send(header.to_bytes())
    except OSError as exc:
        stream.close()
        raise DialUnreachable(f"the tailnet's sidecar does not listen: {exc.strerror}") from None
    return FramedUdp(stream, answered=False)
