"""Which of the sent bytes are where: SACK scoreboard (RFC 6675) and time-based loss detection (RACK, RFC 8985).

What was sent lies in `Flight`s, stretches of the stream that left at the same moment and share a fate so far. A batch
of hundreds of segments is one flight until something happens to a part of it, so a loss-free transfer costs a few
operations per batch, not per segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lopower.netstack.tcp.sequence import expand

DUPLICATE_THRESHOLD: Final = 3  # RFC 5681 section 3.2
_MAX_REORDERING_FRACTION: Final = 0.25  # of the minimum RTT, RFC 8985 section 6.2
_STAMP_GRANULARITY: Final = 0.001


# A peer that reports single bytes would cut what is in flight into as many pieces. Beyond this its SACK blocks are not
# looked at any more; a path that loses every second segment of 1,000 is beyond help.
MAX_FLIGHTS: Final = 1024


class Flight:
    """Bytes `[start, end)`, sent last at `sent_at`. `sacked` and `lost` exclude each other."""

    __slots__ = ("end", "lost", "retransmitted", "sacked", "sent_at", "start")

    def __init__(self, start: int, end: int, sent_at: float) -> None:
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.retransmitted = False
        self.sacked = False
        self.lost = False

    def split(self, position: int) -> Flight:
        """Cut at `position`; this one keeps the front, the rest is returned."""
        rest = Flight(position, self.end, self.sent_at)
        rest.retransmitted, rest.sacked, rest.lost = self.retransmitted, self.sacked, self.lost
        self.end = position
        return rest


def blocks_in_flight(
    wire_blocks: Sequence[tuple[int, int]], ack: int, snd_una: int, snd_nxt: int
) -> tuple[list[tuple[int, int]], bool]:
    """SACK blocks that concern what is in flight beyond `ack`, and whether the first is a D-SACK (RFC 2883)."""
    blocks: list[tuple[int, int]] = []
    is_dsack = False
    for index, (left_wire, right_wire) in enumerate(wire_blocks):
        left, right = expand(left_wire, snd_una), expand(right_wire, snd_una)
        if left >= right or right > snd_nxt:
            continue
        if right <= ack:
            is_dsack = is_dsack or index == 0
        elif left >= snd_una:
            blocks.append((max(left, ack), right))
    return blocks, is_dsack


class Scoreboard:
    """All bytes between SND.UNA and SND.NXT.

    Attributes:
        flights: ascending, without gaps.
        sacked_bytes, lost_bytes: how many of them the peer has, and are taken to be gone and not sent again yet.
        newest_sent_at, newest_end: RACK.xmit_ts and RACK.end_seq, of what was sent last among what was delivered.
        rtt: RACK.rtt, of that segment.
        highest: the highest byte delivered (RACK.fack).
        reordering_seen: a segment came late that was never sent twice.
    """

    __slots__ = (
        "flights",
        "highest",
        "lost_bytes",
        "newest_end",
        "newest_sent_at",
        "reordering_seen",
        "rtt",
        "sacked_bytes",
    )

    def __init__(self, start: int) -> None:
        self.flights: list[Flight] = []
        self.sacked_bytes = 0
        self.lost_bytes = 0
        self.newest_sent_at = -1.0
        self.newest_end = start
        self.rtt = 0.0
        self.highest = start
        self.reordering_seen = False

    @property
    def is_clean(self) -> bool:
        """Nothing is known but what is in flight."""
        return not (self.sacked_bytes or self.lost_bytes)

    def sent(self, start: int, end: int, now: float) -> None:
        """New data left."""
        flights = self.flights
        if flights:
            last = flights[-1]
            if last.sent_at == now and last.end == start and not (last.retransmitted or last.sacked or last.lost):
                last.end = end
                return
        flights.append(Flight(start, end, now))

    def _delivered(self, flight: Flight, now: float, echo_at: float, minimum_rtt: float) -> None:
        """RFC 8985 section 6.2, steps 1 to 3."""
        if flight.retransmitted:
            # Was it the retransmission that arrived? Not if the peer echoes an older stamp, or it came back too soon.
            if echo_at + _STAMP_GRANULARITY < flight.sent_at or now - flight.sent_at < minimum_rtt:
                return
        elif flight.end < self.highest:
            self.reordering_seen = True
        if (flight.sent_at, flight.end) > (self.newest_sent_at, self.newest_end):
            self.newest_sent_at, self.newest_end = flight.sent_at, flight.end
            self.rtt = now - flight.sent_at

    def acknowledged(self, ack: int, now: float, echo_at: float, minimum_rtt: float) -> tuple[int, float | None]:
        """Bytes before `ack` arrived. `echo_at` is when the time stamp was made that came back (infinity: none did).

        Returns how many of them were not known to have arrived, and the moment when the newest of them left that was
        sent once only and not given up (None: there is none), which is what the round trip may be measured with.
        """
        flights = self.flights
        done = 0
        delivered = 0
        measured: float | None = None
        for flight in flights:
            if flight.start >= ack:
                break
            if flight.end > ack:
                rest = flight.split(ack)
                flights.insert(done + 1, rest)
            done += 1
            size = flight.end - flight.start
            if flight.sacked:
                self.sacked_bytes -= size
                continue
            delivered += size
            self._delivered(flight, now, echo_at, minimum_rtt)
            if flight.lost:
                self.lost_bytes -= size  # it was there all along and its ACK was lost: no measure of the path
            elif not flight.retransmitted:
                measured = flight.sent_at
        if done:
            del flights[:done]
        self.highest = max(self.highest, ack)
        return delivered, measured

    def selectively_acknowledged(
        self, blocks: list[tuple[int, int]], now: float, echo_at: float, minimum_rtt: float
    ) -> int:
        """The peer reports blocks (unbounded numbers, within what is in flight); returns how many bytes are news."""
        news = 0
        highest = self.highest
        for left, right in blocks:
            news += self._mark_sacked(left, right, now, echo_at, minimum_rtt)
            highest = max(highest, right)
        self.highest = highest
        if news:
            self._merge_sacked()
        return news

    def _mark_sacked(self, left: int, right: int, now: float, echo_at: float, minimum_rtt: float) -> int:
        flights = self.flights
        news = 0
        index = 0
        while index < len(flights) < MAX_FLIGHTS:
            flight = flights[index]
            if flight.start >= right:
                break
            if flight.end <= left or flight.sacked:
                index += 1
                continue
            if flight.start < left:
                flights.insert(index + 1, flight.split(left))
                index += 1
                continue
            if flight.end > right:
                flights.insert(index + 1, flight.split(right))
            size = flight.end - flight.start
            if flight.lost:
                flight.lost = False
                self.lost_bytes -= size
            self._delivered(flight, now, echo_at, minimum_rtt)
            flight.sacked = True
            self.sacked_bytes += size
            news += size
            index += 1
        return news

    def _merge_sacked(self) -> None:
        """Neighbours that have both arrived become one, which bounds the list by the number of holes."""
        merged: list[Flight] = []
        for flight in self.flights:
            if flight.sacked and merged and merged[-1].sacked:
                merged[-1].end = flight.end
            else:
                merged.append(flight)
        self.flights = merged

    def detect_losses(self, now: float, minimum_rtt: float, srtt: float, patient: bool) -> float | None:
        """RFC 8985 section 6.2, step 5. Marks what is lost; returns when to look again, or None.

        `patient` is False once recovery began or three segments beyond a hole arrived: then, unless the path reorders,
        there is no reordering window (step 4).
        """
        if self.newest_sent_at < 0.0:
            return None
        window = 0.0
        if self.reordering_seen or patient:
            window = min(minimum_rtt * _MAX_REORDERING_FRACTION, srtt)
        newest = self.newest_sent_at, self.newest_end
        again: float | None = None
        for flight in self.flights:
            if flight.sacked or flight.lost:
                continue
            if (flight.sent_at, flight.end) > newest:
                continue
            deadline = flight.sent_at + self.rtt + window
            if deadline <= now:
                flight.lost = True
                self.lost_bytes += flight.end - flight.start
            elif again is None or deadline > again:
                again = deadline
        return again

    def mark_lost(self, start: int, end: int) -> None:
        """What was sent of `[start, end)` and is not known to have arrived is gone."""
        flights = self.flights
        index = 0
        while index < len(flights):
            flight = flights[index]
            if flight.start >= end:
                break
            if flight.end > start and not (flight.sacked or flight.lost):
                if flight.start < start:
                    flights.insert(index + 1, flight.split(start))
                    index += 1
                    continue
                if flight.end > end:
                    flights.insert(index + 1, flight.split(end))
                flight.lost = True
                self.lost_bytes += flight.end - flight.start
            index += 1

    def forget_sacks(self) -> None:
        """The peer has dropped what it reported (RFC 2018 section 8)."""
        for flight in self.flights:
            flight.sacked = False
        self.sacked_bytes = 0

    def next_lost(self) -> Flight | None:
        """The first stretch to be sent again."""
        if not self.lost_bytes:
            return None
        for flight in self.flights:
            if flight.lost:
                return flight
        return None

    def retransmitted(self, flight: Flight, end: int, now: float) -> None:
        """The front of a lost flight, up to `end`, left again."""
        if end < flight.end:
            self.flights.insert(self.flights.index(flight) + 1, flight.split(end))
        flight.lost = False
        flight.retransmitted = True
        flight.sent_at = now
        self.lost_bytes -= flight.end - flight.start

    def resent(self, flight: Flight, end: int, now: float) -> None:
        """The front of a flight that is not known to be lost left again (a tail loss probe)."""
        if end < flight.end:
            self.flights.insert(self.flights.index(flight) + 1, flight.split(end))
        flight.retransmitted = True
        flight.sent_at = now

    def split_last(self, size: int) -> Flight | None:
        """The last `size` bytes at most that are in flight, as a flight of their own."""
        flights = self.flights
        if not flights or flights[-1].sacked or flights[-1].lost:
            return None
        last = flights[-1]
        if last.end - last.start > size:
            flights.append(last.split(last.end - size))
        return flights[-1]

    def clear(self) -> None:
        """Nothing is in flight any more."""
        self.flights.clear()
        self.sacked_bytes = self.lost_bytes = 0
