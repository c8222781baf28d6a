"""Flows from the tailnet: the sidecar connects for each, says who wants what, and waits for one byte."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from lopower.tailnet.driver import IPAddress, UdpSocket
from lopower.tailnet.tsnet_streams import TLV_NODE, FramedUdp
from lopower.wire.proxy_protocol import FIXED_LENGTH, ProxyHeader, ProxyHeaderError, Transport, header_length

log = logging.getLogger(__name__)

# What the proxy's own node is called between us and the sidecar.
PROXY_NODE: Final = "proxy"
TLV_NAME: Final = 0xE2
TLV_USER: Final = 0xE3
TLV_TAGS: Final = 0xE4
_ACCEPT: Final = b"\x00"
_REFUSE: Final = b"\x01"
_ACCEPT_TLS: Final = b"\x02"
# The header is written whole before anything else: who has not sent it by now never will.
_HEADER_SECONDS: Final = 5.0
_BACKLOG: Final = 1024
# Flows whose header is awaited. The sidecar is ours; this is against its faults.
MAX_WAITING: Final = 4096


class InboundDatagrams(UdpSocket, Protocol):
    """The datagrams of one peer."""

    def send_notice(self, code: int) -> None:
        """Say what became of the peer's latest datagrams, with a reply code, where that can be said."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class InboundRequest:
    """One flow that somebody in the tailnet wants to a device.

    Attributes:
        node: which of our nodes it arrived at.
        transport: tcp or udp.
        source, source_port: who.
        destination, destination_port: what was asked for: an address of the node's, or one behind its routes.
        name, user, tags: the node that `source` belongs to, as far as the tailnet knows.
        stream: connected and non-blocking; owned by whoever answers.
    """

    node: str
    transport: Transport
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int
    name: str
    user: str
    tags: tuple[str, ...]
    stream: socket.socket

    def accept(self, *, tls: bool = False) -> None:
        """Have the peer answered; the stream carries the flow from now on. Nothing is raised: a lost stream shows.

        With `tls` the node ends TLS with its certificate, and the stream carries what is inside. TCP only.
        """
        with contextlib.suppress(OSError):
            self.stream.send(_ACCEPT_TLS if tls else _ACCEPT)

    def refuse(self) -> None:
        """Have the peer told that nobody listens. The stream is left to its owner."""
        with contextlib.suppress(OSError):
            self.stream.send(_REFUSE)

    def peer_gave_up(self) -> bool:
        """Whether the peer wants nothing any more; asked when the stream ends before it was accepted."""
        return True

    def datagrams(self) -> InboundDatagrams:
        """The peer's datagrams, once they were accepted; it owns the stream from now on."""
        return FramedUdp(self.stream, answered=True)


class InboundListener:
    """Takes the sidecar's connections.

    Args:
        path: where to listen; the directory is ours alone.
        opened: called on the loop with each flow.
    """

    def __init__(self, path: Path, opened: Callable[[InboundRequest], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened = opened
        self._waiting: dict[socket.socket, tuple[bytearray, asyncio.TimerHandle]] = {}
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listening.setblocking(False)
            self._listening.bind(str(path))
            self._listening.listen(_BACKLOG)
        except BaseException:
            self._listening.close()
            raise
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Listen no longer; what is not answered yet is refused."""
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()
        for stream in list(self._waiting):
            self._drop(stream)

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:  # none is left; or there is no descriptor for it, and the next turn tries again
                return
            if len(self._waiting) >= MAX_WAITING:
                stream.close()
                continue
            stream.setblocking(False)
            timer = self._loop.call_later(_HEADER_SECONDS, self._drop, stream)
            self._waiting[stream] = (bytearray(), timer)
            self._loop.add_reader(stream.fileno(), self._read, stream)
            self._read(stream)

    def _read(self, stream: socket.socket) -> None:
        held, timer = self._waiting[stream]
        try:
            while True:
                size = header_length(bytes(held)) if held else None
                if size is not None and len(held) == size:
                    header = ProxyHeader.parse(bytes(held))
                    break
                data = stream.recv((FIXED_LENGTH if size is None else size) - len(held))
                if not data:
                    self._drop(stream)
                    return
                held += data
        except BlockingIOError:
            return
        except (OSError, ProxyHeaderError) as exc:
            log.warning("an inbound flow of the sidecar cannot be understood: %s", exc)
            self._drop(stream)
            return
        timer.cancel()
        del self._waiting[stream]
        self._loop.remove_reader(stream.fileno())
        self._opened(_request(header, stream))

    def _drop(self, stream: socket.socket) -> None:
        _, timer = self._waiting.pop(stream)
        timer.cancel()
        self._loop.remove_reader(stream.fileno())
        stream.close()


def _request(header: ProxyHeader, stream: socket.socket) -> InboundRequest:
    def text(kind: int) -> str:
        return (header.value(kind) or b"").decode("utf-8", "replace")

    return InboundRequest(
        node=text(TLV_NODE),
        transport=header.transport,
        source=header.source,
        source_port=header.source_port,
        destination=header.destination,
        destination_port=header.destination_port,
        name=text(TLV_NAME),
        user=text(TLV_USER),
        tags=tuple(tag for tag in text(TLV_TAGS).split(",") if tag),
        stream=stream,
    )
