"""Bytes both ways between a request of the control API and a socket, until either side has no more to say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

_CHUNK = 1 << 16


async def join(content: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]], device: socket.socket) -> None:
    """Copy until the device closes. The end of the request's body is passed on; that the client went away ends it."""
    reader, writer = await asyncio.open_connection(sock=device)
    upward = asyncio.ensure_future(_up(content, writer))
    try:
        while data := await reader.read(_CHUNK):
            await write(data)
    except ConnectionError:
        pass  # either side went away: the other learns of it by its socket's end
    finally:
        upward.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await upward
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _up(content: AsyncIterator[bytes], writer: asyncio.StreamWriter) -> None:
    async for data in content:
        writer.write(data)
        await writer.drain()
    writer.write_eof()
