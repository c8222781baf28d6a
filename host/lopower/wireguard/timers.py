"""A peer's timers (whitepaper section 6; named as in the kernel's `timers.c`), and one queue for all peers' deadlines.

A timer is a deadline in monotonic seconds, or `NEVER`. Nothing is scheduled per packet: events only move numbers, and
the queue hears of a peer when its earliest deadline moves forward. An entry that has become too early is noticed when
it comes up, and entered anew; so ten thousand peers cost nothing until their time has come.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Final

from lopower.wireguard.constants import (
    KEEPALIVE_TIMEOUT,
    NEW_HANDSHAKE_TIMEOUT,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
    ZERO_KEYS_AFTER_TIME,
)

if TYPE_CHECKING:
    from lopower.wireguard.peer import Peer

NEVER: Final = inf

MAX_DUE: Final = 32
"""Peers handled at a time: an initiation costs 0.2 ms, and thousands may be due at once when a network comes back."""


class Timers:
    """The five timers of one peer.

    Attributes:
        retransmit_handshake: our initiation was not answered.
        send_keepalive: data came in and nothing went out since.
        new_handshake: data went out and nothing came in since.
        zero_key_material: no new session for too long.
        persistent_keepalive: nothing went either way for the configured interval.
        persistent_keepalive_interval: seconds, 0: none.
        attempt_started: since when initiations have been sent without an answer.
        scheduled: the time of this peer's entry in the queue.
    """

    __slots__ = (
        "_need_another_keepalive",
        "_uniform",
        "attempt_started",
        "new_handshake",
        "persistent_keepalive",
        "persistent_keepalive_interval",
        "retransmit_handshake",
        "scheduled",
        "send_keepalive",
        "zero_key_material",
    )

    def __init__(self, uniform: Callable[[float, float], float], persistent_keepalive_interval: float = 0) -> None:
        self._uniform = uniform
        self._need_another_keepalive = False
        self.persistent_keepalive_interval = persistent_keepalive_interval
        self.attempt_started = 0.0
        self.scheduled = NEVER
        self.stop()

    def stop(self) -> None:
        """No timer is pending."""
        self.retransmit_handshake = NEVER
        self.send_keepalive = NEVER
        self.new_handshake = NEVER
        self.zero_key_material = NEVER
        self.persistent_keepalive = NEVER
        self._need_another_keepalive = False

    def earliest(self) -> float:
        """The next deadline, or NEVER."""
        return min(
            self.retransmit_handshake,
            self.send_keepalive,
            self.new_handshake,
            self.zero_key_material,
            self.persistent_keepalive,
        )

    def data_sent(self, now: float) -> None:
        if self.new_handshake == NEVER:
            self.new_handshake = now + NEW_HANDSHAKE_TIMEOUT + self._jitter()

    def data_received(self, now: float) -> None:
        if self.send_keepalive == NEVER:
            self.send_keepalive = now + KEEPALIVE_TIMEOUT
        else:
            self._need_another_keepalive = True

    def any_authenticated_packet_sent(self, now: float) -> None:
        self.send_keepalive = NEVER
        self._need_another_keepalive = False
        self._any_authenticated_packet_traversed(now)

    def any_authenticated_packet_received(self, now: float) -> None:
        self.new_handshake = NEVER
        self._any_authenticated_packet_traversed(now)

    def _any_authenticated_packet_traversed(self, now: float) -> None:
        if self.persistent_keepalive_interval:
            self.persistent_keepalive = now + self.persistent_keepalive_interval

    def handshake_wanted(self, now: float, last_sent: float) -> None:
        """Somebody asks for a handshake anew: the ninety seconds begin again; one is due once five have passed."""
        self.attempt_started = now
        self._retransmit_after(last_sent)

    def handshake_initiated(self, now: float) -> None:
        self._retransmit_after(now)

    def handshake_complete(self) -> None:
        self.retransmit_handshake = NEVER

    def handshake_given_up(self, now: float) -> None:
        self.retransmit_handshake = NEVER
        self.send_keepalive = NEVER
        self._need_another_keepalive = False
        if self.zero_key_material == NEVER:
            self.zero_key_material = now + ZERO_KEYS_AFTER_TIME

    def session_derived(self, now: float) -> None:
        self.zero_key_material = now + ZERO_KEYS_AFTER_TIME

    def keepalive_due(self, now: float) -> None:
        """The passive keepalive's time has come; data that came in meanwhile asks for another."""
        self.send_keepalive = NEVER
        if self._need_another_keepalive:
            self._need_another_keepalive = False
            self.send_keepalive = now + KEEPALIVE_TIMEOUT

    def _retransmit_after(self, last_sent: float) -> None:
        give_up = self.attempt_started + REKEY_ATTEMPT_TIME
        self.retransmit_handshake = min(last_sent + REKEY_TIMEOUT + self._jitter(), give_up)

    def _jitter(self) -> float:
        return self._uniform(0.0, REKEY_TIMEOUT_JITTER)


class TimerQueue:
    """All peers' next deadlines in a heap with stale entries, which are dropped when they come up or are too many."""

    __slots__ = ("_heap", "_serial")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Peer]] = []
        self._serial = 0  # peers do not compare

    def __len__(self) -> int:
        return len(self._heap)

    def update(self, peer: Peer) -> None:
        """Enter the peer if its earliest deadline came before the one that the queue knows."""
        timers = peer.timers
        deadline = timers.earliest()
        if deadline < timers.scheduled:
            timers.scheduled = deadline
            self._serial += 1
            heappush(self._heap, (deadline, self._serial, peer))

    def forget(self, peer: Peer) -> None:
        """The peer's entries are stale from now on."""
        peer.timers.stop()
        peer.timers.scheduled = NEVER

    def next_deadline(self) -> float | None:
        """When to look again; possibly earlier than anything is due."""
        heap = self._heap
        while heap and heap[0][0] != heap[0][2].timers.scheduled:
            heappop(heap)
        return heap[0][0] if heap else None

    def take_due(self, now: float, peers: int) -> list[Peer]:
        """Remove and return peers that are due, 32 at most; each is to be handled and entered again by `update`.

        `peers` is how many there are; the heap is rebuilt when most of it is stale.
        """
        heap = self._heap
        due: list[Peer] = []
        while heap and heap[0][0] <= now and len(due) < MAX_DUE:
            deadline, _, peer = heappop(heap)
            if deadline == peer.timers.scheduled:
                peer.timers.scheduled = NEVER
                due.append(peer)
        if len(heap) > 64 + 4 * peers:
            self._heap = [entry for entry in heap if entry[0] == entry[2].timers.scheduled]
            heapify(self._heap)
        return due
