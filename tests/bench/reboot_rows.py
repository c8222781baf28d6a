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
NAT_ADDRESS = "127.99.0.1"
_FEW = 10
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
    fleet = _fleet(lopower, keys)
    flow = start_round_trips(lopower.world.device, lopower.target, _FLOW_TRIPS, _FLOW_PAUSE)
    time.sleep(1)
    figures.add("reboot_seconds", _reboot(fleet))
    try:
        figures.add("reboot_flow_p99", read_round_trips(flow)["p99"])
        figures.add("reboot_lost_flows", 0)
    except RuntimeError:
        figures.add("reboot_lost_flows", 1)


def measure_reboot_behind_nat(figures: Figures, lopower: Lopower, keys: list[Path]) -> None:
    """All at once, from one address, which the daemon was told to trust."""
    figures.add("reboot_nat_seconds", _reboot(_fleet(lopower, keys, NAT_ADDRESS)))


def _fleet(lopower: Lopower, keys: list[Path], *address: str) -> list[subprocess.Popen[str]]:
    """The fleet's processes, ready to begin."""
    server = lopower.daemon.json("server", "show")["public_key"]
    fleet = [
        lopower.world.host.popen(
            *(sys.executable, "-m", "tests.bench.fleet", "run", str(path), server, str(number), *address),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for number, path in enumerate(keys)
    ]  # fmt: skip
    for process in fleet:
        assert process.stdout is not None
        process.stdout.readline()  # its sockets are open
    return fleet


def _reboot(fleet: list[subprocess.Popen[str]]) -> float:
    """Seconds until the last has a session. Raises RuntimeError if not all get one."""
    for process in fleet:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = [json.loads(process.communicate(timeout=120)[0]) for process in fleet]
    if sum(one["sessions"] for one in ended) != DEVICES:
        raise RuntimeError(f"not all devices have sessions: {ended}")
    return max(float(one["seconds"]) for one in ended)


def measure_enrolled(figures: Figures, many: Lopower, few: Lopower, rounds: int, seconds: float) -> None:
    """CPU per byte of one device's flow, beside ten thousand and beside ten others."""
    enrolled = few.daemon.json("device", "list")["devices"]
    for number in range(_FEW - len(enrolled)):
        few.daemon.lopower("device", "add", f"other{number}")
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
