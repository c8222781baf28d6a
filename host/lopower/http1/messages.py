"""What handlers get and give."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    import asyncio

    from lopower.http1.connection import ServerConnection


class HttpError(Exception):
    """The request is answered with an error.

    Attributes:
        status: 400 to 599.
        headers: further ones for the answer.
    """

    def __init__(self, status: int, text: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text or HTTPStatus(status).phrase)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_response(document: object, status: int = 200) -> Response:
    """A document as JSON."""
    return Response(status, json.dumps(document).encode(), "application/json; charset=utf-8")


# None: the handler has answered by itself, in parts.
Handler = Callable[["Request"], Awaitable[Response | None]]


class Request:
    """One request.

    Attributes:
        method: GET, POST, …
        path: decoded, without the query.
        segments: those of the path, each decoded.
        query: its parameters; the last of each name.
        headers: by name in lower case.
        parameters: the path's, by the name that the route gives them.
    """

    __slots__ = ("_connection", "headers", "method", "parameters", "path", "query", "segments")

    def __init__(self, connection: ServerConnection, method: str, target: str, headers: Mapping[str, str]) -> None:
        self._connection = connection
        self.method = method
        self.headers = headers
        self.parameters: dict[str, str] = {}
        try:
            parts = urlsplit(target)
            self.query = dict(parse_qsl(parts.query, keep_blank_values=True, max_num_fields=32))
        except ValueError:
            raise HttpError(400, "the request's target is malformed") from None
        self.path = unquote(parts.path)
        self.segments = tuple(map(unquote, parts.path.split("/")[1:]))

    @property
    def transport(self) -> asyncio.Transport:
        """The connection's; its `get_extra_info` says who asks."""
        return self._connection.transport

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, however long it is."""
        return self._connection.chunks()

    async def read(self) -> bytes:
        """The whole body.

        Raises:
            HttpError: it is longer than the server takes.
        """
        body = bytearray()
        async for chunk in self.chunks():
            body += chunk
            if len(body) > self._connection.server.max_body:
                raise HttpError(413, f"the request is larger than {self._connection.server.max_body} bytes")
        return bytes(body)

    async def begin(self, content_type: str) -> Callable[[bytes], Awaitable[None]]:
        """Begin an answer in parts, with status 200; what is returned sends one, and waits while the client is slow.

        That raises ConnectionError once the client is gone. The answer ends when the handler returns None.
        """
        return await self._connection.begin(content_type)


class Routes:
    """Handlers by method and path.

    Args:
        entries: method, path and handler; a segment `{name}` is any one, and the request's parameter `name`.

    Attributes:
        names: method and path of each.
    """

    def __init__(self, *entries: tuple[str, str, Handler]) -> None:
        self.names = [(method, path) for method, path, _ in entries]
        self._entries = [(method, path.split("/")[1:], handler) for method, path, handler in entries]

    async def __call__(self, request: Request) -> Response | None:
        """Have the handler for a request answer.

        Raises:
            HttpError: there is none (404), or none for this method (405).
        """
        methods = set()
        method = "GET" if request.method == "HEAD" else request.method
        for allowed, pattern, handler in self._entries:
            parameters = _match(pattern, request.segments)
            if parameters is not None:
                methods.add(allowed)
                if allowed == method:
                    request.parameters = parameters
                    return await handler(request)
        if methods:
            raise HttpError(405, headers={"Allow": ", ".join(sorted(methods))})
        raise HttpError(404)


def _match(pattern: list[str], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    parameters: dict[str, str] = {}
    for wanted, segment in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            if not segment:
                return None
            parameters[wanted[1:-1]] = segment
        elif wanted != segment:
            return None
    return parameters
