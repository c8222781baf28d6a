"""What was measured: samples by name, what could not be measured and why, as a table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.bench.goals import GOALS, Goal


class Figures:
    """Samples by a goal's key. Their median is the figure.

    Attributes:
        missing: why there is no figure, by a goal's key.
        failed: why a family of rows broke off, by its name.
        about: what is said about the run of a family, by its name.
    """

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def add(self, key: str, *values: float) -> None:
        """More samples. Raises KeyError for a figure that is not in the table."""
        if key not in _BY_KEY:
            raise KeyError(f"{key} is not in tests/bench/goals.py")
        self.samples.setdefault(key, []).extend(values)

    def lacks(self, prefix: str, reason: str) -> None:
        """What begins with `prefix` cannot be measured here."""
        self._lack((goal for goal in GOALS if goal.key.startswith(prefix)), reason)

    def fail(self, family: str, reason: str) -> None:
        """A family broke off; what it had measured stays."""
        self.failed[family] = reason
        self._lack((goal for goal in GOALS if goal.family == family), reason)

    def forget(self, families: Iterable[str]) -> None:
        """These are measured anew."""
        forgotten = set(families)
        for goal in GOALS:
            if goal.family in forgotten:
                self.samples.pop(goal.key, None)
                self.missing.pop(goal.key, None)
        for family in forgotten:
            self.failed.pop(family, None)
            self.about.pop(family, None)

    def value(self, key: str) -> float | None:
        """The median; None: not measured."""
        samples = self.samples.get(key)
        return statistics.median(samples) if samples else None

    def best(self, goal: Goal) -> float:
        """The best sample of a figure that was measured."""
        samples = self.samples[goal.key]
        return min(samples) if goal.is_better_if_less else max(samples)

    def to_json(self) -> str:
        """All."""
        figures = {
            goal.key: {
                "family": goal.family,
                "label": goal.label,
                "unit": goal.unit,
                "goal": goal.text,
                "met": None if goal.at_most is None else goal.is_met_by(statistics.median(self.samples[goal.key])),
                "median": round(statistics.median(self.samples[goal.key]), 4),
                "best": round(self.best(goal), 4),
                "samples": [round(sample, 4) for sample in self.samples[goal.key]],
            }
            for goal in GOALS
            if goal.key in self.samples
        }
        found = {"families": self.about, "figures": figures, "missing": self.missing, "failed": self.failed}
        return json.dumps(found, indent=1) + "\n"

    @classmethod
    def from_json(cls, path: Path) -> Figures:
        """What `to_json` wrote; figures that the table has no longer are left out."""
        found = json.loads(path.read_text())
        figures = cls()
        for key, figure in found["figures"].items():
            if key in _BY_KEY:
                figures.add(key, *figure["samples"])
        figures.missing = {key: why for key, why in found["missing"].items() if key in _BY_KEY}
        figures.failed = found["failed"]
        figures.about = found["families"]
        return figures

    def _lack(self, goals: Iterable[Goal], reason: str) -> None:
        for goal in goals:
            if goal.key not in self.samples:
                self.missing[goal.key] = reason


_BY_KEY = {goal.key: goal for goal in GOALS}


def table(figures: Figures) -> str:
    """For people: figure, best and goal side by side; what misses its goal is marked."""
    lines = [f"{'':<50}{'median':>10}{'best':>10}  {'unit':<8}goal"]
    for goal in GOALS:
        value = figures.value(goal.key)
        if value is None:
            if goal.key in figures.missing:
                lines.append(f"{goal.label:<50}{'-':>10}{'':>10}  {figures.missing[goal.key]}")
            continue
        mark = "" if goal.is_met_by(value) else "  MISSED"
        numbers = f"{number(value):>10}{number(figures.best(goal)):>10}"
        lines.append(f"{goal.label:<50}{numbers}  {goal.unit:<8}{goal.text}{mark}".rstrip())
    lines += [f"FAILED {family}: {reason}" for family, reason in figures.failed.items()]
    return "\n".join(lines)


def misses(figures: Figures) -> list[str]:
    """Goals that are not reached, or were not measured, in words."""
    found = []
    for goal in GOALS:
        if goal.at_most is None:
            continue
        value = figures.value(goal.key)
        if value is None:
            found.append(f"{goal.label}: not measured ({figures.missing.get(goal.key, 'left out')})")
        elif not goal.is_met_by(value):
            found.append(f"{goal.label}: {number(value)} {goal.unit}".rstrip() + f", the goal is {goal.text}")
    return found


def number(value: float) -> str:
    """For people."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
