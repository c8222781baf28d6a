"""With 15 % of one core, as on a small board: a cgroup whose share comes round every 10 ms, as a slow core's would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.dns_rows import dns_p99
from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import transfer
from tests.bench.places import Lopower

_PERIOD_US = 10_000
_QUOTA_US = 1_500


class NoCgroupError(Exception):
    """No cgroup can be made here; the text says why."""


def measure_throttled(figures: Figures, lopower: Lopower, listed: Path, seconds: float) -> None:
    """Both directions, then DNS."""
    try:
        with _share_of_a_core(lopower.pid):
            for direction in DIRECTIONS:
                moved = transfer(lopower.world.device, lopower.target, down=direction == "down", seconds=seconds)
                figures.add(f"throttled_{direction}_rate", moved.rate)
            figures.add("throttled_dns_p99", dns_p99(lopower, listed, seconds))
    except NoCgroupError as error:
        figures.lacks("throttled", str(error))


@contextmanager
def _share_of_a_core(pid: int) -> Iterator[None]:
    group, home = _make_group()
    try:
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (home / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def _make_group() -> tuple[Path, Path]:
    """A new group with the limit, and the one that processes go back to."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mounted, kind, options, *_ = line.split()
        place = Path(mounted)
        group = place / f"lopower-bench-{os.getpid()}"
        try:
            if kind == "cgroup" and "cpu" in options.split(","):
                group.mkdir()
                (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / "cpu.cfs_quota_us").write_text(str(_QUOTA_US))
                return group, place
            if kind == "cgroup2" and "cpu" in (place / "cgroup.subtree_control").read_text().split():
                group.mkdir()
                (group / "cpu.max").write_text(f"{_QUOTA_US} {_PERIOD_US}")
                return group, place
        except OSError as error:
            raise NoCgroupError(f"no cgroup that limits the processor: {error}") from None
    raise NoCgroupError("no cgroup that limits the processor is mounted here")
