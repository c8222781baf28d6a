"""Bulk: one flow of wireguard-go's endpoint, lopower and mitmproxy in turn; IPv6; 20 flows; 20 devices; paced."""

from __future__ import annotations

from collections.abc import Callable

from tests.bench.figures import Figures
from tests.bench.goals import DIRECTIONS, Direction
from tests.bench.iperf import Transfer, fairness, transfer
from tests.bench.mitmproxy import Mitmproxy
from tests.bench.places import Lopower, Side
from tests.bench.processes import cpu_seconds
from tests.support.netns import Namespace

_DEVICES = 20


def cpu_of(pid: int, run: Callable[[], Transfer]) -> tuple[float, Transfer]:
    """CPU seconds of a process per GB of payload."""
    before = cpu_seconds(pid)
    moved = run()
    return (cpu_seconds(pid) - before) / moved.moved * 1e9, moved


def measure_bulk(
    figures: Figures, theirs: Side, lopower: Lopower, neighbour: Mitmproxy | None, rounds: int, seconds: float
) -> None:
    """The yardstick: all systems in turn, ratios within a round. IPv6 and the paced flow belong to the same rounds."""
    space = lopower.world.device
    for _ in range(rounds):
        for direction in DIRECTIONS:
            yardstick = _one(figures, "wireguard_go", direction, theirs.pid, theirs.space,
                             theirs.target, seconds)  # fmt: skip
            cost, rate = _one(figures, "lopower", direction, lopower.pid, space, lopower.target, seconds)
            figures.add(f"{direction}_cpu_ratio", cost / yardstick[0])
            down = direction == "down"
            six, _ = cpu_of(
                lopower.pid,
                lambda down=down: transfer(space, lopower.daemon.gateway_ipv6, down=down, seconds=seconds),  # type: ignore[misc]
            )
            paced, _ = cpu_of(
                lopower.pid,
                lambda down=down: transfer(  # type: ignore[misc]
                    space, lopower.target, down=down, seconds=seconds, options=("-b", "200M")
                ),
            )
            figures.add(f"ipv6_{direction}_cpu_ratio", six / cost)
            figures.add(f"paced_{direction}_cpu_ratio", paced / cost)
            if neighbour is not None:
                other = _one(figures, "mitmproxy", direction, neighbour.pid,
                             neighbour.world.device, neighbour.target, seconds)  # fmt: skip
                figures.add(f"{direction}_mitmproxy_ratio", rate / other[1])


def measure_flows(figures: Figures, theirs: Side, lopower: Lopower, rounds: int, seconds: float) -> None:
    """20 flows of one device, against one flow of wireguard-go's endpoint."""
    for _ in range(rounds):
        for direction in DIRECTIONS:
            down = direction == "down"
            cost, moved = cpu_of(
                lopower.pid,
                lambda down=down: transfer(  # type: ignore[misc]
                    lopower.world.device, lopower.target, down=down, seconds=seconds, options=("-P", "20")
                ),
            )
            figures.add(f"flows_{direction}_cpu_ratio", cost / _yardstick(theirs, direction, seconds))
            figures.add(f"flows_{direction}_rate", moved.rate)
            figures.add(f"flows_{direction}_fairness", fairness(moved.shares))


def measure_devices(figures: Figures, theirs: Side, lopower: Lopower, rounds: int, seconds: float) -> None:
    """20 devices with one flow each, against one flow of wireguard-go's endpoint."""
    lopower.add_devices(_DEVICES - len(lopower.devices))
    for _ in range(rounds):
        for direction in DIRECTIONS:
            before = cpu_seconds(lopower.pid)
            moved = lopower.transfer_from_all(down=direction == "down", seconds=seconds)
            shares = tuple(one.moved for one in moved)
            cost = (cpu_seconds(lopower.pid) - before) / sum(shares) * 1e9
            figures.add(f"devices_{direction}_cpu_ratio", cost / _yardstick(theirs, direction, seconds))
            figures.add(f"devices_{direction}_rate", sum(one.rate for one in moved))
            figures.add(f"devices_{direction}_fairness", fairness(shares))


def _one(
    figures: Figures, name: str, direction: Direction, pid: int, space: Namespace, target: str, seconds: float
) -> tuple[float, float]:
    cost, moved = cpu_of(pid, lambda: transfer(space, target, down=direction == "down", seconds=seconds))
    figures.add(f"{name}_{direction}_cpu", cost)
    figures.add(f"{name}_{direction}_rate", moved.rate)
    return cost, moved.rate


def _yardstick(theirs: Side, direction: Direction, seconds: float) -> float:
    """One flow of wireguard-go's endpoint, CPU seconds per GB."""
    down = direction == "down"
    return cpu_of(theirs.pid, lambda: transfer(theirs.space, theirs.target, down=down, seconds=seconds))[0]
