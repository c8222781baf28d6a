"""Resolvers, and how one is asked: over UDP and TCP, or through the tailnet. (Over HTTPS: `doh`.)

Against forged answers (RFC 5452): a socket of its own for each query, connected, so that the kernel drops what comes
from elsewhere and draws the port; a random id; and an answer must repeat the question. Whatever does not fit is counted
and passed over, and after a few of those the query goes on over TCP, where guessing does not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from lopower.dns.config import ServerAddress
from lopower.dns.message import FORMERR, MAX_MESSAGE_BYTES, NOTIMP, TC, MessageError, Question, Response, write_query

# A query or its answer may be lost; the resolver is asked again, at the same socket.
RESEND_SECONDS: Final = 1.0
# Wrong answers taken before TCP: a blind forger sends thousands.
MAX_WRONG_ANSWERS: Final = 8


class UpstreamError(Exception):
    """A resolver that gave no usable answer; the message says why, for people."""


class Upstream(Protocol):
    """One resolver.

    Attributes:
        name: for status and messages.
        counters: queries, answers, and what went wrong.
    """

    name: str
    counters: Counter[str]

    async def exchange(self, question: Question) -> Response:
        """Ask; the caller bounds the time by cancelling.

        Raises:
            UpstreamError: there will be no answer.
        """


class PlainUpstream:
    """A resolver at an address, asked over UDP, and over TCP if its answer is too large for that.

    Args:
        server: where it listens.
        entropy: for the queries' ids.
    """

    def __init__(self, server: ServerAddress, entropy: Callable[[int], bytes]) -> None:
        self.name = str(server)
        self.counters: Counter[str] = Counter()
        self._server = server
        self._entropy = entropy
        self._family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6

    async def exchange(self, question: Question) -> Response:
        """As `Upstream.exchange`. If TCP fails, what fitted into a datagram is returned, with TC set."""
        self.counters["queries"] += 1
        try:
            response = await self._over_udp(question, edns=True)
            if response is not None and response.rcode in (FORMERR, NOTIMP) and response.opt is None:
                self.counters["without_edns"] += 1
                response = await self._over_udp(question, edns=False)  # RFC 6891 section 7
            if response is None or response.flags & TC:
                self.counters["over_tcp"] += 1
                response = await self._over_tcp(question, response)
        except OSError as exc:
            self.counters["errors"] += 1
            raise UpstreamError(f"{self.name}: {exc.strerror or exc}") from None
        self.counters["answers"] += 1
        return response

    async def _over_udp(self, question: Question, *, edns: bool) -> Response | None:
        """The answer; None after too many wrong ones."""
        id_ = int.from_bytes(self._entropy(2), "big")
        query = write_query(id_, question, edns=edns)
        loop = asyncio.get_running_loop()
        with socket.socket(self._family, socket.SOCK_DGRAM) as connected:
            connected.setblocking(False)
            connected.connect((str(self._server.address), self._server.port))
            connected.send(query)

            resending = asyncio.create_task(self._resend(connected, query))
            try:
                for _ in range(MAX_WRONG_ANSWERS):
                    message = await loop.sock_recv(connected, MAX_MESSAGE_BYTES)
                    try:
                        response = Response(message)
                    except MessageError:
                        self.counters["malformed"] += 1
                        continue
                    if response.answers_to(id_, question):
                        return response
                    self.counters["wrong_answers"] += 1
            finally:
                resending.cancel()
        return None

    async def _resend(self, connected: socket.socket, query: bytes) -> None:
        """Repeat the query until cancelled."""
        while True:
            await asyncio.sleep(RESEND_SECONDS)
            self.counters["resent"] += 1
            with contextlib.suppress(OSError):  # an error that matters is the receiver's to see
                connected.send(query)

    async def _over_tcp(self, question: Question, truncated: Response | None) -> Response:
        id_ = int.from_bytes(self._entropy(2), "big")
        query = write_query(id_, question)
        writer = None
        try:
            reader, writer = await asyncio.open_connection(str(self._server.address), self._server.port)
            writer.write(len(query).to_bytes(2, "big") + query)
            message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            response = Response(message)
        except (OSError, EOFError, MessageError) as exc:
            self.counters["tcp_errors"] += 1
            if truncated is not None:
                return truncated
            raise UpstreamError(f"{self.name}: over TCP: {exc}") from None
        finally:
            if writer is not None:
                writer.transport.abort()  # nothing more is to be said, and a resolver must not keep us waiting
        if not response.answers_to(id_, question):
            self.counters["wrong_answers"] += 1
            raise UpstreamError(f"{self.name}: answered another question over TCP")
        return response


class TailnetUpstream:
    """The tailnet's resolver, behind the driver.

    Args:
        query: sends one DNS message and returns the answer; whatever it raises means that there is none.
        entropy: for the queries' ids.
    """

    name = "tailnet"

    def __init__(self, query: Callable[[bytes], Awaitable[bytes]], entropy: Callable[[int], bytes]) -> None:
        self.counters: Counter[str] = Counter()
        self._query = query
        self._entropy = entropy

    async def exchange(self, question: Question) -> Response:
        """As `Upstream.exchange`."""
        self.counters["queries"] += 1
        id_ = int.from_bytes(self._entropy(2), "big")
        try:
            response = Response(await self._query(write_query(id_, question)))
        except Exception as exc:  # the driver's own errors, of whichever driver
            self.counters["errors"] += 1
            raise UpstreamError(f"tailnet: {exc}") from exc
        if not response.answers_to(id_, question):
            self.counters["wrong_answers"] += 1
            raise UpstreamError("tailnet: answered another question")
        self.counters["answers"] += 1
        return response
