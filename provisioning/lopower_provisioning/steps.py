"""What a command tells while it works: each step with its time, as a moving line, as plain lines, or as JSON events.

Results go to standard output, and so do the events, which are results for a program; the rest to standard error.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

_BAR: Final = 20
_JSON_STEP: Final = 0.05  # of a step's progress between two events
_PLAIN_STEP: Final = 0.25
_LINE_SECONDS: Final = 0.1
_lock: Final = threading.Lock()


class Step:
    """One step that is under way.

    Attributes:
        detail: what came of it; set it before it ends.
    """

    def __init__(self, reporter: Reporter, board: str, name: str) -> None:
        self._reporter = reporter
        self._board = board
        self.name = name
        self.detail = ""
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def progress(self, done: float) -> None:
        """How much of it is done, 0 to 1."""
        self._reporter.progressed(self._board, self, done)


class Reporter(Protocol):
    """Where steps are told. Called from several threads."""

    def began(self, board: str, step: Step) -> None:
        """A step of the board begins."""

    def progressed(self, board: str, step: Step, done: float) -> None:
        """`done`: 0 to 1."""

    def ended(self, board: str, step: Step, ok: bool) -> None:
        """It ended, well or not."""

    def noted(self, board: str, text: str) -> None:
        """Something worth knowing that stops nothing."""


@contextmanager
def step(reporter: Reporter, board: str, name: str) -> Iterator[Step]:
    """A step of `board`'s; it ends well unless something is raised."""
    current = Step(reporter, board, name)
    reporter.began(board, current)
    try:
        yield current
    except BaseException:
        reporter.ended(board, current, False)
        raise
    reporter.ended(board, current, True)


class TerminalReporter:
    """One board: a line for each step, which moves while it is under way."""

    def __init__(self) -> None:
        self._drawn = 0.0

    def began(self, board: str, step: Step) -> None:
        self._show(f"{step.name} ...")

    def progressed(self, board: str, step: Step, done: float) -> None:
        now = time.monotonic()
        if now - self._drawn >= _LINE_SECONDS:
            self._drawn = now
            full = round(_BAR * done)
            self._show(f"{step.name}  {'#' * full}{'.' * (_BAR - full)} {done:4.0%}  {step.seconds:.0f} s")

    def ended(self, board: str, step: Step, ok: bool) -> None:
        self._show(_line(step, ok) + "\n")

    def noted(self, board: str, text: str) -> None:
        self._show(f"  {text}\n")

    @staticmethod
    def _show(text: str) -> None:
        with _lock:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


class TableReporter:
    """Several boards on a terminal: a line for each, at the same place."""

    MAX_LINES: Final = 20
    """More would not fit on many terminals."""

    def __init__(self, boards: list[str]) -> None:
        self._lines = dict.fromkeys(boards, "waits")
        self._width = max(map(len, boards), default=0)
        self._drawn = 0.0
        with _lock:
            sys.stderr.write("\n" * len(boards))
        self._draw()

    def began(self, board: str, step: Step) -> None:
        self._set(board, step.name)

    def progressed(self, board: str, step: Step, done: float) -> None:
        self._set(board, f"{step.name} {done:4.0%}", lazily=True)

    def ended(self, board: str, step: Step, ok: bool) -> None:
        self._set(board, _line(step, ok))

    def noted(self, board: str, text: str) -> None:
        """A report has no place for it."""

    def _set(self, board: str, text: str, lazily: bool = False) -> None:
        self._lines[board] = text
        now = time.monotonic()
        if not lazily or now - self._drawn >= _LINE_SECONDS:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        with _lock:
            rows = "".join(f"\x1b[K{name.ljust(self._width)}  {text[:100]}\n" for name, text in self._lines.items())
            sys.stderr.write(f"\x1b[{len(self._lines)}A{rows}")
            sys.stderr.flush()


class LineReporter:
    """No terminal: a plain line when a step ends, and a few while a long one is under way."""

    def __init__(self, *, several: bool) -> None:
        self._several = several
        self._told: dict[str, float] = {}

    def began(self, board: str, step: Step) -> None:
        self._told[board] = 0.0

    def progressed(self, board: str, step: Step, done: float) -> None:
        if done - self._told[board] >= _PLAIN_STEP and done < 1:
            self._told[board] = done
            self._say(board, f"{step.name} {done:.0%}")

    def ended(self, board: str, step: Step, ok: bool) -> None:
        self._say(board, _line(step, ok))

    def noted(self, board: str, text: str) -> None:
        self._say(board, text)

    def _say(self, board: str, text: str) -> None:
        with _lock:
            sys.stderr.write(f"{board}: {text}\n" if self._several else f"{text}\n")
            sys.stderr.flush()


class JsonReporter:
    """For programs: an event is one line of JSON."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def began(self, board: str, step: Step) -> None:
        self._told[board] = 0.0
        event("step", board=board, step=step.name, state="began")

    def progressed(self, board: str, step: Step, done: float) -> None:
        if done - self._told[board] >= _JSON_STEP:
            self._told[board] = done
            event("progress", board=board, step=step.name, done=round(done, 3))

    def ended(self, board: str, step: Step, ok: bool) -> None:
        state = "done" if ok else "failed"
        event("step", board=board, step=step.name, state=state, seconds=round(step.seconds, 3), detail=step.detail)

    def noted(self, board: str, text: str) -> None:
        event("note", board=board, text=text)


def event(kind: str, **members: Any) -> None:
    """One line of JSON on standard output."""
    with _lock:
        sys.stdout.write(json.dumps({"event": kind, **members}, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _line(step: Step, ok: bool) -> str:
    what = step.detail if ok else "failed"
    return f"{step.name}{': ' if what else ''}{what} ({step.seconds:.1f} s)"
