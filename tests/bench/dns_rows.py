"""dnsperf through the tunnel, from the cache."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from tests.bench.figures import Figures
from tests.bench.places import Lopower

_NAMES = 100


def queries(directory: Path) -> Path:
    """A list for dnsperf of names that our resolver knows."""
    path = directory / "queries"
    path.write_text("".join(f"name{number}.bench.example A\n" for number in range(_NAMES)))
    return path


def zone() -> str:
    """What the resolver behind lopower knows."""
    return "\n".join(f"name{number}.bench.example 3600 A 192.0.2.{number + 1}" for number in range(_NAMES))


def measure_dns(figures: Figures, lopower: Lopower, listed: Path, rounds: int, seconds: float) -> None:
    """As many as it takes."""
    _dnsperf(lopower, listed, 1, "-Q", "200")  # fills the cache
    for _ in range(rounds):
        said = _dnsperf(lopower, listed, seconds, "-c", "4", "-q", "200")
        rate = re.search(r"Queries per second:\s+([\d.]+)", said)
        lost = re.search(r"Queries lost:\s+(\d+)", said)
        if rate is None or lost is None:
            raise RuntimeError(f"dnsperf said:\n{said}")
        figures.add("dns_rate", float(rate[1]))


def dns_p99(lopower: Lopower, listed: Path, seconds: float) -> float:
    """At 100 queries/s: ms within which 99 of 100 are answered."""
    said = _dnsperf(lopower, listed, seconds, "-Q", "100", "-v")
    taken = [float(one) * 1e3 for one in re.findall(r"^> NOERROR \S+ \S+ ([\d.]+)", said, re.MULTILINE)]
    if len(taken) < 50:
        raise RuntimeError(f"dnsperf said:\n{said[-2000:]}")
    return statistics.quantiles(taken, n=100)[98]


def _dnsperf(lopower: Lopower, listed: Path, seconds: float, *options: str) -> str:
    arguments = ("-s", lopower.target, "-d", str(listed), "-l", f"{seconds:g}", *options)
    return lopower.world.device.run("dnsperf", *arguments, timeout=seconds + 30)
