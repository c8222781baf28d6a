"""Namespaces hold what is put in them, and nothing of them stays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.netns import World, network_world, one_namespace, remove_orphans

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-support")]


def test_a_socket_opened_inside_stays_inside() -> None:
    with one_namespace("one") as space:
        with space.call(lambda: socket.create_server(("127.0.0.1", 4321))):
            space.wait_for_port(4321)
        with pytest.raises(ZeroDivisionError):
            space.call(lambda: 1 // 0)


def test_deleting_ends_what_runs_inside() -> None:
    with one_namespace("one") as space:
        process = space.popen("sh", "-c", "echo ready; exec sleep 1000", stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    assert process.wait(10) == -9
    assert not Path(f"/run/netns/{space.name}").exists()


def test_a_capture_sees_what_passes() -> None:
    with network_world() as world:
        opened = world.device.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        with opened, world.device.capture("out0", "udp", "port", "5353") as lines:
            opened.sendto(b"seen", (World.HOST_IPV4, 5353))
        assert any(f"> {World.HOST_IPV4}.5353" in line for line in lines)


def test_namespaces_of_a_killed_maker_are_removed() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.support.netns import Namespace\n"
        "print(Namespace('orphan').name, flush=True); os.kill(os.getpid(), 9)\n"
    )
    with one_namespace("alive") as alive:
        said = subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parents[3])],
            capture_output=True, text=True, check=False, env=os.environ,
        ).stdout  # fmt: skip
        orphan = Path("/run/netns") / said.strip()
        assert orphan.exists()
        remove_orphans()
        assert not orphan.exists()
        assert Path(f"/run/netns/{alive.name}").exists()
