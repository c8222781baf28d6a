"""`make bench`: every figure of goals.py, with its goal beside it, in under twelve minutes.

lopower, wireguard-go's endpoint and mitmproxy take turns in one run, so that a machine that is faster today, or busy,
is so for all of them. A family of rows that breaks off is reported, and the others go on, with systems started anew.
Writes bench/results.json, where the other families' figures stay if only some are measured, and bench/chart.svg.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.bench import (
    bulk_rows,
    cli_rows,
    dns_rows,
    latency_rows,
    link_rows,
    memory_rows,
    micro,
    reboot_rows,
    tailnet_rows,
    throttle_rows,
)
from tests.bench.chart import chart
from tests.bench.check import RESULTS
from tests.bench.figures import Figures, table
from tests.bench.idle_rows import idle_devices
from tests.bench.mitmproxy import Mitmproxy, UnavailableError, start
from tests.bench.places import Lopower, Side, warm_up
from tests.bench.systems import IperfLoad, start_pair, start_tailnet
from tests.support.wireguard_go import WireguardGo

FAMILIES: Final = (
    "cli", "memory", "bulk", "flows", "devices", "small", "udp", "loss", "connects", "delay", "dns", "throttled",
    "reboot", "tailnet", "micro",
)  # fmt: skip
_IDLE_SECONDS: Final = 50.0  # two keepalives
_FAMILY_SECONDS: Final = 180  # none takes half as long, unless something hangs


class Suite:
    """What is up, brought up when a family asks for it."""

    def __init__(self, figures: Figures, directory: Path, rounds: int, seconds: float) -> None:
        self.figures = figures
        self.rounds = rounds
        self.seconds = seconds
        self._directory = directory
        self._daemons = 0
        self._begin()
        self.queries = dns_rows.queries(directory)

    def _begin(self) -> None:
        """Nothing is up."""
        self._stack = ExitStack()
        self._yardstick: Side | None = None
        self._main: tuple[Lopower, WireguardGo] | None = None
        self._neighbour: Mitmproxy | None = None

    def close(self) -> None:
        """End what is up; what cannot be ended is said."""
        try:
            self._stack.close()
        except Exception:
            traceback.print_exc()
        self._begin()

    def run(self, family: str) -> None:
        """Measure one family of rows; a failure is noted, and what is up, which may have caused it, ended."""
        measure: Callable[[], None] = getattr(self, f"_measure_{family}")
        began = time.monotonic()
        signal.alarm(_FAMILY_SECONDS)
        try:
            measure()
        except (Exception, pytest.skip.Exception, pytest.fail.Exception) as error:
            signal.alarm(0)
            traceback.print_exc()
            reason = str(error).strip().partition("\n")[0]
            self.figures.fail(family, f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
            self.close()
        finally:
            signal.alarm(0)
        self.figures.about[family] = {**_this_run(), "rounds": self.rounds, "took": round(time.monotonic() - began)}

    def _start(self, name: str, *flags: str) -> Lopower:
        """A daemon with a state of its own."""
        self._daemons += 1
        return Lopower(self._stack, self._directory / f"{name}{self._daemons}", *flags)

    @property
    def lopower(self) -> Lopower:
        """The daemon that most rows use."""
        if self._main is None:
            resolv_conf = self._directory / "resolv.conf"
            resolv_conf.touch()
            lopower = self._start("main", "--resolv-conf", str(resolv_conf))
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
        """A daemon of its own: what a process had once, it keeps in part."""
        lopower = self._start("memory")
        memory_rows.measure_started(self.figures, lopower, "rss_started")
        lopower.serve()
        lopower.add_device()
        warm_up(lopower.target, [lopower.world.device])
        memory_rows.measure_flows(self.figures, lopower)
        lopower.daemon.stop()

    def _measure_bulk(self) -> None:
        if self._neighbour is None:
            try:
                self._neighbour = start(self._stack, self._directory / "mitmproxy")
                warm_up(self._neighbour.target, [self._neighbour.world.device])
            except UnavailableError as error:
                for what in ("mitmproxy", "up_mitmproxy", "down_mitmproxy"):
                    self.figures.lacks(what, str(error))
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
        idle = self._start("idle")
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
        many = self._start("many", "--ipv4", "10.96.0.0/16", "--trusted-sources", reboot_rows.NAT_ADDRESS)
        keys = reboot_rows.enrol(many, self._directory / "fleet")
        many.daemon.stop()
        many.daemon.start()
        memory_rows.measure_started(self.figures, many, "rss_enrolled")
        many.serve()
        many.add_device()
        warm_up(many.target, [many.world.device])
        reboot_rows.measure_enrolled(self.figures, many, self.lopower, self.rounds, self.seconds)
        reboot_rows.measure_reboot(self.figures, many, keys)
        reboot_rows.measure_reboot_behind_nat(self.figures, many, keys)
        many.daemon.stop()

    def _measure_tailnet(self) -> None:
        directory = self._directory / "tailnet"
        directory.mkdir()
        theirs = self._theirs()
        with ExitStack() as stack:
            tailnet = start_tailnet(stack, directory, None)
            tailnet_rows.measure_tailnet(self.figures, theirs, tailnet, self.rounds, self.seconds)

    def _measure_micro(self) -> None:
        written = self._directory / "micro.json"
        brief = ("--processes", "2", "--values", "3", "--warmups", "1", "--min-time", "0.05")
        options = (*brief, "-o", str(written), "--quiet", "--inherit-environ", "PYTHONPATH")
        command = [sys.executable, "-m", "tests.bench.micro", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.getcwd(), *sys.path)))}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        for name, values in micro.read(written).items():
            self.figures.add(f"micro_{name}", *values)


def _this_run() -> dict[str, str]:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "day": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": described,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": str(os.cpu_count()),
    }


def _write(figures: Figures, results: Path) -> None:
    results.parent.mkdir(exist_ok=True)
    results.write_text(figures.to_json())
    results.with_name("chart.svg").write_text(chart(figures))


def _terminated(number: int, frame: object) -> None:
    sys.exit("terminated")


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"took more than {_FAMILY_SECONDS} s")


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each transfer")
    parser.add_argument("--only", choices=FAMILIES, nargs="+", default=FAMILIES, metavar="FAMILY",
                        help=f"measure these: {', '.join(FAMILIES)}")  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go (%(default)s)")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench needs root: it uses network namespaces and TUN devices")
    began = time.monotonic()
    results: Path = arguments.results
    chosen = [family for family in FAMILIES if family in arguments.only]
    figures = Figures()
    if len(chosen) < len(FAMILIES) and results.exists():
        figures = Figures.from_json(results)
        figures.forget(chosen)
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGTERM, _terminated)
    with tempfile.TemporaryDirectory(prefix="lopower-bench-") as directory:
        suite = Suite(figures, Path(directory), arguments.rounds, arguments.seconds)
        try:
            for number, family in enumerate(chosen, 1):
                print(f"[{number}/{len(chosen)}] {family}", end="", file=sys.stderr, flush=True)
                suite.run(family)
                said = figures.failed.get(family, "done")
                print(f": {said}, {figures.about[family]['took']} s", file=sys.stderr, flush=True)
                _write(figures, results)  # what is measured is kept, whatever happens to the rest
        finally:
            suite.close()
    print(table(figures))
    print(f"\n{arguments.rounds} rounds; {time.monotonic() - began:.0f} s in all")
    failed = [family for family in chosen if family in figures.failed]
    if failed:
        sys.exit(f"not measured in full: {', '.join(failed)}")


if __name__ == "__main__":
    main()
