"""A TCP connection to a device, through the daemon: a request whose body and whose answer flow at the same time."""

from __future__ import annotations

import http.client
import threading
from typing import Final

from lopower.control.errors import ControlError

_MAX_CHUNK: Final = 1 << 16


class DeviceStream:
    """One connection. One thread may send while another one receives."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self._sending = threading.Lock()
        self._ended = False

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            ControlError: the connection has ended.
        """
        for at in range(0, len(data), _MAX_CHUNK):
            part = data[at : at + _MAX_CHUNK]
            self._send(b"%x\r\n%b\r\n" % (len(part), part))

    def end(self) -> None:
        """Send no more; the device sees the end.

        Raises:
            ControlError: the connection has ended.
        """
        if not self._ended:
            self._ended = True
            self._send(b"0\r\n\r\n")

    def receive(self, size: int = 1 << 16) -> bytes:
        """What came, up to `size` bytes; empty at the end.

        Raises:
            ControlError: the connection broke, or nothing came for longer than the client's time-out.
        """
        try:
            return self._response.read1(size)
        except TimeoutError:
            raise ControlError("the device says nothing any more", "lopower ping tells whether it is there") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise ControlError(f"the connection to the device broke: {error}") from None

    def close(self) -> None:
        """Done; whoever receives is woken."""
        self._response.close()
        self._connection.close()

    def _send(self, data: bytes) -> None:
        sock = self._connection.sock
        try:
            with self._sending:
                if sock is None:
                    raise OSError("it is closed")
                sock.sendall(data)
        except OSError as error:
            raise ControlError(f"the connection to the device broke: {error}") from None
