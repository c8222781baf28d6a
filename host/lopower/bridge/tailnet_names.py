"""DNS for the tailnet: what arrives at port 53 of the proxy's node is a question about the devices' names.

Nobody's but the tailnet's nodes reach this, and as the tailnet's ACLs permit. It is answered out of memory, by tasks of
its own, few for each node and in all, so that one which asks without end takes nothing from the others or the devices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lopower.tailnet.tsnet_streams import NOTICE

if TYPE_CHECKING:
    from lopower.tailnet.driver import IPAddress
    from lopower.tailnet.tsnet_inbound import InboundRequest

DNS_PORT: Final = 53
# A resolver takes a port for each question, and a crowd of clients asks through one. A node that keeps them all open.
MAX_FLOWS: Final = 512
MAX_FLOWS_PER_NODE: Final = 64
# Nothing more comes: a UDP flow is one question mostly; on TCP RFC 7766 (6.2.3) asks for seconds.
UDP_SECONDS: Final = 5.0
TCP_SECONDS: Final = 30.0
# A client that asks and does not take the answers.
_MAX_UNSENT: Final = 64 << 10
_LENGTH: Final = 2

log = logging.getLogger(__name__)

Answer = Callable[[bytes], bytes]


class TailnetNames:
    """Takes flows from the tailnet to port 53 while there is something to answer with.

    Args:
        loop: runs the tasks.
        counters: what happened.

    Attributes:
        answer: the response to a message, empty for none; None: there is no zone, and the port is like any other.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, counters: Counter[str]) -> None:
        self.answer: Answer | None = None
        self._loop = loop
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_node: Counter[IPAddress] = Counter()

    def opened(self, request: InboundRequest) -> bool:
        """A flow to port 53 came: True if it is ours."""
        if self.answer is None:
            return False
        if len(self._tasks) >= MAX_FLOWS or self._of_node[request.source] >= MAX_FLOWS_PER_NODE:
            self._counters["zone_limit"] += 1
            request.refuse()
            request.stream.close()
            return True
        request.accept()
        self._of_node[request.source] += 1
        task = self._loop.create_task(self._serve(request), name="dns for the tailnet")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, request.source))
        return True

    async def close(self) -> None:
        """End all flows."""
        self.answer = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None], source: IPAddress) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._counters["faults"] += 1
            log.error("internal error; a question of %s about names stays unanswered", source, exc_info=error)
        self._of_node[source] -= 1
        if not self._of_node[source]:
            del self._of_node[source]

    async def _serve(self, request: InboundRequest) -> None:
        udp = request.transport == "udp"
        try:
            reader, writer = await asyncio.open_connection(sock=request.stream)
        except BaseException:
            request.stream.close()
            raise
        writer.transport.set_write_buffer_limits(high=_MAX_UNSENT)
        seconds = UDP_SECONDS if udp else TCP_SECONDS
        try:
            # A client that goes away in the middle, says nothing more or does not listen is the usual end.
            with contextlib.suppress(TimeoutError, OSError):
                try:
                    while True:
                        async with asyncio.timeout(seconds):
                            await self._exchange(reader, writer, udp)
                except asyncio.IncompleteReadError:
                    async with asyncio.timeout(seconds):
                        writer.write_eof()
                        writer.close()
                        await writer.wait_closed()
        finally:
            writer.transport.abort()  # closing alone would wait for ever for what is not taken

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, udp: bool) -> None:
        """One message and its answer. Frames of UDP and DNS over TCP look the same (RFC 1035 section 4.2.2)."""
        size = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        if udp and size == NOTICE:
            await reader.readexactly(1)
            return
        query = await reader.readexactly(size)
        self._counters["zone_queries"] += 1
        response = self.answer(query) if self.answer is not None else b""
        if response:
            writer.write(len(response).to_bytes(_LENGTH, "big") + response)
            await writer.drain()
