"""Echo requests of the gateway's own, for `lopower ping`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from lopower.netstack.events import EchoReplyReceived

if TYPE_CHECKING:
    from lopower.netstack.stack import Stack

# Requests that wait for their answer, of all administrators together.
MAX_WAITING: Final = 256
PAYLOAD: Final = bytes(range(56))


class GatewayPing:
    """Sends echo requests from the gateway's addresses, and finds the replies' requests."""

    def __init__(
        self, stack: Stack, identifier: int, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:  # fmt: skip
        self._stack = stack
        self._identifier = identifier
        self._clock = clock
        self._wake = wake
        self._sequences: Iterator[int] = count(1)
        self._waiting: dict[tuple[bytes, int], asyncio.Future[float]] = {}

    async def ping(self, peer: Any, source: bytes, destination: bytes, timeout: float) -> float | None:
        """One request to `destination` (packed), which `peer` has; the round trip in seconds, or None without answer.

        Raises:
            RuntimeError: too many requests wait already.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise RuntimeError("too many pings are under way")
        sequence = next(self._sequences) & 0xFFFF
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[destination, sequence] = future
        began = self._clock()
        try:
            self._stack.send_echo_request(peer, source, destination, self._identifier, sequence, PAYLOAD, began)
            self._wake()
            async with asyncio.timeout(timeout):
                return await future - began
        except TimeoutError:
            return None
        finally:
            del self._waiting[destination, sequence]

    def reply(self, event: EchoReplyReceived, now: float) -> None:
        """A device answered the gateway."""
        future = self._waiting.get((event.source, event.sequence))
        if future is not None and event.identifier == self._identifier and not future.done():
            future.set_result(now)
