"""Echo beyond the gateway through real ping sockets, where the host permits them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.requirements import require_program, require_root

ROOT = Path(__file__).parents[2]
SETUP = """
set -e
ip link set lo up
echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range
ip address add 100.64.0.9/32 dev lo
ip address add fd7a:115c:a1e0::9/128 dev lo nodad
ip route add unreachable 100.64.1.0/24
ip link add far type veth peer name near
ip link set near up
ip link set far up
ip address add 100.64.2.7/24 dev near
ip neighbour add 100.64.2.1 lladdr 02:00:00:00:00:01 dev near
exec "$PYTHON" -W error -m tests.support.bridge_ping_namespace
"""


@pytest.mark.netns
def test_ping_sockets() -> None:
    require_root()
    unshare = require_program("unshare")
    require_program("ip")
    environment = {
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{ROOT}/host:{ROOT}",
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    done = subprocess.run(
        [unshare, "--net", "sh", "-c", SETUP], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
