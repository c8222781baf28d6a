"""What other users of the machine could see while a command runs: arguments of processes, and files for the moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Watched:
    """`seen` grows: every command line, and every file of the directories, at least once per 10 ms."""

    def __init__(self, directories: tuple[Path, ...]) -> None:
        self.seen: set[bytes] = set()
        self._directories = directories
        self._stop = threading.Event()

    def run(self) -> None:
        """Until `end`."""
        while not self._stop.wait(0.01):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                self._take(process)
            for directory in self._directories:
                for place, _, names in os.walk(directory):  # unlike a glob it does not mind what vanishes
                    for name in names:
                        self._take(Path(place, name))

    def end(self) -> None:
        """See no more."""
        self._stop.set()

    def holds(self, secret: str) -> bool:
        """Whether it was to be seen anywhere."""
        return any(secret.encode() in content for content in self.seen)

    def _take(self, path: Path) -> None:
        try:
            self.seen.add(path.read_bytes()[: 1 << 20])
        except OSError:
            return  # it has gone already


@contextmanager
def watched(*directories: Path) -> Iterator[Watched]:
    """See what happens while the block runs."""
    watch = Watched(directories)
    thread = threading.Thread(target=watch.run, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        watch.end()
        thread.join(10)
