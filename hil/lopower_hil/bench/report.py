"""`--bench-report FILE`: a page with what boards and proxies said in each test, side by side, and how long it took."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

MAX_FAILURE: Final = 20_000
"""Characters of a traceback on the page."""


@dataclass(slots=True)
class Outcome:
    """One test, from its reports.

    Attributes:
        phases: seconds of setup, call and teardown.
        entries: seconds, source and text of each line.
    """

    name: str
    outcome: str = "passed"
    reason: str = ""
    phases: dict[str, float] = field(default_factory=dict)
    figures: list[tuple[str, str]] = field(default_factory=list)
    entries: Sequence[tuple[float, str, str]] = ()

    @property
    def seconds(self) -> float:
        """All phases."""
        return sum(self.phases.values())


class ReportPlugin:
    """Gathers reports, of this process and of xdist's workers, and writes the page at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, Outcome] = {}
        self._began = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a test."""
        test = self._tests.setdefault(report.nodeid, Outcome(report.nodeid))
        test.phases[report.when or ""] = report.duration
        if report.outcome != "passed":
            test.outcome = report.outcome if report.when == "call" or report.skipped else "error"
            test.reason = _reason(report)
        if report.when == "teardown":
            test.figures = [(str(name), str(value)) for name, value in report.user_properties]
            test.entries = [(entry[0], entry[1], entry[2]) for entry in getattr(report, "bench", ())]

    def pytest_sessionfinish(self) -> None:
        """Write it, even if that is all that is left to do."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(page(list(self._tests.values()), self._began), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say where it is."""
        terminalreporter.write_sep("-", f"bench report: {self._path}")


def page(tests: Sequence[Outcome], began: float) -> str:
    """The whole page; it needs no other file, and no script."""
    template = (resources.files(__package__) / "report.html").read_text(encoding="utf-8")
    counts = {name: sum(test.outcome == name for test in tests) for name in ("passed", "failed", "error", "skipped")}
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no tests"
    longest = max((test.seconds for test in tests), default=0.0) or 1.0
    return (
        template.replace("{{when}}", time.strftime("%Y-%m-%d %H:%M", time.localtime(began)))
        .replace("{{summary}}", summary)
        .replace("{{verdict}}", "failed" if counts["failed"] or counts["error"] else "passed")
        .replace("{{tests}}", "\n".join(_test(test, longest) for test in tests))
    )


def _test(test: Outcome, longest: float) -> str:
    """One row, which opens."""
    opened = " open" if test.outcome in ("failed", "error") else ""
    figures = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in test.figures)
    phases = " · ".join(f"{name} {seconds:.1f} s" for name, seconds in test.phases.items())
    width = round(100 * test.seconds / longest)
    return (
        f'<details class="{test.outcome}"{opened}><summary><b>{test.outcome}</b>'
        f'<span class="name">{_text(_short(test))}</span><span class="bar"><i style="width:{width}%"></i></span>'
        f'<span class="time">{test.seconds:.1f} s</span></summary>'
        f'<p class="phases">{_text(test.name)}<br>{phases}</p>'
        + (f"<dl>{figures}</dl>" if figures else "")
        + (f"<pre>{_text(test.reason)}</pre>" if test.reason else "")
        + _said(test.entries)
        + "</details>"
    )


def _said(entries: Sequence[tuple[float, str, str]]) -> str:
    """A table with a column for each source; what the test did is a row across all."""
    sources = sorted({source for _, source, _ in entries} - {"test"})
    if not entries:
        return ""
    head = "".join(f"<th>{_text(source)}</th>" for source in sources)
    rows = []
    for seconds, source, text in entries:
        if source == "test":
            cells = f'<td class="test" colspan="{max(1, len(sources))}">{_text(text)}</td>'
        else:
            cells = "".join(f"<td>{_text(text)}</td>" if name == source else "<td></td>" for name in sources)
        rows.append(f"<tr><th>{seconds:.3f}</th>{cells}</tr>")
    return (
        f'<div class="said"><table><thead><tr><th>s</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _short(test: Outcome) -> str:
    file, _, name = test.name.partition("::")
    return f"{Path(file).stem.removeprefix('test_').replace('_', ' ')}: {name.removeprefix('test_').replace('_', ' ')}"


def _reason(report: pytest.TestReport) -> str:
    if report.skipped and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return report.longreprtext[-MAX_FAILURE:]


def _text(text: str) -> str:
    """Escaped, and without the control characters that a serial line may carry."""
    return html.escape("".join(letter if letter.isprintable() or letter in "\n\t" else "·" for letter in text))
