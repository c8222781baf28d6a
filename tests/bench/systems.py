"""The systems under test, each in namespaces of its own with wireguard-go as the device, and their loads.

Behind lopower and wireguard-go's endpoint is an iperf3 server: for lopower on the host's loopback, reached through
`lopower serve`; for wireguard-go's endpoint on the tunnel's address, that is, through the kernel's own TCP. Behind
lopower's tsnet driver is a node of a test tailnet, in a process of its own that is not counted.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from nacl.public import PrivateKey

from tests.bench import connects, stream
from tests.support import tailnet_programs
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import Namespace, World, join, network_world
from tests.support.tailnet_world import sidecar_directory
from tests.support.wireguard_go import WireguardGo, wireguard_go

IPERF_PORT: Final = 5201
CONNECT_PORT: Final = 5202
ECHO_PORT: Final = 7  # of a peer of the test tailnet
_JOIN_SECONDS: Final = 30.0
_PROGRAMS: Final = {module: str(module.__file__) for module in (connects, stream)}


class Load(Protocol):
    """What is sent through a system."""

    def bulk(self, down: bool, seconds: int) -> tuple[int, float]:
        """One transfer: bytes, and seconds they took."""

    def connects(self, seconds: float) -> float:
        """Connections per second."""


@dataclass(frozen=True, slots=True)
class System:
    """One system under test.

    Attributes:
        processes: process ids of what is counted, by name.
    """

    name: str
    processes: dict[str, int]
    load: Load


@dataclass(frozen=True, slots=True)
class IperfLoad:
    """iperf3, and the connection server beside it, at one address as the device dials it."""

    world: World
    target: str

    def serve(self, host: str) -> None:
        """Start both servers in the host's namespace."""
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.world.start(self.world.host, "iperf3", "-s", "-B", host, "-p", str(IPERF_PORT), **quiet)
        self.world.start(self.world.host, sys.executable, _PROGRAMS[connects], "server", host, str(CONNECT_PORT))

    def bulk(self, down: bool, seconds: int) -> tuple[int, float]:
        """As `Load.bulk`."""
        command = ["iperf3", "-c", self.target, "-p", str(IPERF_PORT), "-t", str(seconds), "-J"]
        report = json.loads(self.world.device.run(*command, *(["-R"] if down else []), timeout=seconds + 30))
        if "error" in report:
            raise RuntimeError(f"iperf3 to {self.target}: {report['error']}")
        received = report["end"]["sum_received"]
        return received["bytes"], received["bytes"] * 8 / received["bits_per_second"]

    def connects(self, seconds: float) -> float:
        """As `Load.connects`."""
        return _connects(self.world, self.target, CONNECT_PORT, seconds)


@dataclass(frozen=True, slots=True)
class TailnetLoad:
    """What a peer of the test tailnet serves."""

    world: World
    target: str

    def bulk(self, down: bool, seconds: int) -> tuple[int, float]:
        """As `Load.bulk`."""
        arguments = ("down" if down else "up", self.target, str(seconds))
        said = json.loads(self.world.device.run(sys.executable, _PROGRAMS[stream], *arguments, timeout=seconds + 60))
        return said["bytes"], said["seconds"]

    def connects(self, seconds: float) -> float:
        """As `Load.connects`."""
        return _connects(self.world, self.target, ECHO_PORT, seconds)


def _connects(world: World, target: str, port: int, seconds: float) -> float:
    said = world.device.run(sys.executable, _PROGRAMS[connects], "client", target, str(port), str(seconds))
    return float(said.split()[0])


def start_lopower(stack: ExitStack, directory: Path, profile: Path | None) -> System:
    """lopower with the host driver."""
    world = stack.enter_context(network_world())
    daemon = LopowerDaemon(world.host, directory, "--tailnet", "host", endpoint=World.HOST_IPV4, profile=profile)
    stack.callback(daemon.stop)
    daemon.start()
    load = IperfLoad(world, daemon.gateway_ipv4)
    load.serve("127.0.0.1")
    for port in (IPERF_PORT, CONNECT_PORT):
        daemon.lopower("serve", str(port))
    _add_device(stack, world, daemon)
    return System("lopower", {"daemon": daemon.pid}, load)


def start_tailnet(stack: ExitStack, directory: Path, profile: Path | None) -> System:
    """lopower with the tsnet driver, in a test tailnet with one peer."""
    world = stack.enter_context(network_world())
    announced = _start_peer(world, tailnet_programs.world())
    os.environ["PATH"] = f"{sidecar_directory(directory)}:{os.environ['PATH']}"
    os.environ |= {"TS_PANIC_IF_HIT_MAIN_CONTROL": "1", "TS_DISABLE_PORTMAPPER": "1"}
    flags = ("--tailnet", "tsnet", "--control-url", announced["control_url"])
    daemon = LopowerDaemon(world.host, directory, *flags, endpoint=World.HOST_IPV4, profile=profile)
    stack.callback(daemon.stop)
    daemon.start()
    deadline = time.monotonic() + _JOIN_SECONDS
    while not (status := daemon.json("status")["data_plane"]["tailnet"])["connected"]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"lopower did not join the test tailnet: {status}\n{daemon.log.read_text()}")
        time.sleep(0.1)
    _add_device(stack, world, daemon)
    processes = {"daemon": daemon.pid, "sidecar": status["sidecar"]["process"]}
    return System("tailnet", processes, TailnetLoad(world, announced["peers"][0]["addresses"][0]))


def start_wireguard_go(stack: ExitStack) -> System:
    """wireguard-go on both sides."""
    return start_pair(stack)[0]


def start_pair(stack: ExitStack, other: Namespace | None = None) -> tuple[System, WireguardGo]:
    """wireguard-go on both sides, and the one that is the device; and another device in `other`."""
    world = stack.enter_context(network_world())
    keys = [PrivateKey.generate() for _ in range(3)]
    private = [base64.b64encode(bytes(key)).decode() for key in keys]
    public = [base64.b64encode(bytes(key.public_key)).decode() for key in keys]
    server = stack.enter_context(wireguard_go(world.host))
    server.configure(
        f"[Interface]\nPrivateKey={private[0]}\nListenPort=51820\nAddress=10.80.0.1/24\n"
        f"[Peer]\nPublicKey={public[1]}\nAllowedIPs=10.80.0.2/32\n"
        f"[Peer]\nPublicKey={public[2]}\nAllowedIPs=10.80.0.3/32\n"
    )
    if other is not None:
        join_host(world, other, 0)
        stack.enter_context(wireguard_go(other)).configure(
            f"[Interface]\nPrivateKey={private[2]}\nAddress=10.80.0.3/24\n"
            f"[Peer]\nPublicKey={public[0]}\nAllowedIPs=10.80.0.1/32\nEndpoint={World.HOST_IPV4}:51820\n"
        )
    device: WireguardGo = stack.enter_context(wireguard_go(world.device))
    device.configure(
        f"[Interface]\nPrivateKey={private[1]}\nAddress=10.80.0.2/24\n"
        f"[Peer]\nPublicKey={public[0]}\nAllowedIPs=10.80.0.1/32\nEndpoint={World.HOST_IPV4}:51820\n"
    )
    load = IperfLoad(world, "10.80.0.1")
    load.serve("10.80.0.1")
    return System("wireguard-go", {"endpoint": server.pid}, load), device


def join_host(world: World, space: Namespace, number: int) -> None:
    """A link of its own from a further device's namespace to the world's host."""
    world.namespaces.append(space)
    join(space, world.host, "out0", f"more{number}")
    near, far = (f"203.0.113.{number * 4 + last}" for last in (1, 2))
    world.host.ip("address", "add", f"{near}/30", "dev", f"more{number}")
    space.ip("address", "add", f"{far}/30", "dev", "out0")
    space.ip("route", "add", f"{World.HOST_IPV4}/32", "via", near)


def _add_device(stack: ExitStack, world: World, daemon: LopowerDaemon) -> None:
    configuration = daemon.lopower("device", "add", "bench")
    stack.enter_context(wireguard_go(world.device)).configure(configuration)


def _start_peer(world: World, program: Path) -> dict[str, Any]:
    """Start the test tailnet with one peer; what it announces."""
    started = world.start(world.host, program, "-peers", "peer", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdout is not None
    announcement: dict[str, Any] = json.loads(started.stdout.readline() or "{}")
    if not announcement:
        raise RuntimeError("the test tailnet did not start")
    return announcement
