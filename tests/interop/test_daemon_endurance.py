"""The daemon after a thousand flows, and after being killed again and again: nothing is left over, nothing is lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.lopower_daemon import LOPOWER, LopowerDaemon
from tests.support.netns import World, network_world, wait_until
from tests.support.wireguard_go import wireguard_go

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-endurance")]

CONNECTS = Path(__file__).parents[1] / "bench" / "connects.py"
PORT = 5202
FLOWS, AT_A_TIME = 1000, 200

OPEN_AND_CLOSE = f"""
import socket, struct, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
for turn in range({FLOWS // AT_A_TIME}):
    flows = []
    for number in range({AT_A_TIME}):
        flow = socket.socket(family, socket.SOCK_STREAM)
        flow.settimeout(20)
        flow.connect((sys.argv[1], {PORT}))
        flows.append(flow)
    for flow in flows:
        flow.send(b"x")
    for flow in flows:
        assert flow.recv(1) == b"x"
    for number, flow in enumerate(flows):
        if number % 4 == 0:
            flow.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif number % 4 == 1:
            flow.shutdown(socket.SHUT_WR)
            assert flow.recv(1) == b""
        flow.close()
"""


def descriptors(pid: int) -> int:
    """Open ones of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_megabytes(pid: int) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_thousand_flows_leave_nothing(tmp_path: Path) -> None:
    with network_world() as world:
        daemon = LopowerDaemon(world.host, tmp_path, endpoint=World.HOST_IPV4)
        daemon.start()
        try:
            configuration = daemon.lopower("device", "add", "kitchen")
            world.start(world.host, sys.executable, CONNECTS, "server", "127.0.0.1", str(PORT))
            world.host.wait_for_port(PORT)
            daemon.lopower("serve", str(PORT))
            with wireguard_go(world.device) as device:
                device.configure(configuration)
                world.device.run(sys.executable, "-c", OPEN_AND_CLOSE, daemon.gateway_ipv4)
                settled(daemon)
                before, memory = descriptors(daemon.pid), resident_megabytes(daemon.pid)
                for gateway in (daemon.gateway_ipv4, daemon.gateway_ipv6):
                    world.device.run(sys.executable, "-c", OPEN_AND_CLOSE, gateway)
                settled(daemon)
                wait_until(lambda: descriptors(daemon.pid) <= before, 10, f"no more than {before} descriptors")
                assert resident_megabytes(daemon.pid) < memory + 8
            assert daemon.stop() == 0
            assert "internal error" not in daemon.log.read_text()
        finally:
            daemon.stop()


def settled(daemon: LopowerDaemon) -> None:
    """The device has no flows any more."""
    wait_until(lambda: daemon.json("device", "show", "kitchen")["tcp_flows"] == 0, 15, "no flows")


def test_killed_while_devices_are_added(tmp_path: Path) -> None:
    """What `device add` has printed is on the disk; what it has not may be there or not, but never by half."""
    source = random.Random(4)
    printed: set[str] = set()
    with network_world() as world:
        daemon = LopowerDaemon(world.host, tmp_path, endpoint=World.HOST_IPV4)
        try:
            for number in range(8):
                daemon.start()
                adding = [
                    subprocess.Popen(
                        [LOPOWER, "device", "add", f"device-{number}-{which}", "--state-dir", str(daemon.state_dir)],
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                    )
                    for which in range(3)
                ]
                time.sleep(source.uniform(0.2, 0.9))
                daemon.kill()
                for which, process in enumerate(adding):
                    said, _ = process.communicate(timeout=30)
                    if process.returncode == 0:
                        assert "PrivateKey" in said
                        printed.add(f"device-{number}-{which}")
            daemon.start()
            devices = daemon.json("device", "list")
            devices = devices["devices"] if isinstance(devices, dict) else devices
            names = [device["name"] for device in devices]
            assert printed
            assert printed <= set(names)
            for unique in ("name", "ipv4", "ipv6", "public_key"):
                assert len({device[unique] for device in devices}) == len(devices)
            assert "PrivateKey" in daemon.lopower("device", "add", "one-more")
            assert daemon.stop() == 0
        finally:
            daemon.stop()
