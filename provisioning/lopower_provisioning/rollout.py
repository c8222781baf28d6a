"""An update of many boards: a few first, then the others side by side, and no more once too many have failed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any, Final

from lopower_provisioning.steps import Reporter
from lopower_provisioning.update import UpdateOutcome

STOP_SHARE: Final = 0.02
"""Of all boards: that many failures say that the next ones would fail too."""
MAX_PARALLEL: Final = 200
INTERRUPTED: Final = "stopped by Ctrl-C"

_COLUMNS: Final = ("name", "state", "before", "after", "image", "seconds", "error", "hint")
Update = Callable[[str, Reporter], UpdateOutcome]


class Rollout:
    """Runs it.

    Args:
        names: the boards.
        canary: how many go first; if one of them fails, no other is begun.
        parallel: how many at once.

    Attributes:
        stopped: why no more were begun; empty: all were.
    """

    def __init__(self, names: Sequence[str], *, canary: int, parallel: int) -> None:
        self._names = list(names)
        self._canary = min(canary, len(self._names))
        self._parallel = parallel
        self.stopped = ""

    def run(self, update: Update, reporter: Reporter) -> list[UpdateOutcome]:
        """The boards' outcomes, in the order of their names. On Ctrl-C those under way are finished."""
        done: dict[str, UpdateOutcome] = {}
        with ThreadPoolExecutor(max(1, min(self._parallel, len(self._names))), "update") as pool:
            for part in (self._names[: self._canary], self._names[self._canary :]):
                self._run_part(pool, part, update, reporter, done)
                failed = [outcome for outcome in done.values() if not outcome.ok]
                if not self.stopped and len(done) == self._canary and failed and len(done) < len(self._names):
                    self.stopped = f"{failed[0].name}, one of the first {self._canary}, failed"
        return [done.get(name) or UpdateOutcome(name, "skipped", error=self.stopped) for name in self._names]

    def _run_part(
        self,
        pool: ThreadPoolExecutor,
        names: list[str],
        update: Update,
        reporter: Reporter,
        done: dict[str, UpdateOutcome],
    ) -> None:
        waiting = list(names)
        running: dict[Future[UpdateOutcome], str] = {}
        while running or (waiting and not self.stopped):
            while waiting and not self.stopped and len(running) < self._parallel:
                name = waiting.pop(0)
                running[pool.submit(update, name, reporter)] = name
            try:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                self.stopped = INTERRUPTED
                continue
            for future in finished:
                name = running.pop(future)
                done[name] = _outcome(future, name)
            failed = sum(not outcome.ok for outcome in done.values())
            if failed and failed >= STOP_SHARE * len(self._names) and len(done) + len(running) < len(self._names):
                self.stopped = self.stopped or f"{failed} of {len(self._names)} failed: 2 % are too many"


def _outcome(future: Future[UpdateOutcome], name: str) -> UpdateOutcome:
    try:
        return future.result()
    except Exception as error:  # an error of ours: the other boards are not to suffer from it
        return UpdateOutcome(name, error=f"lopower made an error of its own: {error!r}")


def report(outcomes: Sequence[UpdateOutcome]) -> str:
    """Outcomes as CSV (RFC 4180)."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    for outcome in outcomes:
        writer.writerow({name: _cell(str(value)) for name, value in document(outcome).items()})
    return text.getvalue()


def document(outcome: UpdateOutcome) -> dict[str, Any]:
    """An outcome as JSON; it holds no secret."""
    return asdict(outcome)


def _cell(text: str) -> str:
    """What a board said must be no formula in a spreadsheet."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
