"""Questions to the tailnet's resolver: DNS messages in frames, many at a time on one connection to the sidecar."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from lopower.tailnet.driver import DialError, DialTimedOut, DialUnreachable

# The DNS server answers SERVFAIL within 5 s; the sidecar gives a resolver of the tailnet that long as well.
QUERY_SECONDS: Final = 4.5
# What the sidecar takes at a time; it stops reading beyond. Devices that ask for what nobody answers.
MAX_WAITING: Final = 64
_REFUSED: Final = 5


class TailnetResolver:
    """Asks the sidecar in a node's name. Connects when there is a question, and again after the connection was lost."""

    def __init__(self, path: Path, node: str) -> None:
        self._path = path
        self._node = node
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 0
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()

    async def query(self, message: bytes) -> bytes:
        """The answer to one DNS message, with its ID.

        Raises:
            DialError: there is none, or the name is not the tailnet's business.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise DialError("too many questions wait for the tailnet's resolver")
        loop = asyncio.get_running_loop()
        number = self._number()
        answer: asyncio.Future[bytes] = loop.create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(QUERY_SECONDS):
                writer = await self._connected()
                frame = len(message).to_bytes(2, "big") + number.to_bytes(2, "big") + message[2:]
                writer.write(frame)
                await writer.drain()
                found = await answer
        except TimeoutError:
            raise DialTimedOut(f"the tailnet's resolver did not answer within {QUERY_SECONDS:g} s") from None
        except OSError:
            raise DialUnreachable("the tailnet's sidecar does not answer") from None
        finally:
            del self._waiting[number]
        if found[3] & 0x0F == _REFUSED:
            raise DialError("the tailnet has no resolver for this name")
        return message[:2] + found[2:]

    async def close(self) -> None:
        """Give up what waits, and close the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _number(self) -> int:
        while True:
            self._next = (self._next + 1) & 0xFFFF
            if self._next not in self._waiting:
                return self._next

    async def _connected(self) -> asyncio.StreamWriter:
        async with self._connecting:
            if self._writer is None:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
                node = self._node.encode()
                writer.write(len(node).to_bytes(2, "big") + node)
                self._writer = writer
                self._reading = asyncio.get_running_loop().create_task(self._read(reader, writer))
            return self._writer

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                if len(answer) < 12:
                    continue
                waiting = self._waiting.get(int.from_bytes(answer[:2], "big"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            if self._writer is writer:
                self._writer = None
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionResetError())
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
