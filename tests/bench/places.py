"""Where the rows are measured: lopower with devices in namespaces of their own, and the loads' servers behind it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench import connects, hold, roundtrips
from tests.bench.iperf import Transfer, command, read
from tests.bench.systems import CONNECT_PORT, IPERF_PORT, IperfLoad, join_host
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import Namespace, World, network_world
from tests.support.wireguard_go import WireguardGo, wireguard_go

_MANY_PORTS: Final = 5300
_CONNECTS: Final = str(connects.__file__)
_ROUNDTRIPS: Final = str(roundtrips.__file__)
_HOLD: Final = str(hold.__file__)


class Lopower:
    """A daemon with the host driver, one device `bench` in the world's device namespace, and servers.

    Attributes:
        devices: namespaces of more devices, each with its own tunnel: `add_devices`.
    """

    def __init__(self, stack: ExitStack, directory: Path, *flags: str) -> None:
        directory.mkdir()
        self.world = stack.enter_context(network_world())
        self.daemon = LopowerDaemon(self.world.host, directory, "--tailnet", "host", *flags, endpoint=World.HOST_IPV4)
        stack.callback(self.daemon.stop)
        self.daemon.start()
        self.target = self.daemon.gateway_ipv4
        self.devices: list[Namespace] = []
        self._stack = stack

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.daemon.pid

    def serve(self) -> None:
        """iperf3 and the echo service, served to the devices."""
        IperfLoad(self.world, self.target).serve("127.0.0.1")
        for port in (IPERF_PORT, CONNECT_PORT):
            self.daemon.lopower("serve", str(port))
        self.world.host.wait_for_port(IPERF_PORT)
        self.world.host.wait_for_port(CONNECT_PORT)

    def add_device(self) -> WireguardGo:
        """The device `bench`: wireguard-go."""
        return self._tunnel(self.world.device, self.daemon.lopower("device", "add", "bench"))

    def add_devices(self, count: int) -> None:
        """More devices, and an iperf3 server for each."""
        for number in range(len(self.devices), len(self.devices) + count):
            space = Namespace(f"d{number}")
            join_host(self.world, space, number)
            self._tunnel(space, self.daemon.lopower("device", "add", f"more{number}"))
            self.devices.append(space)
            port = _MANY_PORTS + number
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            self.world.start(self.world.host, "iperf3", "-s", "-B", "127.0.0.1", "-p", str(port), **quiet)
            self.daemon.lopower("serve", str(port))

    def transfer_from_all(self, *, down: bool, seconds: float) -> list[Transfer]:
        """One flow of each further device, at the same time."""
        running = [
            space.popen(
                *command(self.target, down=down, seconds=seconds, port=_MANY_PORTS + number), stdout=subprocess.PIPE
            )
            for number, space in enumerate(self.devices)
        ]
        return [read(process.communicate(timeout=seconds + 60)[0]) for process in running]

    def _tunnel(self, space: Namespace, configuration: str) -> WireguardGo:
        device: WireguardGo = self._stack.enter_context(wireguard_go(space))
        device.configure(configuration)
        return device


@dataclass(frozen=True, slots=True)
class Side:
    """One system as the rows see it: the device, what it dials, the process that is counted."""

    name: str
    space: Namespace
    target: str
    pid: int
    device: WireguardGo


def round_trips(space: Namespace, target: str, count: int, pause: float, *most: float) -> dict[str, float]:
    """Of one byte, on one connection to the echo service, for `most` seconds: p50, p99 and longest, ms."""
    return read_round_trips(start_round_trips(space, target, count, pause, *most))


def start_round_trips(space: Namespace, target: str, count: int, pause: float, *most: float) -> subprocess.Popen[str]:
    """As `round_trips`, in the background."""
    arguments = (target, str(CONNECT_PORT), str(count), str(pause), *map(str, most))
    return space.popen(sys.executable, _ROUNDTRIPS, *arguments, stdout=subprocess.PIPE)


def read_round_trips(running: subprocess.Popen[str]) -> dict[str, float]:
    """The end of `start_round_trips`. Raises RuntimeError if its connection was lost."""
    output, _ = running.communicate(timeout=120)
    if running.returncode:
        raise RuntimeError("the connection that was measured is lost")
    found: dict[str, float] = json.loads(output)
    return found


def connections(space: Namespace, target: str, seconds: float) -> tuple[float, float]:
    """Per second, and the p99 of one in ms."""
    said = space.run(sys.executable, _CONNECTS, "client", target, str(CONNECT_PORT), str(seconds), timeout=seconds + 60)
    rate, slow = map(float, said.split())
    return rate, slow


class OpenFlows:
    """Connections held open from a namespace while the block runs."""

    def __init__(self, space: Namespace, target: str, count: int) -> None:
        self._process = space.popen(
            sys.executable, _HOLD, target, str(CONNECT_PORT), str(count), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> OpenFlows:
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise RuntimeError("the connections did not come about")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=30)


def warm_up(target: str, spaces: Iterable[Namespace]) -> None:
    """Sessions, caches and congestion windows."""
    for space in spaces:
        space.run(*command(target, down=True, seconds=1, port=IPERF_PORT))
    time.sleep(0.2)
