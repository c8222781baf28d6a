"""The serial line of a board: a pty, or a TCP port that speaks RFC 2217 and so has DTR and RTS."""

from __future__ import annotations

import ctypes
import os
import pty
import selectors
import socket
import struct
import time
import tty
from collections.abc import Callable
from typing import Any, Final, Protocol

MAX_QUEUED: Final = 1 << 20
"""Bytes for a host that has the port open and does not read; a read of the flash comes in pieces of this order."""

STALLED_AFTER: Final = 2.0
"""Seconds without reading after which what is queued is lost: a board does not wait for its terminal."""

_CHUNK: Final = 1 << 14
_IN_OPEN: Final = 0x20
_IN_CLOSE: Final = 0x18  # IN_CLOSE_WRITE | IN_CLOSE_NOWRITE
_EVENT: Final = struct.Struct("iIII")


class Host(Protocol):
    """What a line tells the board."""

    def received(self, data: bytes) -> None:
        """Bytes from the host."""

    def controlled(self, dtr: bool, rts: bool) -> None:
        """The host has set its control lines."""

    def hung_up(self) -> None:
        """The host has closed the port."""


class Line(Protocol):
    """One serial line.

    Attributes:
        url: what esptool, mpremote and pyserial call the port.
    """

    url: str

    @property
    def congested(self) -> bool:
        """Whether more than the host takes is on its way."""

    def write(self, data: bytes) -> None:
        """Send; lost if nobody has the port open."""

    def close(self) -> None:
        """Take the port away."""


class PtyLine:
    """A pseudo-terminal. It has no control lines; when a host opens and closes it is seen by inotify.

    The board's own descriptor of the slave stays open: with the last one the kernel would turn echo on again.
    """

    def __init__(self, host: Host, selector: selectors.BaseSelector) -> None:
        self._host = host
        self._selector = selector
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.url = os.ttyname(self._slave)
        self._watch = _inotify(self.url)
        self._openers = 0
        self._queue = _Queue(self._write)
        selector.register(self._master, selectors.EVENT_READ, self._ready)
        selector.register(self._watch, selectors.EVENT_READ, self._watched)

    @property
    def congested(self) -> bool:
        return self._queue.congested()

    def write(self, data: bytes) -> None:
        self._watched(selectors.EVENT_READ)
        if self._openers > 0:
            self._queue.put(data)
            self._wanted()

    def close(self) -> None:
        for descriptor in (self._master, self._watch):
            self._selector.unregister(descriptor)
            os.close(descriptor)
        os.close(self._slave)

    def _write(self, data: bytes) -> int:
        return os.write(self._master, data)

    def _wanted(self) -> None:
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._queue else 0)
        self._selector.modify(self._master, events, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._queue.flush()
            self._wanted()
        if events & selectors.EVENT_READ:
            try:
                data = os.read(self._master, _CHUNK)
            except BlockingIOError:
                return
            # What a host wrote before it hung up comes before that it did.
            self._host.received(data)

    def _watched(self, events: int) -> None:
        closed = 0
        while True:
            try:
                data = os.read(self._watch, 4096)
            except BlockingIOError:
                break
            while data:
                _, mask, _, length = _EVENT.unpack_from(data)
                data = data[_EVENT.size + length :]
                if mask & _IN_OPEN:
                    self._openers += 1
                elif mask & _IN_CLOSE:
                    self._openers = max(0, self._openers - 1)
                    closed += 1
        if self._openers == 0:
            self._queue.clear()
        if closed:
            self._ready(selectors.EVENT_READ)
            self._host.hung_up()


class Rfc2217Line:
    """A TCP port on loopback with telnet's COM-PORT-OPTION (RFC 2217); one host at a time, others are sent away."""

    def __init__(
        self, host: Host, selector: selectors.BaseSelector, *, address: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._host = host
        self._selector = selector
        self._listener = socket.create_server((address, port))
        self._listener.setblocking(False)
        self.url = f"rfc2217://{address}:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None
        self._manager: Any = None
        self._queue = _Queue(self._write)
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def congested(self) -> bool:
        return self._queue.congested()

    def write(self, data: bytes) -> None:
        if self._connection is not None:
            self._queue.put(b"".join(self._manager.escape(data)))
            self._wanted()

    def close(self) -> None:
        self._drop()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self, events: int) -> None:
        from serial.rfc2217 import PortManager

        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if self._connection is not None:
            connection.close()
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._selector.register(connection, selectors.EVENT_READ, self._ready)
        self._manager = PortManager(_ControlLines(self._host.controlled), _Writer(self._queue))
        self._wanted()

    def _write(self, data: bytes) -> int:
        assert self._connection is not None
        return self._connection.send(data)

    def _wanted(self) -> None:
        if self._connection is not None:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._queue else 0)
            self._selector.modify(self._connection, events, self._ready)

    def _ready(self, events: int) -> None:
        assert self._connection is not None
        try:
            if events & selectors.EVENT_WRITE:
                self._queue.flush()
            if events & selectors.EVENT_READ:
                data = self._connection.recv(_CHUNK)
                if not data:
                    return self._hang_up()
                self._filter(data)
        except BlockingIOError:
            pass
        except OSError:
            return self._hang_up()
        self._wanted()
        return None

    def _filter(self, data: bytes) -> None:
        """In order: bytes that came before a control line was set are received before it is."""
        received = bytearray()
        try:
            for byte in self._manager.filter(data):
                received += byte
        except (ValueError, IndexError, struct.error):  # telnet options that are none
            pass
        if received:
            self._host.received(bytes(received))

    def _hang_up(self) -> None:
        self._drop()
        self._host.controlled(False, False)
        self._host.hung_up()

    def _drop(self) -> None:
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = self._manager = None
            self._queue.clear()


class _Queue:
    """What is on its way to the host."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self._data = bytearray()
        self._progress = 0.0
        self._stalled = False

    def congested(self) -> bool:
        """Whether to wait for the host; not for one that has not read for long."""
        if self._data and time.monotonic() - self._progress > STALLED_AFTER:
            self._stalled = True
            self._data.clear()
        return bool(self._data)

    def __bool__(self) -> bool:
        return bool(self._data)

    def put(self, data: bytes) -> None:
        """Queue, and send what can be sent."""
        if not self._data and not self._stalled:
            self._progress = time.monotonic()
        elif len(self._data) > MAX_QUEUED:
            self._data.clear()
        self._data += data
        self.flush()
        if self._stalled:
            self._data.clear()

    def flush(self) -> None:
        try:
            while self._data:
                sent = self._write(bytes(self._data[:_CHUNK]))
                del self._data[:sent]
                self._progress = time.monotonic()
                self._stalled = False
        except BlockingIOError:
            pass
        except OSError:  # the host is gone; reading says so too
            self._data.clear()

    def clear(self) -> None:
        self._data.clear()


class _Writer:
    """What PortManager answers goes the same way."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue

    def write(self, data: bytes) -> None:
        self._queue.put(data)


class _ControlLines:
    """The port that PortManager sets up: of all settings the two control lines matter."""

    baudrate = 115200
    bytesize = 8
    parity = "N"
    stopbits = 1
    xonxoff = rtscts = False
    timeout = 0
    break_condition = False
    cts = dsr = ri = cd = False

    def __init__(self, changed: Callable[[bool, bool], None]) -> None:
        self._changed = changed
        self._dtr = self._rts = False

    @property
    def dtr(self) -> bool:
        return self._dtr

    @dtr.setter
    def dtr(self, value: bool) -> None:
        self._dtr = bool(value)
        self._changed(self._dtr, self._rts)

    @property
    def rts(self) -> bool:
        return self._rts

    @rts.setter
    def rts(self, value: bool) -> None:
        self._rts = bool(value)
        self._changed(self._dtr, self._rts)

    def get_settings(self) -> dict[str, Any]:
        return {}

    def apply_settings(self, settings: dict[str, Any]) -> None:
        """A simulated line has no speed."""

    def reset_input_buffer(self) -> None:
        """Nothing is held."""

    def reset_output_buffer(self) -> None:
        """Nothing is held."""


def _inotify(path: str) -> int:
    """A descriptor that is readable when `path` was opened or closed. Raises OSError where there is no inotify."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0 or library.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN | _IN_CLOSE) < 0:
        raise OSError(ctypes.get_errno(), "inotify watches the pty of a virtual board, and cannot")
    return descriptor
