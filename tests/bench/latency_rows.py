"""What a connection takes: connections per second, one byte's round trip idle and beside another device's bulk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import command, read, transfer
from tests.bench.places import Lopower, Side, connections, round_trips
from tests.bench.systems import IPERF_PORT, IperfLoad, start_pair
from tests.support.netns import Namespace

_IDLE_TRIPS = 300
_BUSY_TRIPS = 300
_PAUSE = 0.005
_BULK_SECONDS = 6.0


def measure_connections(figures: Figures, ours: Side, theirs: Side, rounds: int, seconds: float) -> None:
    """Eight at a time, both systems in turn.

    The client closes first and has its ports in TIME-WAIT for a minute: it may take them again after a second, or it
    would be the client's search for a free port that is measured.
    """
    for side in (ours, theirs):
        side.space.sysctl(tcp_tw_reuse=1, ip_local_port_range="1024 65535")
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
    """One device transfers what it can for as long as another sends its bytes to and fro.

    The same once through wireguard-go's endpoint: what devices, servers and this machine take of the time.
    """
    with ExitStack() as stack:
        other = Namespace("other")
        system, _ = start_pair(stack, other)
        assert isinstance(system.load, IperfLoad)
        places = (
            ("wireguard_go_", system.load.world.device, other, system.load.target),
            ("", lopower.world.device, lopower.devices[0], lopower.target),
        )
        for number in range(rounds):
            for direction in DIRECTIONS:
                for name, bulk, quiet, target in places[min(number, 1) :]:
                    with _bulk(bulk, target, down=direction == "down"):
                        trips = round_trips(quiet, target, _BUSY_TRIPS, _PAUSE, _BULK_SECONDS - 1.5)
                    figures.add(f"{name}round_trip_bulk_{direction}_p99", trips["p99"])


@contextmanager
def _bulk(space: Namespace, target: str, *, down: bool) -> Iterator[None]:
    """A transfer at full speed from before the block to after it. Raises RuntimeError if the block took longer."""
    transfer(space, target, down=down, seconds=1)  # the server is free again after it
    started = command(target, down=down, seconds=_BULK_SECONDS, port=IPERF_PORT)
    bulk = space.popen(*started, stdout=subprocess.PIPE)
    time.sleep(0.5)
    yield
    ended = bulk.poll() is not None
    read(bulk.communicate(timeout=_BULK_SECONDS + 60)[0])
    if ended:
        raise RuntimeError(f"the round trips took longer than {_BULK_SECONDS:g} s of bulk")
