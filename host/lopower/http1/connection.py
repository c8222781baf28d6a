"""One connection of a client: its requests, one after the other, in a task that ends with the connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import h11

from lopower.http1.messages import HttpError, Request, Response

if TYPE_CHECKING:
    from lopower.http1.server import Server

log = logging.getLogger(__name__)

# What has arrived and nobody has asked for yet; the socket's buffer holds the rest.
_MAX_WAITING: Final = 1 << 16
# The rest of a request that is answered already: a client that is still sending it would not see the answer.
_LINGER_SECONDS: Final = 5.0
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class ServerConnection(asyncio.Protocol):
    """See the module.

    Attributes:
        server: whose it is.
        transport: the way to the client.
        task: what answers; it ends with the connection.
        is_idle: between two requests.
    """

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self.is_idle = True
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=server.max_head)
        self._arrived = bytearray()
        self._news: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._lost = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)
        self.server.connections.add(self)
        self.task = self.server.loop.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`."""
        self._arrived += data
        if len(self._arrived) > _MAX_WAITING:
            self.transport.pause_reading()
        _wake(self._news)

    def pause_writing(self) -> None:
        """As `asyncio.Protocol`."""
        self._room = self.server.loop.create_future()

    def resume_writing(self) -> None:
        """As `asyncio.Protocol`."""
        _wake(self._room)
        self._room = None

    def connection_lost(self, error: Exception | None) -> None:
        """As `asyncio.Protocol`: nobody waits for an answer any more."""
        self._lost = True
        self.server.connections.discard(self)
        self.task.cancel()

    # The task.

    async def _run(self) -> None:
        try:
            while await self._answer_one() and not self.server.is_closing:
                self._http.start_next_cycle()
        except (ConnectionError, h11.ProtocolError, TimeoutError):
            pass  # the client went away, or stopped speaking HTTP
        finally:
            self.transport.close()

    async def _answer_one(self) -> bool:
        """Answer the next request; True if another one may follow."""
        self.is_idle = True
        try:
            async with asyncio.timeout(self.server.idle_seconds):
                event = await self._next_event()
        except h11.RemoteProtocolError as error:
            self.is_idle = False
            self._respond(self.server.refuse(HttpError(error.error_status_hint, str(error))), "")
            return False
        if not isinstance(event, h11.Request):
            return False
        self.is_idle = False
        method = event.method.decode("ascii")
        response = await self._handle(method, event)
        if response is not None:
            self._respond(response, method)
        else:
            self._send(h11.EndOfMessage())
        await self._drain()
        return await self._finish_request()

    async def _handle(self, method: str, event: h11.Request) -> Response | None:
        try:
            headers: dict[str, str] = {}
            for name, value in event.headers:
                key, text = name.decode("ascii"), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
            return await self.server.handler(Request(self, method, event.target.decode("ascii"), headers))
        except HttpError as error:
            return self.server.refuse(error)
        except h11.RemoteProtocolError as error:
            return self.server.refuse(HttpError(error.error_status_hint, str(error)))
        except ConnectionError:
            raise
        except Exception:
            # The traceback stays here: it may show more than the client should see.
            log.exception("internal error while answering %s %s", method, event.target[:200])
            return self.server.refuse(HttpError(500))

    async def _finish_request(self) -> bool:
        """Read what the handler did not want to; True if that was all."""
        if self._http.they_are_waiting_for_100_continue:
            return False
        async with asyncio.timeout(_LINGER_SECONDS):
            async for _ in self.chunks():
                pass
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    # What requests use.

    async def chunks(self) -> AsyncIterator[bytes]:
        """The rest of the request's body."""
        while self._http.their_state is h11.SEND_BODY:
            if self._http.they_are_waiting_for_100_continue:
                self._send(h11.InformationalResponse(status_code=100, headers=[]))
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def begin(self, content_type: str) -> Callable[[bytes], Awaitable[None]]:
        """As `Request.begin`."""
        self._send(h11.Response(status_code=200, headers=_fields({"Content-Type": content_type})))
        await self._drain()
        return self._write

    async def _write(self, data: bytes) -> None:
        self._send(h11.Data(data=data))
        await self._drain()

    # HTTP.

    async def _next_event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if not self._arrived:
                self._news = self.server.loop.create_future()
                await self._news
            data, self._arrived = self._arrived, bytearray()
            self._http.receive_data(bytes(data))
            if not self.transport.is_reading():
                self.transport.resume_reading()
        return event

    def _respond(self, response: Response, method: str) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            raise ConnectionAbortedError  # the answer had begun: only its early end says that it is not whole
        fields = {"Content-Type": response.content_type, "Content-Length": str(len(response.body)), **response.headers}
        if self._http.their_state is h11.ERROR:
            fields["Connection"] = "close"  # h11 says so by itself only where it has understood the request
        reason = HTTPStatus(response.status).phrase.encode()
        self._send(h11.Response(status_code=response.status, reason=reason, headers=_fields(fields)))
        if method != "HEAD":
            self._send(h11.Data(data=response.body))
        self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> None:
        if self._lost:
            raise ConnectionResetError
        data = self._http.send(event)
        if data:
            self.transport.write(data)

    async def _drain(self) -> None:
        if self._room is not None:
            await self._room


def _wake(waiting: asyncio.Future[None] | None) -> None:
    if waiting is not None and not waiting.done():
        waiting.set_result(None)


def _fields(fields: dict[str, str]) -> list[tuple[str, str]]:
    """With the Date that RFC 9110 section 6.6.1 asks for, whatever the locale."""
    now = time.gmtime()
    clock = (
        f"{now.tm_mday:02d} {_MONTHS[now.tm_mon - 1]} {now.tm_year} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
    )
    return [("Date", f"{_DAYS[now.tm_wday]}, {clock} GMT"), *fields.items()]
