"""`make bench-publish`: writes the figures of bench/results.json into README.md and docs/performance.md.

They stand between two comments, `<!-- figures -->` and `<!-- end of figures -->`, and nowhere else.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.bench.chart import chart
from tests.bench.check import RESULTS
from tests.bench.figures import Figures, number
from tests.bench.goals import GOALS, Goal

BEGIN: Final = "<!-- figures: written by `make bench-publish` -->"
END: Final = "<!-- end of figures -->"
_ROWS: Final = (
    ("device to network, Mbit/s", "{}_up_rate"),
    ("device to network, CPU seconds per GB", "{}_up_cpu"),
    ("network to device, Mbit/s", "{}_down_rate"),
    ("network to device, CPU seconds per GB", "{}_down_cpu"),
)
_SYSTEMS: Final = ("lopower", "wireguard_go", "mitmproxy")
_FAMILIES: Final = {
    "bulk": "One flow",
    "flows": "Twenty flows of one device",
    "devices": "Twenty devices, one flow each",
    "small": "A device with lwIP's window of four segments, no SACK, time stamps or scaling",
    "udp": "UDP",
    "loss": "A lossy link, each way; and devices that do nothing",
    "connects": "Connections of one byte each way",
    "delay": "Round trips",
    "dns": "DNS",
    "memory": "Memory",
    "throttled": "15 % of one core, as on a small board",
    "cli": "The command line",
    "reboot": "Ten thousand devices",
    "tailnet": "Through the sidecar, to a node of a tailnet",
    "micro": "The parts, for one packet or query",
}


def summary(figures: Figures) -> str:
    """The README's: the chart, the systems side by side, and how many goals are reached."""
    lines = [
        "![CPU seconds per GB and Mbit/s of lopower, wireguard-go and mitmproxy](bench/chart.svg)",
        "",
        "| | lopower | wireguard-go's endpoint, no proxy | mitmproxy (Rust) |",
        "|---|---|---|---|",
    ]
    for label, key in _ROWS:
        values = (figures.value(key.format(system)) for system in _SYSTEMS)
        lines.append(f"| {label} | {' | '.join('-' if value is None else number(value) for value in values)} |")
    bound = [goal for goal in GOALS if goal.at_most is not None]
    reached = [goal for goal in bound if (value := figures.value(goal.key)) is not None and goal.is_met_by(value)]
    lines += [
        "",
        f"Medians, on {_about(figures)}. {len(reached)} of {len(bound)} goals are reached; "
        "[docs/performance.md](docs/performance.md) has every figure with its goal, and where the time goes.",
    ]
    return "\n".join(lines)


def full(figures: Figures) -> str:
    """Every figure with its goal."""
    lines = [f"Medians and the best of what was measured, on {_about(figures)}. **missed**: the goal is not reached."]
    for family, goals in itertools.groupby(GOALS, key=lambda goal: goal.family):
        rows = [row for goal in goals if (row := _row(figures, goal))]
        if rows:
            lines += ["", f"| {_FAMILIES[family]} | median | best | goal | |", "|---|---|---|---|---|", *rows]
        if reason := figures.failed.get(family):
            lines += ["", f"{_FAMILIES[family]}: the measurement broke off ({reason})."]
    return "\n".join(lines)


def replaced(text: str, figures: str) -> str:
    """A document with these figures in it. Raises ValueError if it has no place for them."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN} with {END} behind it")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


DOCUMENTS: Final[dict[str, Callable[[Figures], str]]] = {"README.md": summary, "docs/performance.md": full}


def _row(figures: Figures, goal: Goal) -> str:
    value = figures.value(goal.key)
    if value is None:
        return f"| {goal.label} | - | | {goal.text} | {figures.missing.get(goal.key, 'not measured')} |"
    verdict = "" if goal.at_most is None else "met" if goal.is_met_by(value) else "**missed**"
    unit = f" {goal.unit}" if goal.unit else ""
    return f"| {goal.label} | {number(value)}{unit} | {number(figures.best(goal))} | {goal.text} | {verdict} |"


def _about(figures: Figures) -> str:
    days = sorted({about["day"] for about in figures.about.values()})
    hosts = sorted({f"{about['cores']} cores, Linux {about['kernel']}, CPython {about['python']}"
                    for about in figures.about.values()})  # fmt: skip
    return f"{' to '.join(dict.fromkeys((days[0], days[-1])))}, {'; '.join(hosts)}"


def main() -> None:
    """See the module."""
    if not RESULTS.exists():
        sys.exit(f"{RESULTS} is not there: run `make bench` first")
    figures = Figures.from_json(RESULTS)
    for name, write in DOCUMENTS.items():
        document = Path(name)
        document.write_text(replaced(document.read_text(), write(figures)))
        print(f"wrote {document}")
    RESULTS.with_name("chart.svg").write_text(chart(figures))


if __name__ == "__main__":
    main()
