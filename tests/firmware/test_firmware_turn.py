"""How long one turn of the tunnel holds the program, with a clock that its work moves on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lopower_device
import pytest
from lopower_device import counters as c
from lopower_device import peer as peers
from lopower_device import ticks, tunnel
from lopower_device.addresses import Networks
from lopower_device.noise import public_key

from tests.support.micropython import SUITE

LONGEST = 25
SLICE, OPENED, SENT = 6, 2, 2
"""Milliseconds that a slice of a handshake, a received and a sent packet are charged with; more than by emulation."""
LOADED, LARGEST = 12, 2048
"""Milliseconds that a file of a handshake is charged with, and its bytes at most: 8 to find it in littlefs (four
look-ups), 1.5 per KB; assumed, not measured."""
KEYS = (b"\1" * 32, b"\2" * 32)
OURS, FAR = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))


class World:
    """A tunnel whose outer socket leads to a peer and a stack of the same package; each packet takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, worlds: Any) -> None:
        self.now = 1000
        self.inbox: list[bytes] = []
        self.flood: Callable[[], bytes | None] = lambda: None
        self.is_lost = False
        self.is_ours = False
        self.loads = 0
        monkeypatch.setattr(tunnel, "clock", lambda: self.now)
        proxy = SimpleNamespace(
            private_key=KEYS[0],
            public_key=public_key(KEYS[1]),
            preshared_key=None,
            mtu=1420,
            allowed=Networks(["10.0.0.0/8"]),
            persistent_keepalive=0,
            addresses=[OURS],
            endpoints=[("192.0.2.1", 51820)],
            dns=[],
        )
        settings = SimpleNamespace(proxies=[proxy], written=1_790_000_000, sntp=False)
        sockets = SimpleNamespace(
            SOCK_DGRAM=2, getaddrinfo=lambda *_: [(2, 2, 0, "", ("192.0.2.1", 51820))], socket=lambda *_: self
        )
        monkeypatch.setattr(tunnel.Tunnel, "poller", lambda _: self)
        self.tunnel = tunnel.Tunnel(settings, sockets, "count")
        self._charge(monkeypatch)
        self.far = worlds.Tunnel().other
        self.far_stack = worlds.Stack(peer=self.far, addresses=[FAR], mtu=1420, entropy=worlds.Random(3).bytes)
        self.far._transmit = lambda buffer, length: self.inbox.append(bytes(buffer[:length]))

    def _charge(self, monkeypatch: pytest.MonkeyPatch) -> None:
        peer = self.tunnel.peer
        step, load = peer.step, lopower_device._load

        def charged(now: int) -> bool:
            if peer._job is None:
                return bool(step(now))
            before, self.is_ours = self.loads, True
            more = bool(step(now))
            self.is_ours = False
            assert self.loads <= before + 1
            self.now = ticks.add(self.now, LOADED if self.loads > before else SLICE)
            return more

        def counted(name: str) -> Any:
            self.loads += self.is_ours
            return load(name)

        monkeypatch.setattr(peer, "step", charged)
        monkeypatch.setattr(peers, "_load", counted)
        monkeypatch.setattr(lopower_device, "_load", counted)

    # --- what the tunnel has for a socket and its poll

    def setblocking(self, flag: bool) -> None: ...

    def connect(self, address: Any) -> None: ...

    def ipoll(self, timeout: int) -> list[int]:
        if not self.inbox:
            more = self.flood()
            if more is not None:
                self.inbox.append(more)
        return [1] if self.inbox else []

    def close(self) -> None:
        raise AssertionError("the proxy has answered")

    def recv(self, size: int) -> bytes:
        self.now = ticks.add(self.now, OPENED)
        return self.inbox.pop(0)

    def send(self, datagram: memoryview) -> None:
        self.now = ticks.add(self.now, SENT)
        if self.is_lost:
            return
        self.far.rx[: len(datagram)] = datagram
        length = self.far.receive(len(datagram), self.now)
        if length:
            self.far_stack.receive(length, self.now)
        self.compute()

    def compute(self) -> None:
        ours, self.is_ours = self.is_ours, False
        while self.far.step(self.now):
            pass
        self.is_ours = ours

    # --- time

    def turn(self) -> int:
        began = self.now
        self.tunnel.pump()
        took: int = ticks.diff(self.now, began)
        self.now = ticks.add(self.now, 1)
        return took

    def until(self, condition: Callable[[], object]) -> int:
        longest = 0
        for _ in range(3000):
            if condition():
                return longest
            longest = max(longest, self.turn())
            self.far.handle_timers(self.now)
            while self.far_stack.handle_timers(self.now):
                pass
        raise AssertionError("not in time")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> World:
    monkeypatch.chdir(tmp_path)
    if str(SUITE) not in sys.path:
        sys.path.append(str(SUITE))
    return World(monkeypatch, importlib.import_module("worlds"))


def _connected(world: World, count: int) -> list[Any]:
    listener = world.far_stack.listen(80, count)
    made = [world.tunnel.stack.connect((FAR, 80), world.now) for _ in range(count)]
    world.until(lambda: len(listener.ready) == count and all(connection.is_open for connection in made))
    return made


def test_handshake(world: World) -> None:
    """The first one, over a flood of datagrams that are none of ours: it is done, and no turn is long."""
    world.flood = lambda: b"\4\0\0\0" + bytes(1400)
    assert LOADED <= world.until(world.tunnel.is_up) <= LONGEST
    assert world.loads == len(peers.PROGRAM) + 3  # the initiation's, the time stamp's, the response's
    assert world.tunnel.peer.counters[c.UNKNOWN_INDEX] > 100


def test_rekey_under_load(world: World) -> None:
    """A flood of authentic datagrams, with a second handshake, and a connection that goes on beneath."""
    world.until(world.tunnel.is_up)
    (client,) = _connected(world, 1)
    buffer, completed = bytearray(4000), world.tunnel.peer.counters[c.HANDSHAKES_COMPLETED]

    def flood() -> bytes:
        world.far.tx[16:64] = b"\x45\0\0\x30" + bytes(5) + b"\x11" + bytes(2) + FAR + OURS + bytes(28)
        world.far.send(48, world.now)
        return world.inbox.pop()

    world.flood = flood
    loads = world.loads
    world.now = ticks.add(world.now, peers.KEEP_PROGRAM)
    world.turn()
    assert world.tunnel.peer._program is None
    world.tunnel.peer.restart(world.now)
    client.write(bytes(2760), 0, 2760, world.now)
    server = world.far_stack.connections[0]

    def is_done() -> bool:
        server.read(buffer, 4000, world.now)
        has_rekeyed = world.tunnel.peer.counters[c.HANDSHAKES_COMPLETED] > completed
        return bool(has_rekeyed and not client.outgoing.length)

    assert 12 <= world.until(is_done) <= LONGEST
    assert world.loads == loads + len(peers.PROGRAM) + 3
    assert world.tunnel.stack.counters[c.MALFORMED_UDP] > 100


def test_answer_under_load(world: World) -> None:
    """The proxy begins a handshake: what answers it is loaded within slices, too."""
    world.until(world.tunnel.is_up)
    world.now = ticks.add(world.now, peers.KEEP_PROGRAM)
    world.turn()
    loads, peer = world.loads, world.tunnel.peer
    world.flood = lambda: b"\4\0\0\0" + bytes(1400)
    world.far.restart(world.now)
    world.compute()
    assert world.until(lambda: peer.counters[c.RESPONSES_SENT]) <= LONGEST
    assert world.loads == loads + len(peers.PROGRAM) + 1


def test_all_connections_retransmit(world: World) -> None:
    """Twelve time out together: one after the other, and nobody is left out."""
    world.until(world.tunnel.is_up)
    connections = _connected(world, 12)
    world.is_lost = True
    for connection in connections:
        connection.write(bytes(2000), 0, 2000, world.now)
    world.now = ticks.add(world.now, 3000)
    longest = 0
    for _ in range(12):
        longest = max(longest, world.turn())
    assert 12 <= longest <= LONGEST
    assert world.tunnel.stack.counters[c.RETRANSMITS] >= 12
    assert all(connection._retries for connection in connections)


def test_small_segments(world: World) -> None:
    """A peer that takes 64 bytes at a time gets no more than a few of them per turn, and all in the end."""
    world.until(world.tunnel.is_up)
    world.far_stack.mss = lambda _: 64
    (client,) = _connected(world, 1)
    began = world.now
    client.write(bytes(2760), 0, 2760, began)
    assert ticks.diff(world.now, began) <= LONGEST - tunnel.TURN  # what a datagram makes a connection send is as short
    server, buffer = world.far_stack.connections[0], bytearray(4000)
    taken = 0

    def is_done() -> bool:
        nonlocal taken
        taken += server.read(buffer, 4000, world.now)
        return bool(taken == 2760)

    assert world.until(is_done) <= LONGEST
