"""`make bench`: every figure of goals.py, with its goal beside it, in under twelve minutes.

lopower, wireguard-go's endpoint and mitmproxy take turns in one run, so that a machine that is faster today, or busy,
is so for all of them. Writes bench/results.json and bench/chart.svg.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.bench import (
    bulk_rows,
    cli_rows,
    dns_rows,
    latency_rows,
    link_rows,
    memory_rows,
    micro,
    reboot_rows,
    throttle_rows,
)
from tests.bench.chart import chart
from tests.bench.check import RESULTS
from tests.bench.figures import Figures, table
from tests.bench.idle_rows import idle_devices
from tests.bench.mitmproxy import Mitmproxy, UnavailableError, start
from tests.bench.places import Lopower, Side, warm_up
from tests.bench.systems import IperfLoad, start_pair
from tests.support.wireguard_go import WireguardGo

FAMILIES: Final = (
    "cli", "memory", "bulk", "flows", "devices", "small", "udp", "loss", "connects", "delay", "dns", "throttled",
    "reboot", "micro",
)  # fmt: skip
_IDLE_SECONDS: Final = 50.0  # two keepalives
_MICRO_SECONDS: Final = 180.0


class Suite:
    """What is up, brought up when a family asks for it."""

    def __init__(self, stack: ExitStack, directory: Path, rounds: int, seconds: float) -> None:
        self.figures = Figures()
        self.rounds = rounds
        self.seconds = seconds
        self._stack = stack
        self._directory = directory
        self._yardstick: Side | None = None
        self._main: tuple[Lopower, WireguardGo] | None = None
        self._neighbour: Mitmproxy | None = None
        self.queries = dns_rows.queries(directory)

    def run(self, family: str) -> None:
        """Measure one family of rows."""
        measure: Callable[[], None] = getattr(self, f"_measure_{family}")
        began = time.monotonic()
        measure()
        print(f"{family}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)

    @property
    def lopower(self) -> Lopower:
        """The daemon that most rows use."""
        if self._main is None:
            resolv_conf = self._directory / "resolv.conf"
            resolv_conf.touch()
            lopower = Lopower(self._stack, self._directory / "main", "--resolv-conf", str(resolv_conf))
            memory_rows.measure_started(self.figures, lopower, "rss_started")
            command = (sys.executable, "-m", "tests.bench.resolver", str(resolv_conf))
            resolver = lopower.world.start(lopower.world.host, *command, stdout=subprocess.PIPE)
            assert resolver.stdout is not None
            resolver.stdout.readline()
            lopower.serve()
            self._main = lopower, lopower.add_device()
            warm_up(lopower.target, [lopower.world.device])
        return self._main[0]

    def _ours(self) -> Side:
        lopower = self.lopower
        assert self._main is not None
        return Side("lopower", lopower.world.device, lopower.target, lopower.pid, self._main[1])

    def _theirs(self) -> Side:
        if self._yardstick is None:
            system, device = start_pair(self._stack)
            assert isinstance(system.load, IperfLoad)
            space, target = system.load.world.device, system.load.target
            self._yardstick = Side("wireguard-go", space, target, system.processes["endpoint"], device)
            warm_up(target, [space])
        return self._yardstick

    def _measure_cli(self) -> None:
        cli_rows.measure_commands(self.figures, self.lopower, 7)

    def _measure_memory(self) -> None:
        """Before anything else has moved data; while it runs, nothing does."""
        memory_rows.measure_flows(self.figures, self.lopower)

    def _measure_bulk(self) -> None:
        if self._neighbour is None:
            try:
                self._neighbour = start(self._stack, self._directory / "mitmproxy")
                warm_up(self._neighbour.target, [self._neighbour.world.device])
            except UnavailableError as error:
                for direction in ("up", "down"):
                    self.figures.lacks(f"{direction}_mitmproxy", str(error))
        bulk_rows.measure_bulk(self.figures, self._theirs(), self.lopower, self._neighbour, self.rounds, self.seconds)

    def _measure_flows(self) -> None:
        bulk_rows.measure_flows(self.figures, self._theirs(), self.lopower, self.rounds, self.seconds)

    def _measure_devices(self) -> None:
        bulk_rows.measure_devices(self.figures, self._theirs(), self.lopower, self.rounds, self.seconds)

    def _measure_small(self) -> None:
        link_rows.measure_small(self.figures, self._ours(), self._theirs(), self.rounds, self.seconds)

    def _measure_udp(self) -> None:
        self.lopower.daemon.lopower("serve", "--udp", "5201")
        link_rows.measure_udp(self.figures, self._ours(), self._theirs(), self.rounds, self.seconds)

    def _measure_loss(self) -> None:
        """What idle devices cost is measured meanwhile: this load is light, and on other daemons."""
        idle = Lopower(self._stack, self._directory / "idle")
        with idle_devices(self.figures, idle, self._directory / "configurations", _IDLE_SECONDS):
            link_rows.measure_loss(self.figures, self._ours(), self._theirs(), self.rounds, 3 * self.seconds)
        idle.daemon.stop()

    def _measure_connects(self) -> None:
        latency_rows.measure_connections(self.figures, self._ours(), self._theirs(), self.rounds, self.seconds)

    def _measure_delay(self) -> None:
        latency_rows.measure_delay(self.figures, self._ours(), self._theirs(), self.rounds)
        self.lopower.add_devices(max(1 - len(self.lopower.devices), 0))
        latency_rows.measure_delay_beside_bulk(self.figures, self.lopower, self.rounds)

    def _measure_dns(self) -> None:
        dns_rows.measure_dns(self.figures, self.lopower, self.queries, self.rounds, self.seconds)

    def _measure_throttled(self) -> None:
        throttle_rows.measure_throttled(self.figures, self.lopower, self.queries, self.seconds)

    def _measure_reboot(self) -> None:
        many = Lopower(self._stack, self._directory / "many", "--ipv4", "10.96.0.0/16")
        keys = reboot_rows.enrol(many, self._directory / "fleet")
        many.daemon.stop()
        many.daemon.start()
        memory_rows.measure_started(self.figures, many, "rss_enrolled")
        many.serve()
        many.add_device()
        warm_up(many.target, [many.world.device])
        reboot_rows.measure_enrolled(self.figures, many, self.lopower, self.rounds, self.seconds)
        reboot_rows.measure_reboot(self.figures, many, keys)
        many.daemon.stop()

    def _measure_micro(self) -> None:
        written = self._directory / "micro.json"
        options = ("--fast", "-p", "3", "-o", str(written), "--quiet", "--inherit-environ", "PYTHONPATH")
        command = [sys.executable, "-m", "tests.bench.micro", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=_MICRO_SECONDS, env=environment)
        for name, values in micro.read(written).items():
            self.figures.add(f"micro_{name}", *values)


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each transfer")
    parser.add_argument("--only", choices=FAMILIES, nargs="+", default=FAMILIES, help="these rows; writes no results")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench needs root: it uses network namespaces and TUN devices")
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lopower-bench-")))
        suite = Suite(stack, directory, arguments.rounds, arguments.seconds)
        for family in arguments.only:
            suite.run(family)
        figures = suite.figures
    print(table(figures))
    print(f"\n{arguments.rounds} rounds; {time.monotonic() - began:.0f} s in all")
    if tuple(arguments.only) == FAMILIES:
        RESULTS.parent.mkdir(exist_ok=True)
        about = {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()}
        RESULTS.write_text(figures.to_json(**about))
        RESULTS.with_name("chart.svg").write_text(chart(figures))


if __name__ == "__main__":
    main()
