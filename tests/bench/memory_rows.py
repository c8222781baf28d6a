"""Resident memory: just started, after 20 bulk flows, with 1,000 open flows, with 10,000 devices."""

from __future__ import annotations

import time

from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import transfer
from tests.bench.places import Lopower, OpenFlows
from tests.bench.processes import resident_megabytes

_SETTLE_SECONDS = 2.0
_OPEN_FLOWS = 1000


def measure_started(figures: Figures, lopower: Lopower, key: str) -> None:
    """A daemon that nothing has happened to."""
    time.sleep(_SETTLE_SECONDS)
    figures.add(key, resident_megabytes(lopower.pid))


def measure_flows(figures: Figures, lopower: Lopower) -> None:
    """1,000 open flows, beyond what is resident at the start; then 20 bulk flows each way."""
    before = resident_megabytes(lopower.pid)
    with OpenFlows(lopower.world.device, lopower.target, _OPEN_FLOWS):
        figures.add("rss_open_flows", resident_megabytes(lopower.pid) - before)
    for direction in DIRECTIONS:
        transfer(lopower.world.device, lopower.target, down=direction == "down", seconds=2, options=("-P", "20"))
    figures.add("rss_after_flows", resident_megabytes(lopower.pid))
