"""Round-trip time and the retransmission timeout (RFC 6298), and the minimum that RACK measures with (RFC 8985)."""

from __future__ import annotations

from typing import Final

INITIAL_RTO: Final = 1.0  # RFC 6298 (2.1)
MINIMUM_RTO: Final = 0.2  # below the RFC's second, as all common stacks have it
MAXIMUM_RTO: Final = 60.0  # RFC 6298 (2.5)
_GRANULARITY: Final = 0.001
_MINIMUM_LIFETIME: Final = 300.0  # the path may change: RFC 8985 section 6.1 wants a windowed minimum


class RttEstimator:
    """`srtt`, `rttvar` and `rto` as in RFC 6298; `srtt` is 0.0 before the first sample."""

    __slots__ = ("_minimum_at", "backoff", "base_rto", "minimum", "rto", "rttvar", "srtt")

    def __init__(self) -> None:
        self.srtt = 0.0
        self.rttvar = 0.0
        self.rto = self.base_rto = INITIAL_RTO
        self.minimum = 0.0
        self.backoff = 0
        self._minimum_at = 0.0

    def sample(self, rtt: float, now: float) -> None:
        """Take one measurement; by Karn's rule never of a segment that was sent twice, unless time stamps tell
        which."""
        if rtt < 0.0:
            return
        if self.srtt == 0.0:
            self.srtt, self.rttvar = max(rtt, 1e-6), rtt / 2  # (2.2)
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4  # (2.3)
            self.srtt = max(self.srtt + (rtt - self.srtt) / 8, 1e-6)
        if rtt <= self.minimum or self.minimum == 0.0 or now - self._minimum_at > _MINIMUM_LIFETIME:
            self.minimum, self._minimum_at = max(rtt, 1e-6), now
        self.base_rto = min(max(self.srtt + max(_GRANULARITY, 4 * self.rttvar), MINIMUM_RTO), MAXIMUM_RTO)
        self.rto = self.base_rto
        self.backoff = 0

    def back_off(self) -> None:
        """The timer expired (5.5)."""
        self.backoff += 1
        self.rto = min(self.rto * 2, MAXIMUM_RTO)

    def progressed(self) -> None:
        """New data was acknowledged, though it cannot be timed: what the expired timers doubled is taken back."""
        if self.backoff:
            self.backoff = 0
            self.rto = self.base_rto

    def syn_was_lost(self) -> None:
        """RFC 6298 (5.7): after a repeated SYN data begins with 3 seconds, unless there is a sample."""
        self.backoff = 0
        if self.srtt == 0.0:
            self.rto = self.base_rto = 3.0
