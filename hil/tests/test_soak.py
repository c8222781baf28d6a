"""Hours of traffic, with rekeys in the middle of it: `--soak 8h`."""

from __future__ import annotations

import time

import pytest

from lopower_hil.bench import Board, Proxy
from tests.support import bench_servers as servers
from tests.support.figures import Figure

ROUND_SECONDS = 20
REKEY_SECONDS = 120
"""REKEY_AFTER_TIME (WireGuard, section 6.1)."""


@pytest.mark.soak
def test_soak(device: Board, proxy: Proxy, pytestconfig: pytest.Config, figure: Figure) -> None:
    """Every byte arrives, sessions are renewed under load, and the heap stays what it was."""
    length: float = pytestconfig.getoption("--soak")
    program = f"""
import gc, socket, time
deadline = time.ticks_add(time.ticks_ms(), {ROUND_SECONDS * 1000})
moved, buffer = 0, bytearray(2048)
while time.ticks_diff(deadline, time.ticks_ms()) > 0:
    sock = socket.socket()
    sock.connect(({proxy.gateway!r}, 9000))
    sock.write(b"get 50000\\n")
    got = 0
    while True:
        n = sock.readinto(buffer)
        if not n:
            break
        got += n
    sock.close()
    assert got == 50000, got
    moved += got
gc.collect()
print(moved, gc.mem_free())
"""
    free: list[int] = []
    handshakes: set[int] = set()
    moved = 0
    with servers.bulk() as port:
        proxy.serve(9000, port)
        end = time.monotonic() + length
        while time.monotonic() < end:
            said = device.run(program, ROUND_SECONDS * 4).split()
            moved += int(said[0])
            free.append(int(said[1]))
            handshakes.add(round((time.monotonic() - proxy.device(device.device)["latest_handshake"]) / 30))
    figure("moved", moved / 1e6, "MB")
    figure("free heap, the least", min(free), "bytes")
    assert len(handshakes) >= length // (2 * REKEY_SECONDS)
    assert min(free[1:] or free) > free[0] * 0.8, free
