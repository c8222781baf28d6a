"""What ten devices cost that do nothing but keep their NAT's binding."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.figures import Figures
from tests.bench.places import Lopower
from tests.bench.processes import scheduled_seconds

DEVICES = 10


@contextmanager
def idle_devices(figures: Figures, lopower: Lopower, directory: Path, least_seconds: float) -> Iterator[None]:
    """Virtual devices in a process of their own while the block runs, and at least so long."""
    directory.mkdir()
    for number in range(DEVICES):
        configuration = lopower.daemon.lopower("device", "add", f"idle{number}", "--keepalive", "25")
        (directory / str(number)).write_text(configuration)
    process = lopower.world.start(
        lopower.world.device, sys.executable, "-m", "tests.bench.virtual_devices", directory, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("the virtual devices did not connect")
    time.sleep(1)
    began, before = time.monotonic(), scheduled_seconds(lopower.pid)
    yield
    time.sleep(max(least_seconds - (time.monotonic() - began), 0))
    used = scheduled_seconds(lopower.pid) - before
    figures.add("idle_cpu", 100 * used / (time.monotonic() - began))
    process.terminate()
