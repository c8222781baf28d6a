"""`make bench-quick`: lopower against wireguard-go's own endpoint, interleaved in one run.

The device is wireguard-go in a namespace of its own, on the far side of a veth pair. Behind the endpoint under test an
iperf3 server: for lopower on the host's loopback, reached through `lopower serve`; for wireguard-go's endpoint on the
tunnel's address, that is, through the kernel's own TCP. CPU is user and system time of the endpoint's process per GB of
payload; "up" is from the device. Medians of the rounds; the last column is what to compare between machines.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nacl.public import PrivateKey

from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import World, network_world
from tests.support.wireguard_go import WireguardGo, wireguard_go

IPERF_PORT = 5201
CONNECT_PORT = 5202
TICKS = os.sysconf("SC_CLK_TCK")
PYTHON = sys.executable
CONNECTS = str(Path(__file__).with_name("connects.py"))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One system under test.

    Attributes:
        pid: of its process.
        target: the address behind it, as the device dials it.
    """

    name: str
    world: World
    pid: int
    target: str


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def resident_megabytes(pid: int) -> float:
    """Resident memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def bulk(endpoint: Endpoint, down: bool, seconds: int) -> tuple[float, float]:
    """One iperf3 run: Mbit/s, CPU seconds per GB."""
    before = cpu_seconds(endpoint.pid)
    command = ["iperf3", "-c", endpoint.target, "-p", str(IPERF_PORT), "-t", str(seconds), "-J"]
    report = json.loads(endpoint.world.device.run(*command, *(["-R"] if down else []), timeout=seconds + 30))
    if "error" in report:
        raise RuntimeError(f"{endpoint.name}: iperf3: {report['error']}")
    received = report["end"]["sum_received"]
    return received["bits_per_second"] / 1e6, (cpu_seconds(endpoint.pid) - before) / received["bytes"] * 1e9


def connects(endpoint: Endpoint, seconds: float) -> float:
    """Connections per second."""
    said = endpoint.world.device.run(PYTHON, CONNECTS, "client", endpoint.target, str(CONNECT_PORT), str(seconds))
    return float(said)


def servers(world: World, host: str) -> None:
    """iperf3 and the connection server behind an endpoint."""
    world.start(
        world.host,
        "iperf3",
        "-s",
        "-B",
        host,
        "-p",
        str(IPERF_PORT),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    world.start(world.host, PYTHON, CONNECTS, "server", host, str(CONNECT_PORT))


def start_lopower(stack: ExitStack, directory: Path, profile: Path | None) -> Endpoint:
    """lopower, with wireguard-go as its device."""
    world = stack.enter_context(network_world())
    daemon = LopowerDaemon(world.host, directory, endpoint=World.HOST_IPV4, profile=profile)
    stack.callback(daemon.stop)
    daemon.start()
    configuration = daemon.lopower("device", "add", "bench")
    servers(world, "127.0.0.1")
    for port in (IPERF_PORT, CONNECT_PORT):
        daemon.lopower("serve", str(port))
    device = stack.enter_context(wireguard_go(world.device))
    device.configure(configuration)
    return Endpoint("lopower", world, daemon.pid, daemon.gateway_ipv4)


def start_wireguard_go(stack: ExitStack) -> Endpoint:
    """wireguard-go on both sides."""
    world = stack.enter_context(network_world())
    keys = [PrivateKey.generate() for _ in range(2)]
    private = [base64.b64encode(bytes(key)).decode() for key in keys]
    public = [base64.b64encode(bytes(key.public_key)).decode() for key in keys]
    server = stack.enter_context(wireguard_go(world.host))
    server.configure(
        f"[Interface]\nPrivateKey={private[0]}\nListenPort=51820\nAddress=10.80.0.1/24\n"
        f"[Peer]\nPublicKey={public[1]}\nAllowedIPs=10.80.0.2/32\n"
    )
    device: WireguardGo = stack.enter_context(wireguard_go(world.device))
    device.configure(
        f"[Interface]\nPrivateKey={private[1]}\nAddress=10.80.0.2/24\n"
        f"[Peer]\nPublicKey={public[0]}\nAllowedIPs=10.80.0.1/32\nEndpoint={World.HOST_IPV4}:51820\n"
    )
    servers(world, "10.80.0.1")
    return Endpoint("wireguard-go", world, server.pid, "10.80.0.1")


def measure(endpoints: list[Endpoint], rounds: int, seconds: int) -> dict[str, dict[str, float]]:
    """All figures, by endpoint and name."""
    found: dict[str, dict[str, list[float]]] = {endpoint.name: {} for endpoint in endpoints}
    for endpoint in endpoints:  # sessions, caches and congestion windows warm
        bulk(endpoint, False, 1)
    for _ in range(rounds):
        for endpoint in endpoints:
            figures = found[endpoint.name]
            for direction in ("up", "down"):
                rate, cpu = bulk(endpoint, direction == "down", seconds)
                figures.setdefault(f"{direction}_mbit_s", []).append(rate)
                figures.setdefault(f"{direction}_cpu_s_gb", []).append(cpu)
            figures.setdefault("connects_s", []).append(connects(endpoint, seconds / 2))
    medians = {
        name: {figure: statistics.median(values) for figure, values in figures.items()}
        for name, figures in found.items()
    }
    for endpoint in endpoints:
        medians[endpoint.name]["rss_mb"] = resident_megabytes(endpoint.pid)
    return medians


def table(figures: dict[str, dict[str, float]]) -> str:
    """For people."""
    ours, theirs = figures["lopower"], figures["wireguard-go"]
    lines = [f"{'':<22}{'lopower':>10}{'wireguard-go':>14}{'ratio':>8}"]
    for key, label in (
        ("up_mbit_s", "up, Mbit/s"),
        ("down_mbit_s", "down, Mbit/s"),
        ("up_cpu_s_gb", "up, CPU s/GB"),
        ("down_cpu_s_gb", "down, CPU s/GB"),
        ("connects_s", "connects/s"),
        ("rss_mb", "RSS after load, MB"),
    ):
        digits = 2 if "cpu" in key else 0
        lines.append(f"{label:<22}{ours[key]:>10.{digits}f}{theirs[key]:>14.{digits}f}{ours[key] / theirs[key]:>7.2f}x")
    return "\n".join(lines)


def layer_of(function: tuple[str, int, str]) -> str | None:
    """The part of lopower that a profiled function belongs to; None: Python's, or a library's."""
    _, found, rest = function[0].partition("/lopower/")
    return rest.split("/")[0].removesuffix(".py") if found else None


def layers(profile: Path) -> str:
    """Where the time went. What lopower calls (the kernel, the AEAD, numpy) is charged to the layer that called it."""
    seconds: Counter[str] = Counter()
    functions: dict[Any, Any] = pstats.Stats(str(profile)).stats  # type: ignore[attr-defined]
    for function, (_, _, own, _, callers) in functions.items():
        layer = layer_of(function)
        if layer is not None:
            seconds[layer] += own
            continue
        for caller, (_, _, share, _) in callers.items():
            waiting = "select.epoll" in function[2]
            seconds["waiting" if waiting else layer_of(caller) or "Python"] += share
    total = sum(seconds.values())
    return "\n".join(f"{layer:<22}{own:>8.2f} s{own / total:>8.1%}" for layer, own in seconds.most_common())


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make bench-quick", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--profile", type=Path, help="run the daemon under cProfile, write its statistics here, print layers"
    )
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench-quick needs root: it uses network namespaces and TUN devices")
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lopower-bench-")))
        endpoints = [start_lopower(stack, directory, arguments.profile), start_wireguard_go(stack)]
        figures = measure(endpoints, arguments.rounds, arguments.seconds)
    print(json.dumps(figures, indent=2) if arguments.json else table(figures))
    if not arguments.json:
        print(f"\nmedians of {arguments.rounds} rounds, {time.monotonic() - began:.0f} s in all")
    if arguments.profile:
        print(f"\nlopower by layer:\n{layers(arguments.profile)}", file=sys.stderr)


if __name__ == "__main__":
    main()
