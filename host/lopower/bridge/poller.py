"""Readiness of upstream sockets: one edge-triggered epoll, itself watched by asyncio.

asyncio's selector is level-triggered and costs a callback for every readiness and a system call for every change of
mind. A flow that is held back by its device's window would wake it without end, or have to be taken out and put in
again for every chunk. Edge-triggered, a socket is registered once for its life; a flow remembers that it may be read
until the kernel said "would block". An epoll descriptor is readable while it has events, so the loop watches that one.

Where there is no epoll, `loop.add_reader` and `add_writer` do, made one-shot: a readiness is reported once, and again
after `rearm`. Owners rearm when the kernel said "would block", which costs nothing where it is not needed.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Final

# What `Ready` callbacks are told. END: the other side will send no more, or the socket failed: reading goes on until it
# says which, however short the reads before were.
READ: Final = 1
WRITE: Final = 2
END: Final = 4

Ready = Callable[[int], None]

_EPOLL: Final = hasattr(select, "epoll")
_MAX_EVENTS: Final = 1024  # per dispatch; more wait for the next turn, in the kernel


class Poller:
    """Calls back once per readiness, from `dispatch`, which the turn of the loop calls.

    Args:
        loop: the loop that watches.
        on_ready: called by the loop when there is something to dispatch, and by `wake`: it asks for a turn.
        use_epoll: False takes the portable way even where epoll is there.
        turn: has a turn at once, which the loop may call itself; without it, `on_ready` asks for one, and the loop goes
            round once more.

    Attributes:
        edge_triggered: whether epoll is in use.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_ready: Callable[[], None],
        use_epoll: bool = True,
        turn: Callable[[], None] | None = None,
    ) -> None:
        self.edge_triggered = use_epoll and _EPOLL
        self._loop = loop
        self._on_ready = on_ready
        self._callbacks: dict[int, Ready] = {}
        self._on_demand: dict[int, bool] = {}  # with epoll: whether room to write is asked for at the moment
        self._pending: dict[int, int] = {}  # without epoll: what asyncio reported since the last dispatch
        self._closed = False
        if self.edge_triggered:
            self._epoll = select.epoll()
            loop.add_reader(self._epoll.fileno(), turn or on_ready)

    def __len__(self) -> int:
        """Descriptors watched."""
        return len(self._callbacks)

    def wake(self) -> None:
        """Ask for a turn: something happened outside of one."""
        self._on_ready()

    def add(self, fd: int, callback: Ready, write_on_demand: bool = False) -> None:
        """Watch `fd` for reading and writing until `remove`, which must come before it is closed.

        With `write_on_demand` room to write is reported only when `rearm` has asked for it. That is for unix sockets:
        they report it whenever the other side has read something, TCP sockets only after they were full.
        """
        self._callbacks[fd] = callback
        if not self.edge_triggered:
            self.rearm(fd, READ if write_on_demand else READ | WRITE)
        elif write_on_demand:
            self._on_demand[fd] = False
            self._epoll.register(fd, _EPOLL_READ)
        else:
            self._epoll.register(fd, _EPOLL_MASK)

    def rearm(self, fd: int, mask: int) -> None:
        """Report READ, WRITE or both of `fd` once more; to be called when the kernel said "would block"."""
        if self.edge_triggered:
            if mask & WRITE and self._on_demand.get(fd) is False:
                self._on_demand[fd] = True
                self._epoll.modify(fd, _EPOLL_MASK)
            return
        if mask & READ:
            self._loop.add_reader(fd, self._report, fd, READ)
        if mask & WRITE:
            self._loop.add_writer(fd, self._report, fd, WRITE)

    def remove(self, fd: int, closing: bool = False) -> None:
        """Watch `fd` no longer; it is not called back any more, not even for what was reported already.

        With `closing` it is closed next, and no other descriptor is of the same socket: epoll(7) forgets it then.
        """
        if self._callbacks.pop(fd, None) is None:
            return
        if self.edge_triggered:
            if not closing:
                self._epoll.unregister(fd)
            self._on_demand.pop(fd, None)
        else:
            self._pending.pop(fd, None)
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)

    def dispatch(self) -> None:
        """Call back for what became ready since the last time."""
        callbacks = self._callbacks
        if self.edge_triggered:
            events = self._epoll.poll(0, _MAX_EVENTS) if callbacks else ()
            if not events:
                return
            masks = [(fd, callbacks.get(fd), _MASKS[event & _EPOLL_ANY]) for fd, event in events]
            if self._on_demand:
                self._answer_demands(masks)
        elif self._pending:
            masks = [(fd, callbacks.get(fd), mask) for fd, mask in self._pending.items()]
            self._pending.clear()
        else:
            return
        for fd, callback, mask in masks:
            # An earlier callback may have closed this one's socket, and a new one may have got its number.
            if callback is not None and callbacks.get(fd) is callback:
                callback(mask)

    def _answer_demands(self, reported: list[tuple[int, Ready | None, int]]) -> None:
        """What was asked for is reported now, and is not wanted any more."""
        for fd, _, mask in reported:
            if mask & WRITE and self._on_demand.get(fd):
                self._on_demand[fd] = False
                self._epoll.modify(fd, _EPOLL_READ)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._closed:
            return
        self._closed = True
        for fd in list(self._callbacks):
            self.remove(fd)
        if self.edge_triggered:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _report(self, fd: int, mask: int) -> None:
        if mask == READ:
            self._loop.remove_reader(fd)
        else:
            self._loop.remove_writer(fd)
        self._pending[fd] = self._pending.get(fd, 0) | mask
        self._on_ready()


if _EPOLL:
    _EPOLL_READ: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
    _EPOLL_MASK: Final = _EPOLL_READ | select.EPOLLOUT
    _EPOLL_END: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
    _EPOLL_ANY: Final = select.EPOLLIN | select.EPOLLOUT | _EPOLL_END


class _Masks(dict[int, int]):
    """epoll's event bits to ours, worked out once for each of the few combinations there are."""

    def __missing__(self, event: int) -> int:
        mask = 0
        if event & select.EPOLLIN:
            mask |= READ
        if event & select.EPOLLOUT:
            mask |= WRITE
        if event & _EPOLL_END:
            mask |= READ | END
        self[event] = mask
        return mask


_MASKS: Final = _Masks()
