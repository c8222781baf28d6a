"""What boards, proxies and tests say while a test runs, in the order in which it was heard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

MAX_ENTRIES: Final = 20_000
"""Of one test. A board that prints without end must not fill the memory of the machine that listens."""

MAX_TEXT: Final = 2_000
"""Characters of a line; what is longer is cut."""

Heard = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line.

    Attributes:
        seconds: since the test began.
        source: who said it: a board's name, "proxy", "test".
    """

    seconds: float
    source: str
    text: str


class Recorder:
    """The entries of the test that runs. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[Entry] = []
        self._dropped = 0
        self._began = time.monotonic()

    def begin(self) -> None:
        """A test begins."""
        with self._lock:
            self._entries, self._dropped, self._began = [], 0, time.monotonic()

    def add(self, source: str, text: str) -> None:
        """Somebody says a line."""
        with self._lock:
            if len(self._entries) >= MAX_ENTRIES:
                self._dropped += 1
                return
            cut = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "..."
            self._entries.append(Entry(time.monotonic() - self._began, source, cut))

    def source(self, name: str) -> Heard:
        """`add` for one source."""
        return partial(self.add, name)

    def entries(self) -> list[Entry]:
        """All of the test so far; the last one says how many more there were."""
        with self._lock:
            found = list(self._entries)
            if self._dropped:
                found.append(Entry(found[-1].seconds, "test", f"{self._dropped} more lines were not kept"))
            return found
