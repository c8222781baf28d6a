"""Through the sidecar to a node of a test tailnet: daemon and sidecar together, and wireguard-go's endpoint in turn."""

from __future__ import annotations

from tests.bench.bulk_rows import cpu_of
from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import transfer
from tests.bench.places import Side
from tests.bench.processes import cpu_seconds
from tests.bench.systems import System


def measure_tailnet(figures: Figures, theirs: Side, tailnet: System, rounds: int, seconds: float) -> None:
    """Bulk, then connections: for a minute after them the sidecar's stack holds each in TIME-WAIT."""
    tailnet.load.bulk(False, 1)
    pids = tailnet.processes.values()
    for _ in range(rounds):
        for direction in DIRECTIONS:
            down = direction == "down"
            yardstick, _ = cpu_of(
                theirs.pid,
                lambda down=down: transfer(theirs.space, theirs.target, down=down, seconds=seconds),  # type: ignore[misc]
            )
            before = sum(map(cpu_seconds, pids))
            moved, took = tailnet.load.bulk(down, round(seconds))
            cost = (sum(map(cpu_seconds, pids)) - before) / moved * 1e9
            figures.add(f"tailnet_{direction}_cpu", cost)
            figures.add(f"tailnet_{direction}_cpu_ratio", cost / yardstick)
            figures.add(f"tailnet_{direction}_rate", moved * 8 / took / 1e6)
    for _ in range(rounds):
        figures.add("tailnet_connects_rate", tailnet.load.connects(seconds / 2))
