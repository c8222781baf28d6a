"""Links and devices that are not perfect: a device like an ESP32, loss with reordering, UDP; the same for wireguard-go.

The lossy link is the seeded relay of `tests.support.udp_link` between the device and its endpoint. A loss hits one flow
of many as it would hit one alone, so several flows at once give the average of one in less time.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final

from tests.bench.bulk_rows import cpu_of
from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS
from tests.bench.iperf import command, transfer
from tests.bench.places import Side
from tests.bench.systems import IPERF_PORT
from tests.support.wireguard_go import LINK

RELAY_PORT: Final = 51899
LOSSY: Final = ("--loss", "0.01", "--delay", "0.01", "--reorder", "0.01")
_FLOWS: Final = "4"
_SMALL_WINDOW: Final = "5744"


def measure_small(figures: Figures, ours: Side, theirs: Side, rounds: int, seconds: float) -> None:
    """lwIP's window of four segments; no SACK, time stamps, window scaling."""
    with _like_an_esp32(ours), _like_an_esp32(theirs):
        for _ in range(rounds):
            for direction in DIRECTIONS:
                costs = []
                for side in (theirs, ours):
                    cost, moved = cpu_of(
                        side.pid,
                        lambda side=side, direction=direction: transfer(  # type: ignore[misc]
                            side.space, side.target, down=direction == "down", seconds=seconds
                        ),
                    )
                    costs.append(cost)
                figures.add(f"small_{direction}_cpu_ratio", costs[1] / costs[0])
                figures.add(f"small_{direction}_rate", moved.rate)


def measure_udp(figures: Figures, ours: Side, theirs: Side, rounds: int, seconds: float) -> None:
    """Datagrams of 1,200 bytes at 200 Mbit/s."""
    for _ in range(rounds):
        for direction in DIRECTIONS:
            costs = []
            for side in (theirs, ours):
                options = ("-u", "-l", "1200", "-b", "200M")
                cost, _ = cpu_of(
                    side.pid,
                    lambda side=side, direction=direction, options=options: transfer(  # type: ignore[misc]
                        side.space, side.target, down=direction == "down", seconds=seconds, options=options
                    ),
                )
                costs.append(cost)
            figures.add(f"udp_{direction}_cpu_ratio", costs[1] / costs[0])


def measure_loss(figures: Figures, ours: Side, theirs: Side, rounds: int, seconds: float) -> None:
    """Both systems at the same time, each behind a relay with the same seed."""
    with _relayed(theirs, 1):
        theirs.space.run(*command(theirs.target, down=True, seconds=1, port=IPERF_PORT))
        figures.add("emulator_rate", transfer(theirs.space, theirs.target, down=True, seconds=2).rate)
    for number in range(rounds):
        with _relayed(ours, 1 + 2 * number, *LOSSY), _relayed(theirs, 1 + 2 * number, *LOSSY):
            for direction in DIRECTIONS:
                both = partial(_lossy_rate, down=direction == "down", seconds=seconds)
                with ThreadPoolExecutor() as pool:
                    rates = list(pool.map(both, (ours, theirs)))
                figures.add(f"loss_{direction}_rate_ratio", rates[0] / rates[1])
                figures.add(f"loss_{direction}_rate", rates[0])


def _lossy_rate(side: Side, *, down: bool, seconds: float) -> float:
    options = ("-P", _FLOWS, "-O", "1")
    return transfer(side.space, side.target, down=down, seconds=seconds, options=options).rate


@contextmanager
def _like_an_esp32(side: Side) -> Iterator[None]:
    space = side.space
    before = (
        space.run("cat", "/proc/sys/net/ipv4/tcp_rmem").strip(),
        space.run("cat", "/proc/sys/net/ipv4/tcp_wmem").strip(),
    )
    space.sysctl(tcp_sack=0, tcp_timestamps=0, tcp_window_scaling=0, tcp_rmem=f"2880 {_SMALL_WINDOW} {_SMALL_WINDOW}",
                 tcp_wmem=f"2880 {_SMALL_WINDOW} {_SMALL_WINDOW}")  # fmt: skip
    space.ip("route", "add", f"{side.target}/32", "dev", LINK, "metric", "1", "window", _SMALL_WINDOW, "advmss", "1380")
    try:
        yield
    finally:
        space.ip("route", "del", f"{side.target}/32", "dev", LINK, "metric", "1")
        space.sysctl(tcp_sack=1, tcp_timestamps=1, tcp_window_scaling=1, tcp_rmem=before[0], tcp_wmem=before[1])


@contextmanager
def _relayed(side: Side, seed: int, *conditions: str) -> Iterator[None]:
    """The device reaches its endpoint through a relay in its own namespace."""
    shown = side.device.wg("show", LINK, "endpoints").split()
    key, endpoint = shown[0], shown[1]
    host, _, port = endpoint.rpartition(":")
    relay = [sys.executable, "-m", "tests.support.udp_link", str(RELAY_PORT), host, port, "--seed", str(seed)]
    process = side.space.popen(*relay, *conditions, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        side.device.wg("set", LINK, "peer", key, "endpoint", f"127.0.0.1:{RELAY_PORT}")
        yield
    finally:
        side.device.wg("set", LINK, "peer", key, "endpoint", endpoint)
        process.terminate()
        process.communicate(timeout=10)
