"""Integers of a board have 31 bits without an object of their own: the packet path must never hold a greater one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from tests.support.micropython import FIRMWARE, SUITE

PACKET_PATH = ("peer.py", "keypair.py", "ip.py", "ring.py", "tcp.py", "udp.py", "stack.py", "ticks.py", "addresses.py")
ONCE = ("_new_index", "__init__")  # per handshake: an index of 32 random bits
LEAST, GREATEST = -(1 << 30), (1 << 30) - 1


class Watch:
    """All integers that the packet path's locals hold, line by line."""

    def __init__(self) -> None:
        self.found: set[tuple[str, str, int]] = set()
        self.lines = 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.parent != FIRMWARE / "lopower_device" or path.name not in PACKET_PATH or frame.f_code.co_name in ONCE:
            return None
        return self._line

    def _line(self, frame: FrameType, event: str, value: Any) -> Any:
        self.lines += 1
        for name, held in frame.f_locals.items():
            if type(held) is int and not LEAST <= held <= GREATEST:
                self.found.add((frame.f_code.co_name, name, held))
        if event == "return" and type(value) is int and not LEAST <= value <= GREATEST:
            self.found.add((frame.f_code.co_name, "return", value))
        return self._line


@pytest.fixture
def worlds() -> Any:
    if str(SUITE) not in sys.path:
        sys.path.append(str(SUITE))
    return importlib.import_module("worlds")


def _attributes(thing: object) -> set[tuple[str, str, int]]:
    return {
        (type(thing).__name__, name, value)
        for name, value in vars(thing).items()
        if type(value) is int and not LEAST <= value <= GREATEST
    }


def _traced(watch: Watch, action: Any) -> None:
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        action()
    finally:
        sys.settrace(before)


def _wrap_soon(net: Any) -> None:
    """Initial sequence numbers just below 2^32."""
    net.one.entropy = net.other.entropy = lambda n: b"\xff" * (n - 1) + bytes((net.random(256),))


def _exchange(net: Any, client: Any, server: Any) -> None:
    taken = 0
    buffer = bytearray(1000)

    def enough() -> bool:
        nonlocal taken
        if client.can_write:
            client.write(bytes(900), 0, 900, net.now)
        taken += server.read(buffer, 1000, net.now)
        return bool(taken > 12_000)

    net.run(enough)


def test_tcp(worlds: Any) -> None:
    """A bad link, both families, sequence numbers and time that wrap."""
    watch = Watch()
    for ipv6 in (False, True):
        net = worlds.Net(loss=5, duplicate=5, reorder=10, ipv6=ipv6)
        _wrap_soon(net)
        client, server = net.connected()
        _traced(watch, lambda pair=(net, client, server): _exchange(*pair))
        for connection in (client, server):
            watch.found |= _attributes(connection) | _attributes(connection.received)
    assert watch.lines > 10_000
    assert not watch.found


def test_sessions(worlds: Any) -> None:
    """Data messages, keepalives and timers."""
    watch = Watch()
    tunnel = worlds.Tunnel(keepalive=25_000)
    tunnel.connect()

    def exchange() -> None:
        for size in (20, 100, 1420):
            for side in (0, 1):
                tunnel.send(side, worlds.ipv4(size))
                assert tunnel.settle()
        tunnel.wait(60_000, 5000)

    _traced(watch, exchange)
    watch.found |= _attributes(tunnel.one) | _attributes(tunnel.one.current)
    assert watch.lines > 500
    assert not watch.found


def test_the_watch_sees(worlds: Any) -> None:
    """What must be found, is."""
    watch = Watch()
    from lopower_device import ticks

    _traced(watch, lambda: ticks.add(1 << 31, 1))
    assert watch.found
