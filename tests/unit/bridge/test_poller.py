"""The poller: edges once, nothing after removal, and the portable way the same."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator

import pytest

from lopower.bridge.poller import END, READ, WRITE, Poller


class Watcher:
    """A poller with two connected sockets, and what was reported for the first."""

    def __init__(self, use_epoll: bool) -> None:
        self.turns = 0
        self.poller = Poller(asyncio.get_running_loop(), self._wanted, use_epoll)
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.masks: list[int] = []
        self.woken = asyncio.Event()

    def _wanted(self) -> None:
        self.turns += 1
        self.woken.set()

    async def dispatch(self) -> list[int]:
        """Wait for the loop to ask for a turn, and take it."""
        self.masks.clear()
        self.woken.clear()
        await asyncio.wait_for(self.woken.wait(), 2)
        self.poller.dispatch()
        return self.masks

    async def is_quiet(self) -> bool:
        """Whether the loop asks for no turn any more, once what it had scheduled has run."""
        await asyncio.sleep(0)
        self.woken.clear()
        await asyncio.sleep(0.02)
        return not self.woken.is_set()


@pytest.fixture(params=[True, False], ids=["epoll", "portable"])
async def watcher(request: pytest.FixtureRequest) -> AsyncIterator[Watcher]:
    made = Watcher(request.param)
    yield made
    made.poller.close()
    made.near.close()
    made.far.close()


async def test_reports_readable_and_writable_once(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    assert await watcher.dispatch() == [WRITE]
    assert await watcher.is_quiet()
    watcher.far.send(b"x")
    assert (await watcher.dispatch())[0] & READ
    assert await watcher.is_quiet()


async def test_more_data_is_a_new_edge_after_would_block(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    await watcher.dispatch()
    for _ in range(3):
        watcher.far.send(b"x")
        assert (await watcher.dispatch())[0] & READ
        watcher.near.recv(10)
        with pytest.raises(BlockingIOError):
            watcher.near.recv(10)
        watcher.poller.rearm(watcher.near.fileno(), READ)


async def test_the_end_is_reported(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    await watcher.dispatch()
    watcher.far.close()
    mask = (await watcher.dispatch())[0]
    assert mask & READ
    assert bool(mask & END) == watcher.poller.edge_triggered
    assert watcher.near.recv(10) == b""


async def test_room_to_write_is_reported_after_would_block(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    await watcher.dispatch()
    with contextlib.suppress(BlockingIOError):
        while watcher.near.send(bytes(65_536)):
            pass
    watcher.poller.rearm(watcher.near.fileno(), WRITE)
    watcher.far.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while watcher.far.recv(1 << 20):
            pass
    assert (await watcher.dispatch())[0] & WRITE


async def test_room_on_demand_is_reported_once_for_each_rearm_and_not_for_each_read(watcher: Watcher) -> None:
    fd = watcher.near.fileno()
    watcher.poller.add(fd, watcher.masks.append, write_on_demand=True)
    for _ in range(2):
        assert await watcher.is_quiet()
        watcher.near.send(b"x")
        watcher.far.recv(10)  # a unix socket has room again, and says so to who has asked
        assert await watcher.is_quiet()
        watcher.poller.rearm(fd, WRITE)
        assert (await watcher.dispatch())[0] & WRITE
    watcher.far.send(b"x")
    assert (await watcher.dispatch())[0] & READ


async def test_nothing_is_called_after_remove(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    watcher.far.send(b"x")
    await asyncio.sleep(0.02)
    watcher.poller.remove(watcher.near.fileno())
    watcher.poller.dispatch()
    assert watcher.masks == []
    assert len(watcher.poller) == 0
    assert await watcher.is_quiet()
    watcher.poller.remove(watcher.near.fileno())


async def test_a_callback_may_close_another_whose_number_is_used_again(watcher: Watcher) -> None:
    """A readiness that belonged to a closed socket is not reported to the one that got its number."""
    pairs = [socket.socketpair() for _ in range(2)]
    calls: list[str] = []
    fds = [pair[0].fileno() for pair in pairs]
    reborn: list[socket.socket] = []

    def first_come(number: int, mask: int) -> None:
        calls.append(f"old {number}")
        other = 1 - number
        if pairs[other][0].fileno() >= 0:
            watcher.poller.remove(fds[other])
            pairs[other][0].close()
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            reborn.append(made)
            if made.fileno() == fds[other]:
                watcher.poller.add(made.fileno(), lambda mask: calls.append("new"))

    for number in range(2):
        watcher.poller.add(fds[number], functools.partial(first_come, number))
    await asyncio.sleep(0.02)
    watcher.poller.dispatch()
    assert len(calls) == 1
    assert calls[0].startswith("old")
    for pair in pairs:
        for end in pair:
            if end.fileno() >= 0:
                watcher.poller.remove(end.fileno())
                end.close()
    for made in reborn:
        watcher.poller.remove(made.fileno())
        made.close()


async def test_close_is_idempotent_and_leaves_no_descriptor(watcher: Watcher) -> None:
    watcher.poller.add(watcher.near.fileno(), watcher.masks.append)
    watcher.poller.close()
    watcher.poller.close()
    assert len(watcher.poller) == 0


async def test_wake_asks_for_a_turn(watcher: Watcher) -> None:
    watcher.poller.wake()
    assert watcher.turns == 1
