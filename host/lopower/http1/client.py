"""A client of a server on a unix socket. Every request is a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final

import h11

_READ_BYTES: Final = 1 << 16
_MAX_BODY_BYTES: Final = 64 << 20


class ClientError(Exception):
    """There is no answer, or it is no HTTP; the text says why."""


class UnixClient:
    """Asks the server at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writers: set[asyncio.StreamWriter] = set()
        self._closed = False

    def close(self) -> None:
        """Give up what is under way."""
        self._closed = True
        for writer in self._writers:
            writer.transport.abort()

    async def request(self, method: str, target: str, document: object, timeout: float) -> tuple[int, bytes]:
        """Send a document as JSON, or nothing if it is None; the answer's status and body.

        Raises:
            ClientError: there is none, or not within `timeout` seconds.
        """
        body = bytearray()
        status = 0
        try:
            async with asyncio.timeout(timeout), contextlib.aclosing(self._events(method, target, document)) as events:
                async for event in events:
                    if isinstance(event, h11.Response):
                        status = event.status_code
                    else:
                        body += event.data
                        if len(body) > _MAX_BODY_BYTES:
                            raise ClientError("the answer is too long")
        except TimeoutError:
            raise ClientError(f"no answer within {timeout:g} s") from None
        return status, bytes(body)

    async def stream(self, target: str, silence: float) -> AsyncGenerator[bytes, None]:
        """The body at `target` as it comes, until it ends.

        Raises:
            ClientError: it breaks off, or nothing comes for `silence` seconds.
        """
        async with contextlib.aclosing(self._events("GET", target, None)) as events:
            while True:
                try:
                    async with asyncio.timeout(silence):
                        event = await anext(events, None)
                except TimeoutError:
                    raise ClientError(f"nothing came for {silence:g} s") from None
                if event is None:
                    return
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
                elif event.status_code != 200:
                    raise ClientError(f"status {event.status_code}")

    async def _events(self, method: str, target: str, document: object) -> AsyncGenerator[Any, None]:
        """The answer: h11's Response, then Data."""
        if self._closed:
            raise ClientError("closed")
        http = h11.Connection(h11.CLIENT)
        content = b"" if document is None else json.dumps(document).encode()
        headers = [("Host", "localhost"), ("Connection", "close"), ("Content-Length", str(len(content)))]
        if content:
            headers.append(("Content-Type", "application/json"))
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError as error:
            raise ClientError(error.strerror or str(error)) from None
        self._writers.add(writer)
        try:
            for event in (
                h11.Request(method=method, target=target, headers=headers),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                writer.write(http.send(event) or b"")
            await writer.drain()
            while True:
                answer = http.next_event()
                if answer is h11.NEED_DATA:
                    http.receive_data(await reader.read(_READ_BYTES))
                elif isinstance(answer, h11.Response | h11.Data):
                    yield answer
                elif not isinstance(answer, h11.InformationalResponse):
                    return
        except (OSError, h11.ProtocolError) as error:
            raise ClientError(str(error) or "the connection broke") from None
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
