"""The bench's results: what is missed, what broke off, what is measured anew, and what the documents say of it."""

from __future__ import annotations

import os
import xml.dom.minidom
from pathlib import Path

import pytest

from tests.bench import check, publish, suite
from tests.bench.chart import chart
from tests.bench.figures import Figures, misses, table
from tests.bench.goals import GOALS

ROOT = Path(__file__).parents[3]


def reached() -> Figures:
    """Figures that are exactly what is aimed at."""
    figures = Figures()
    for goal in GOALS:
        figures.add(goal.key, *(2 * (2.0 if goal.at_most is None else goal.bound,)))
        figures.about[goal.family] = {"day": "2026-01-01", "cores": "2", "kernel": "6", "python": "3.11"}
    return figures


def check_of(figures: Figures, directory: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The exit code of `make bench-check`."""
    monkeypatch.setattr(check, "RESULTS", directory / "results.json")
    (directory / "results.json").write_text(figures.to_json())
    try:
        check.main()
    except SystemExit as error:
        return error.code
    return 0


def test_every_figure_belongs_to_a_family_that_can_be_chosen_and_is_published() -> None:
    assert {goal.family for goal in GOALS} == set(suite.FAMILIES) == set(publish._FAMILIES)
    assert len({goal.key for goal in GOALS}) == len(GOALS)
    for family in suite.FAMILIES:
        assert callable(getattr(suite.Suite, f"_measure_{family}"))


def test_goals_that_are_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert misses(reached()) == []
    assert "MISSED" not in table(reached())
    assert check_of(reached(), tmp_path, monkeypatch) == 0
    assert "every goal is reached" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("up_cpu_ratio", 1.11, "TCP up, CPU: 1.11 x, the goal is <= 1.1"),
        ("connects_rate", 1699.0, "connections, 8 at a time: 1,699 1/s, the goal is >= 1700"),
        ("flows_up_fairness", 0.5, "20 flows, up, Jain's index: 0.50, the goal is >= 0.95"),
    ],
)
def test_a_missed_goal_is_named(
    key: str, value: float, said: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    figures = reached()
    figures.samples[key] = [value]
    assert check_of(figures, tmp_path, monkeypatch) == 1
    assert capsys.readouterr().err == f"missed: {said}\n"
    assert sum("MISSED" in line for line in table(figures).splitlines()) == 1
    assert publish.full(figures).count("| **missed** |") == 1


def test_what_was_not_measured_is_missed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = reached()
    del figures.samples["dns_rate"], figures.samples["up_mitmproxy_ratio"]
    figures.lacks("up_mitmproxy", "needs Python 3.12")
    assert check_of(figures, tmp_path, monkeypatch) == 1
    told = capsys.readouterr().err
    assert "DNS from the cache, dnsperf: not measured (left out)" in told
    assert "TCP up, rate against mitmproxy: not measured (needs Python 3.12)" in told
    monkeypatch.setattr(check, "RESULTS", tmp_path / "none.json")
    with pytest.raises(SystemExit, match="run `make bench` first"):
        check.main()


def test_a_family_that_fails_is_reported_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results" / "results.json"
    arguments = ["suite", "--results", str(results), "--only"]
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    def fails(measured: suite.Suite) -> None:
        measured.figures.add("cli_help", 0.1)
        pytest.skip("program 'dnsperf' is not installed")

    def breaks(measured: suite.Suite) -> None:
        raise RuntimeError("iperf3: refused\nand more")

    monkeypatch.setattr(suite.Suite, "_measure_cli", fails)
    monkeypatch.setattr(suite.Suite, "_measure_dns", breaks)
    monkeypatch.setattr(suite.Suite, "_measure_connects", lambda measured: measured.figures.add("connects_rate", 2e3))
    monkeypatch.setattr("sys.argv", [*arguments, "dns", "cli", "connects"])
    with pytest.raises(SystemExit, match="not measured in full: cli, dns"):
        suite.main()
    said = capsys.readouterr()
    assert "FAILED dns: RuntimeError: iperf3: refused\n" in said.out
    assert "[1/3] cli" in said.err
    assert "[2/3] connects: done" in said.err
    found = Figures.from_json(results)
    assert found.failed["cli"] == "Skipped: program 'dnsperf' is not installed"
    assert found.samples == {"cli_help": [0.1], "connects_rate": [2000.0]}
    assert found.missing["cli_device_list"] == found.failed["cli"]

    # Measured anew: the others' figures stay.
    monkeypatch.setattr(suite.Suite, "_measure_dns", lambda measured: measured.figures.add("dns_rate", 4e4))
    monkeypatch.setattr("sys.argv", [*arguments, "dns"])
    suite.main()
    found = Figures.from_json(results)
    assert found.samples == {"cli_help": [0.1], "connects_rate": [2000.0], "dns_rate": [40_000.0]}
    assert set(found.failed) == {"cli"}
    assert "dns_rate" not in found.missing


def test_a_figure_without_a_goal_has_its_best_where_its_unit_says() -> None:
    figures = Figures()
    figures.add("lopower_up_rate", 100, 300, 200)
    figures.add("lopower_up_cpu", 2.5, 2.7, 2.4)
    by_key = {goal.key: goal for goal in GOALS}
    assert figures.best(by_key["lopower_up_rate"]) == 300
    assert figures.best(by_key["lopower_up_cpu"]) == 2.4
    with pytest.raises(KeyError, match="not in tests/bench/goals"):
        figures.add("speed", 1.0)


def test_a_document_gets_its_figures_and_nothing_else() -> None:
    text = f"before\n{publish.BEGIN}\nold\n{publish.END}\nafter\n"
    once = publish.replaced(text, "new")
    assert once == f"before\n{publish.BEGIN}\nnew\n{publish.END}\nafter\n"
    assert publish.replaced(once, "new") == once
    with pytest.raises(ValueError, match="there is no"):
        publish.replaced("nothing", "new")


def test_the_documents_say_what_was_measured() -> None:
    figures = Figures.from_json(ROOT / "bench" / "results.json")
    for name, write in publish.DOCUMENTS.items():
        document = (ROOT / name).read_text()
        assert document == publish.replaced(document, write(figures)), (
            f"run `make bench-publish`: {name} is out of date"
        )
    assert (ROOT / "bench" / "chart.svg").read_text() == chart(figures)


def test_the_chart_is_an_image_with_every_system() -> None:
    drawn = chart(reached())
    xml.dom.minidom.parseString(drawn)
    assert all(name in drawn for name in ("lopower (Python)", "wireguard-go", "mitmproxy (Rust)"))
