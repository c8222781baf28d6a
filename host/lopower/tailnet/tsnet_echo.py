"""Echo requests from the tailnet to devices: the sidecar asks for each, and answers the peer only if the device did."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, Literal

from lopower.tailnet.driver import IPAddress

log = logging.getLogger(__name__)

Verdict = Literal["answered", "unreachable", "prohibited", "silence"]

_VERDICTS: Final[dict[Verdict, int]] = {"answered": 0, "unreachable": 1, "prohibited": 2, "silence": 3}
_LENGTH: Final = struct.Struct("!H")
_HEAD: Final = struct.Struct("!IB")
_ANSWER: Final = struct.Struct("!HIB")
# What the sidecar has waiting at a time; beyond it we do not read on.
MAX_WAITING: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEcho:
    """One echo request that somebody in the tailnet sent to an address behind our routes."""

    number: int
    source: IPAddress
    destination: IPAddress

    @classmethod
    def parse(cls, frame: bytes) -> InboundEcho:
        """As the protocol's "Echo requests" has it; what the reply repeats stays with the sidecar.

        Raises:
            ValueError: the frame is something else.
        """
        if len(frame) < _HEAD.size:
            raise ValueError("an echo request is cut short")
        number, version = _HEAD.unpack_from(frame)
        if version not in (4, 6):
            raise ValueError(f"an echo request of IP version {version}")
        width = 4 if version == 4 else 16
        end = _HEAD.size + 2 * width
        if len(frame) < end + 6:
            raise ValueError("an echo request is cut short")
        return cls(
            number=number,
            source=ip_address(frame[_HEAD.size : _HEAD.size + width]),
            destination=ip_address(frame[_HEAD.size + width : end]),
        )


class EchoListener:
    """Takes the sidecar's connection, and answers.

    Args:
        path: where to listen; the directory is ours alone.
        asked: finds out what becomes of one request.
    """

    def __init__(self, path: Path, asked: Callable[[InboundEcho], Awaitable[Verdict]]) -> None:
        self._path = path
        self._asked = asked
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def close(self) -> None:
        """Listen no longer, and answer nothing more."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._tasks.add(serving)
        room = asyncio.Semaphore(MAX_WAITING)
        try:
            while True:
                (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                echo = InboundEcho.parse(await reader.readexactly(size))
                await room.acquire()
                task = asyncio.get_running_loop().create_task(self._answer(echo, writer))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: room.release())
        except ValueError as exc:
            log.warning("the sidecar's echo requests cannot be understood: %s", exc)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._tasks.discard(serving)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, echo: InboundEcho, writer: asyncio.StreamWriter) -> None:
        verdict = await self._asked(echo)
        if not writer.is_closing():
            writer.write(_ANSWER.pack(_ANSWER.size - _LENGTH.size, echo.number, _VERDICTS[verdict]))
