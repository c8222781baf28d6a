"""How long the command line takes, from the shell's point of view."""

from __future__ import annotations

import subprocess
import time

from tests.bench.figures import Figures
from tests.bench.places import Lopower
from tests.support.lopower_daemon import LOPOWER


def measure_commands(figures: Figures, lopower: Lopower, times: int) -> None:
    """Each some times, one after the other."""
    subprocess.run([LOPOWER, "--help"], capture_output=True, check=True)
    for _ in range(times):
        began = time.monotonic()
        subprocess.run([LOPOWER, "--help"], capture_output=True, check=True)
        figures.add("cli_help", time.monotonic() - began)
        began = time.monotonic()
        lopower.daemon.lopower("device", "list")
        figures.add("cli_device_list", time.monotonic() - began)
