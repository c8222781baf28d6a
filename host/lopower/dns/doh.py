"""DNS over HTTPS (RFC 8484), for a host without a resolver of its own.

The resolvers are named by address, so that no name has to be resolved to reach them; their certificates hold those
addresses and are verified. aiohttp and the certificates are loaded with the first query, off the loop: most hosts never
need them.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lopower.dns.message import MAX_MESSAGE_BYTES, MessageError, Question, Response, write_query
from lopower.dns.upstreams import UpstreamError

if TYPE_CHECKING:
    import aiohttp

MEDIA_TYPE: Final = "application/dns-message"
# Connections to one resolver; HTTP/1.1 carries one query at a time on each.
MAX_CONNECTIONS: Final = 32
_KEEPALIVE_SECONDS: Final = 30.0


class HttpsClient:
    """The connections of all resolvers over HTTPS.

    Args:
        ca: certificates in PEM to trust; None: the system's.
    """

    def __init__(self, ca: Path | None) -> None:
        self._ca = ca
        self._session: asyncio.Task[aiohttp.ClientSession] | None = None

    async def session(self) -> aiohttp.ClientSession:
        """The session, made at its first use.

        Raises:
            OSError: the certificates cannot be read.
        """
        if self._session is None:
            self._session = asyncio.create_task(self._open())
        try:
            return await asyncio.shield(self._session)
        except OSError:
            self._session = None  # the file may be there the next time
            raise

    async def _open(self) -> aiohttp.ClientSession:
        aiohttp, context = await asyncio.to_thread(_load, self._ca)
        connector = aiohttp.TCPConnector(
            ssl=context, limit_per_host=MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_SECONDS
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)  # type: ignore[no-any-return]

    async def close(self) -> None:
        """Close all connections."""
        if self._session is None:
            return
        opening, self._session = self._session, None
        try:
            session = await opening
        except OSError:
            return
        await session.close()


def _load(ca: Path | None) -> tuple[Any, ssl.SSLContext]:
    context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return importlib.import_module("aiohttp"), context


class HttpsUpstream:
    """A resolver behind a URL.

    Args:
        url: `https://ADDRESS[:PORT]/PATH`.
        client: the connections.
    """

    def __init__(self, url: str, client: HttpsClient) -> None:
        self.name = url
        self.counters: Counter[str] = Counter()
        self._client = client

    async def exchange(self, question: Question) -> Response:
        """As `Upstream.exchange`."""
        self.counters["queries"] += 1
        try:
            response = await self._post(question)
        except (UpstreamError, MessageError) as exc:
            self.counters["errors"] += 1
            raise UpstreamError(f"{self.name}: {exc}") from None
        self.counters["answers"] += 1
        return response

    async def _post(self, question: Question) -> Response:
        try:
            session = await self._client.session()
        except OSError as exc:
            raise UpstreamError(f"certificates cannot be read: {exc}") from None
        import aiohttp

        headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE, "User-Agent": "lopower"}
        try:
            # RFC 8484 section 4.1: the id is zero, which caches like; TLS is what protects the answer.
            async with session.post(
                self.name, data=write_query(0, question), headers=headers, allow_redirects=False
            ) as reply:
                if reply.status != 200 or reply.content_type != MEDIA_TYPE:
                    raise UpstreamError(f"HTTP status {reply.status}, {reply.content_type}")
                message = await _read(reply.content)
                age = reply.headers.get("Age", "")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise UpstreamError(str(exc) or type(exc).__name__) from None
        response = Response(message)
        if not response.answers_to(0, question):
            self.counters["wrong_answers"] += 1
            raise UpstreamError("answered another question")
        return response.aged(int(age)) if age.isascii() and age.isdecimal() else response


async def _read(content: aiohttp.StreamReader) -> bytes:
    """The body, which must not be larger than any DNS message."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_MESSAGE_BYTES:
            raise UpstreamError("the answer is larger than a DNS message")
    return bytes(body)
