"""What the data path must remember over a restart, written by a thread: a slow or full disk never delays a packet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

log = logging.getLogger(__name__)

# How often a disk that does not take our writes is complained about, seconds.
COMPLAINT_INTERVAL: Final = 60.0

Key = TypeVar("Key")
Value = TypeVar("Value")


class WriteBehind(Generic[Key, Value]):
    """Group commit of a table's latest values: what came while one transaction ran goes into the next one.

    A write that fails is told to the log and tried again with the next one; its callers go on. For handshake time
    stamps that means: while the disk is full devices still connect, and what is lost is the memory of these stamps over
    a restart, should the disk not recover before it.

    Attributes:
        failing: the last failure in words, or None once a write has succeeded again.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        what: str,
        write: Callable[[list[tuple[Key, Value]]], None],
        clock: Callable[[], float],
    ) -> None:
        """`write` runs in a thread and stores all pairs in one transaction; `what` names them in the log."""
        self.failing: str | None = None
        self._loop = loop
        self._what = what
        self._write = write
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, f"lopower-{what.replace(' ', '-')}")
        self._values: dict[Key, Value] = {}  # bounded by the number of devices
        self._callbacks: list[Callable[[], None]] = []
        self._running: asyncio.Future[None] | None = None
        self._complained = -COMPLAINT_INTERVAL

    def put(self, values: list[tuple[Key, Value]], stored: Callable[[], None] | None = None) -> None:
        """Store `values` soon; `stored` is called on the loop when that has been done or has failed."""
        self._values.update(values)
        if stored is not None:
            self._callbacks.append(stored)
        if self._running is None:
            self._begin()

    async def close(self) -> None:
        """Finish what waits, and end the thread."""
        if self._values and self._running is None:
            self._begin()
        while self._running is not None:
            await asyncio.wait([self._running])
            await asyncio.sleep(0)
        self._executor.shutdown()

    def _begin(self) -> None:
        values, self._values = self._values, {}
        callbacks, self._callbacks = self._callbacks, []
        self._running = asyncio.ensure_future(
            self._loop.run_in_executor(self._executor, self._write, list(values.items())), loop=self._loop
        )
        self._running.add_done_callback(lambda done: self._finished(done, values, callbacks))

    def _finished(
        self, done: asyncio.Future[None], values: dict[Key, Value], callbacks: list[Callable[[], None]]
    ) -> None:
        self._running = None
        error = done.exception()
        if error is None:
            if self.failing is not None:
                log.warning("%s can be stored again", self._what)
            self.failing = None
        else:
            self.failing = str(error)
            self._values = {**values, **self._values}
            now = self._clock()
            if now - self._complained >= COMPLAINT_INTERVAL:
                self._complained = now
                log.error("%s could not be stored: %s; trying again with the next ones", self._what, error)
        for callback in callbacks:
            callback()
        if self._callbacks and self._running is None:
            self._begin()
