"""What a connection takes: connections per second, one byte's round trip idle and beside another device's bulk."""

from __future__ import annotations

import subprocess

from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import command, read
from tests.bench.places import Lopower, Side, connections, read_round_trips, round_trips, start_round_trips
from tests.bench.systems import IPERF_PORT

_IDLE_TRIPS = 300
_BUSY_TRIPS = 400
_PAUSE = 0.005


def measure_connections(figures: Figures, ours: Side, theirs: Side, rounds: int, seconds: float) -> None:
    """Eight at a time, both systems in turn."""
    for _ in range(rounds):
        figures.add("wireguard_go_connects_rate", connections(theirs.space, theirs.target, seconds)[0])
        rate, slow = connections(ours.space, ours.target, seconds)
        figures.add("connects_rate", rate)
        figures.add("connects_p99", slow)


def measure_delay(figures: Figures, ours: Side, theirs: Side, rounds: int) -> None:
    """Nothing else runs."""
    for _ in range(rounds):
        direct = round_trips(theirs.space, theirs.target, _IDLE_TRIPS, _PAUSE)["p50"]
        through = round_trips(ours.space, ours.target, _IDLE_TRIPS, _PAUSE)["p50"]
        figures.add("round_trip_p50", through)
        figures.add("added_delay_p50", through - direct)


def measure_delay_beside_bulk(figures: Figures, lopower: Lopower, rounds: int) -> None:
    """One device transfers what it can, another sends its bytes to and fro."""
    seconds = _BUSY_TRIPS * (_PAUSE + 0.003) + 1
    for _ in range(rounds):
        for direction in DIRECTIONS:
            bulk = lopower.world.device.popen(
                *command(lopower.target, down=direction == "down", seconds=seconds, port=IPERF_PORT),
                stdout=subprocess.PIPE,
            )
            trips = start_round_trips(lopower.devices[0], lopower.target, _BUSY_TRIPS, _PAUSE)
            figures.add(f"round_trip_bulk_{direction}_p99", read_round_trips(trips)["p99"])
            read(bulk.communicate(timeout=seconds + 60)[0])
