"""Ten thousand devices: what a daemon with so many costs, and what happens when all of them start at once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.bulk_rows import cpu_of
from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import transfer
from tests.bench.places import Lopower, read_round_trips, start_round_trips

DEVICES = 10_000
_PROCESSES = 2
_FLOW_PAUSE = 0.05
_FLOW_TRIPS = 300  # some 15 s: longer than the goal


def enrol(lopower: Lopower, directory: Path) -> list[Path]:
    """Enrol the fleet by a list; the files of keys for its processes."""
    directory.mkdir()
    made = [sys.executable, "-m", "tests.bench.fleet", "make", str(directory), str(DEVICES), str(_PROCESSES)]
    subprocess.run(made, check=True)
    lopower.daemon.lopower(
        "device", "add", "--csv", str(directory / "devices.csv"), "--output", str(directory / "made")
    )
    return sorted(directory.glob("keys*"))


def measure_reboot(figures: Figures, lopower: Lopower, keys: list[Path]) -> None:
    """All at once, from an address each, while another device's flow goes on."""
    server = lopower.daemon.json("server", "show")["public_key"]
    space = lopower.world.host
    fleet = [
        space.popen(
            *(sys.executable, "-m", "tests.bench.fleet", "run", str(path), server, str(number)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for number, path in enumerate(keys)
    ]  # fmt: skip
    for process in fleet:
        assert process.stdout is not None
        process.stdout.readline()  # its sockets are open
    flow = start_round_trips(lopower.world.device, lopower.target, _FLOW_TRIPS, _FLOW_PAUSE)
    time.sleep(1)
    for process in fleet:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [json.loads(process.communicate(timeout=120)[0]) for process in fleet]
    if sum(one["sessions"] for one in ended) != DEVICES:
        raise RuntimeError(f"not all devices have sessions: {ended}")
    figures.add("reboot_seconds", max(one["seconds"] for one in ended))
    try:
        figures.add("reboot_flow_p99", read_round_trips(flow)["p99"])
        figures.add("reboot_lost_flows", 0)
    except RuntimeError:
        figures.add("reboot_lost_flows", 1)


def measure_enrolled(figures: Figures, many: Lopower, few: Lopower, rounds: int, seconds: float) -> None:
    """CPU per byte of one device's flow, beside ten thousand and beside ten others."""
    for _ in range(rounds):
        for direction in DIRECTIONS:
            costs = [
                cpu_of(
                    one.pid,
                    lambda one=one, direction=direction: transfer(  # type: ignore[misc]
                        one.world.device, one.target, down=direction == "down", seconds=seconds
                    ),
                )[0]
                for one in (many, few)
            ]
            figures.add(f"enrolled_{direction}_cpu_ratio", costs[0] / costs[1])
