"""The server: protocols for whatever listens, and their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from lopower.http1.connection import ServerConnection
from lopower.http1.messages import Handler, HttpError, Response

MAX_HEAD_BYTES: Final = 16 << 10
MAX_BODY_BYTES: Final = 1 << 20
IDLE_SECONDS: Final = 75.0


def plain_refusal(error: HttpError) -> Response:
    """An error as a line of text."""
    return Response(error.status, f"{error}\n".encode(), headers=error.headers)


class Server:
    """A protocol factory for `create_server`, or for transports of any kind.

    Args:
        handler: answers requests; what else than HttpError and ConnectionError it raises, is logged.
        loop: runs it.
        refuse: the form of errors.
        max_head: bytes of a request's line and headers.
        max_body: bytes of a body that is read whole.
        idle_seconds: how long a connection may be open before a request is there, and between two.

    Attributes:
        connections: those that are open.
        is_closing: no further requests are taken.
    """

    def __init__(
        self,
        handler: Handler,
        loop: asyncio.AbstractEventLoop,
        *,
        refuse: Callable[[HttpError], Response] = plain_refusal,
        max_head: int = MAX_HEAD_BYTES,
        max_body: int = MAX_BODY_BYTES,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self.handler = handler
        self.loop = loop
        self.refuse = refuse
        self.max_head = max_head
        self.max_body = max_body
        self.idle_seconds = idle_seconds
        self.connections: set[ServerConnection] = set()
        self.is_closing = False

    def __call__(self) -> ServerConnection:
        """The protocol of one connection."""
        return ServerConnection(self)

    async def close(self, timeout: float) -> None:
        """End all connections; what is being answered gets `timeout` seconds."""
        self.is_closing = True
        busy = [connection.task for connection in self.connections if not connection.is_idle]
        for connection in self.connections:
            if connection.is_idle:
                connection.task.cancel()
        if busy and timeout:
            await asyncio.wait(busy, timeout=timeout)
        tasks = [connection.task for connection in self.connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
