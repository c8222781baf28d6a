"""`make bench-quick`: lopower against wireguard-go's own endpoint, and to a tailnet peer, interleaved in one run.

The device is wireguard-go in a namespace of its own, on the far side of a veth pair. CPU is user and system time of the
processes under test per GB of payload; "up" is from the device. Medians of the rounds. Absolute figures move with the
machine: the ratios to wireguard-go's endpoint are what to compare. Each goal stands beside its figure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench.layers import layers
from tests.bench.processes import ResidentPeak, cpu_seconds, resident_megabytes
from tests.bench.systems import System, start_lopower, start_tailnet, start_wireguard_go

IDLE_SECONDS: Final = 10.0  # within which memory is to fall back

Figures = dict[str, float]

# Figure, label, goal for lopower or for its ratio to wireguard-go's endpoint.
_HOST_ROWS: Final = (
    ("up_mbit_s", "up, Mbit/s", ""),
    ("down_mbit_s", "down, Mbit/s", ""),
    ("up_cpu_s_gb", "up, CPU s/GB", "<= 1.1x"),
    ("down_cpu_s_gb", "down, CPU s/GB", "<= 1.2x"),
    ("connects_s", "connects/s", ">= 1700"),
    ("peak_mb", "RSS in transfer, MB", "<= 135"),
)
_TAILNET_ROWS: Final = (
    ("up_mbit_s", "up, Mbit/s", ">= 850"),
    ("down_mbit_s", "down, Mbit/s", ">= 850"),
    ("up_cpu_s_gb", "up, CPU s/GB", "<= 7.5, later 6.5"),
    ("down_cpu_s_gb", "down, CPU s/GB", "<= 7.5, later 6.5"),
    ("connects_s", "connects/s", ">= 1000, later 1200"),
    ("peak_mb", "RSS in transfer, MB", "<= 260"),
    ("idle_mb", f"RSS {IDLE_SECONDS:.0f} s later, MB", "<= 120"),
)


def measure_bulk(system: System, down: bool, seconds: int) -> Figures:
    """One transfer: its rate, and CPU seconds per GB, of all processes together and of each."""
    before = {name: cpu_seconds(pid) for name, pid in system.processes.items()}
    with ResidentPeak(system.processes.values()) as peak:
        moved, took = system.load.bulk(down, seconds)
    spent = {name: cpu_seconds(pid) - before[name] for name, pid in system.processes.items()}
    direction = "down" if down else "up"
    figures = {f"{direction}_{name}_cpu_s_gb": used / moved * 1e9 for name, used in spent.items()}
    figures[f"{direction}_cpu_s_gb"] = sum(spent.values()) / moved * 1e9
    figures[f"{direction}_mbit_s"] = moved * 8 / took / 1e6
    figures["peak_mb"] = peak.megabytes
    return figures


def measure_idle(system: System) -> Figures:
    """What is resident when nothing has happened for a while, in all and in each process."""
    time.sleep(IDLE_SECONDS)
    resident = {name: resident_megabytes(pid) for name, pid in system.processes.items()}
    return {"idle_mb": sum(resident.values()), **{f"idle_{name}_mb": value for name, value in resident.items()}}


def measure(systems: list[System], rounds: int, seconds: int) -> dict[str, Figures]:
    """All figures, by system and name.

    Connections come last: for a minute after them the sidecar's stack holds each in TIME-WAIT.
    """
    found: dict[str, dict[str, list[float]]] = {system.name: {} for system in systems}
    for system in systems:  # sessions, caches and congestion windows warm
        system.load.bulk(False, 1)
    for _ in range(rounds):
        for system in systems:
            figures = found[system.name]
            for down in (False, True):
                for figure, value in measure_bulk(system, down, seconds).items():
                    figures.setdefault(figure, []).append(value)
    for system in systems:
        if system.name == "tailnet":
            for figure, value in measure_idle(system).items():
                found[system.name][figure] = [value]
    for _ in range(rounds):
        for system in systems:
            found[system.name].setdefault("connects_s", []).append(system.load.connects(seconds / 2))
    return {
        name: {
            figure: max(values) if figure == "peak_mb" else statistics.median(values)
            for figure, values in figures.items()
        }
        for name, figures in found.items()
    }


def table(figures: dict[str, Figures]) -> str:
    """For people."""
    theirs = figures["wireguard-go"]
    lines: list[str] = []
    if ours := figures.get("lopower"):
        lines.append(f"{'':<22}{'lopower':>10}{'wireguard-go':>14}{'ratio':>8}  goal")
        for key, label, goal in _HOST_ROWS:
            numbers = f"{_number(key, ours[key]):>10}{_number(key, theirs[key]):>14}{ours[key] / theirs[key]:>7.2f}x"
            lines.append(f"{label:<22}{numbers}  {goal}".rstrip())
    if ours := figures.get("tailnet"):
        lines += ["", f"{'to a tailnet peer':<22}{'lopower':>10}{'daemon':>10}{'sidecar':>10}{'ratio':>8}  goal"]
        for key, label, goal in _TAILNET_ROWS:
            direction, _, rest = key.partition("_")
            shares = [ours.get(f"{direction}_{process}_{rest}") for process in ("daemon", "sidecar")]
            numbers = "".join(_column(key, number) for number in (ours[key], *shares))
            ratio = f"{ours[key] / theirs[key]:.2f}x" if key in theirs else ""
            lines.append(f"{label:<22}{numbers}{ratio:>8}  {goal}".rstrip())
    return "\n".join(lines)


def _column(key: str, value: float | None) -> str:
    return f"{'' if value is None else _number(key, value):>10}"


def _number(key: str, value: float) -> str:
    return f"{value:.2f}" if "cpu" in key else f"{value:.0f}"


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make bench-quick", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--only", choices=("host", "tailnet"), help="of lopower's drivers, measure this one")
    parser.add_argument(
        "--profile",
        type=Path,
        help="run the daemons under cProfile; directory for their statistics",
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-quick needs root: it uses network namespaces and TUN devices")
    began = time.monotonic()
    profiles: dict[str, Path | None] = {
        driver: arguments.profile / f"{driver}.prof" if arguments.profile else None for driver in ("host", "tailnet")
    }
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lopower-bench-")))
        systems = [start_wireguard_go(stack)]
        for driver, start in (("host", start_lopower), ("tailnet", start_tailnet)):
            if arguments.only in (None, driver):
                (directory / driver).mkdir()
                systems.append(start(stack, directory / driver, profiles[driver]))
        figures = measure(systems, arguments.rounds, arguments.seconds)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))
    if not arguments.json:
        print(f"\nmedians of {arguments.rounds} rounds, {time.monotonic() - began:.0f} s in all")
    for driver, profile in profiles.items():
        if profile is not None and profile.exists():
            print(f"\nlopower by layer, driver {driver}:\n{layers(profile)}", file=sys.stderr)


if __name__ == "__main__":
    main()
