"""CUBIC (RFC 9438) with an initial window of ten segments (RFC 6928); byte counting, no cap per ACK.

One ACK acknowledges a whole batch here, so RFC 3465's limit of two segments per ACK in slow start would starve it.
"""

from __future__ import annotations

from typing import Final

_C: Final = 0.4  # RFC 9438 section 5.1
_BETA: Final = 0.7  # section 4.6
_ALPHA: Final = 3 * (1 - _BETA) / (1 + _BETA)  # section 4.3
INITIAL_SEGMENTS: Final = 10
_LOSS_SEGMENTS: Final = 1  # RFC 5681 section 3.1: LW
_UNLIMITED: Final = 1 << 40

# HyStart++ (RFC 9406 section 4.2): slow start ends when the round trips grow, before the queue overflows.
_MIN_RTT_THRESHOLD: Final = 0.004
_MAX_RTT_THRESHOLD: Final = 0.016
_RTT_SAMPLES: Final = 8
_CSS_GROWTH_DIVISOR: Final = 4
_CSS_ROUNDS: Final = 5


class Cubic:
    """The congestion window `cwnd` and `ssthresh`, both in bytes."""

    __slots__ = (
        "_css_baseline",
        "_css_rounds",
        "_epoch_start",
        "_k",
        "_last_round_rtt",
        "_round_end",
        "_round_rtt",
        "_round_samples",
        "_w_est",
        "_w_max",
        "cwnd",
        "mss",
        "ssthresh",
    )

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = INITIAL_SEGMENTS * mss
        self.ssthresh = _UNLIMITED
        self._w_max = 0.0
        self._k = 0.0
        self._epoch_start = -1.0
        self._w_est = 0.0
        self._round_end = 0
        self._round_rtt = self._last_round_rtt = 0.0
        self._round_samples = 0
        self._css_baseline = 0.0
        self._css_rounds = 0

    def acknowledged(self, acked: int, srtt: float, now: float) -> None:
        """`acked` bytes left the network and the window was in use; grow it."""
        if self.cwnd < self.ssthresh:
            growth = min(acked, self.ssthresh - self.cwnd)
            self.cwnd += growth if not self._css_baseline else max(growth // _CSS_GROWTH_DIVISOR, 1)
            acked -= growth
            if acked <= 0:
                return
        self._avoid(acked, srtt, now)

    def _avoid(self, acked: int, srtt: float, now: float) -> None:
        """Congestion avoidance (RFC 9438 section 4.2 to 4.5), in segments as there."""
        mss = self.mss
        cwnd = self.cwnd / mss
        if self._epoch_start < 0.0:
            self._epoch_start = now
            self._w_est = cwnd
            if self._w_max <= cwnd:
                self._w_max, self._k = cwnd, 0.0
            else:
                self._k = ((self._w_max - cwnd) / _C) ** (1 / 3)
        elapsed = now - self._epoch_start
        segments = acked / mss
        alpha = 1.0 if self._w_est >= self._w_max else _ALPHA
        self._w_est += alpha * segments / cwnd
        if _C * (elapsed - self._k) ** 3 + self._w_max < self._w_est:
            self.cwnd = max(self.cwnd, int(self._w_est * mss))
            return
        target = min(max(_C * (elapsed + srtt - self._k) ** 3 + self._w_max, cwnd), 1.5 * cwnd)
        self.cwnd += int((target - cwnd) * min(segments / cwnd, 1.0) * mss)

    def rtt_sampled(self, rtt: float, snd_una: int, snd_nxt: int) -> None:
        """HyStart++: look at the round trips of slow start (RFC 9406)."""
        if self.cwnd >= self.ssthresh:
            return
        if snd_una >= self._round_end:
            self._round_end = snd_nxt
            self._last_round_rtt, self._round_rtt, self._round_samples = self._round_rtt, 0.0, 0
            if self._css_baseline:
                self._css_rounds += 1
                if self._css_rounds >= _CSS_ROUNDS:
                    self.ssthresh = self.cwnd
                    return
        self._round_samples += 1
        self._round_rtt = min(self._round_rtt, rtt) if self._round_rtt else rtt
        if self._round_samples < _RTT_SAMPLES or not self._last_round_rtt:
            return
        if self._css_baseline:
            if self._round_rtt < self._css_baseline:  # it was no queue after all
                self._css_baseline, self._css_rounds = 0.0, 0
            return
        threshold = min(max(self._last_round_rtt / 8, _MIN_RTT_THRESHOLD), _MAX_RTT_THRESHOLD)
        if self._round_rtt >= self._last_round_rtt + threshold:
            self._css_baseline, self._css_rounds = self._round_rtt, 0

    def lost(self, flight: int) -> None:
        """A loss was found by acknowledgments: multiplicative decrease (RFC 9438 section 4.6, 4.7)."""
        cwnd = self.cwnd / self.mss
        self._w_max = cwnd * (1 + _BETA) / 2 if cwnd < self._w_max else cwnd
        self.ssthresh = max(int(min(self.cwnd, max(flight, self.mss)) * _BETA), 2 * self.mss)
        self._epoch_start = -1.0
        self._css_baseline = 0.0

    def timed_out(self, flight: int) -> None:
        """The retransmission timer expired for the first time on this data."""
        self.lost(flight)
        self.collapse()

    def collapse(self) -> None:
        """To the loss window (RFC 5681 section 3.1)."""
        self.cwnd = _LOSS_SEGMENTS * self.mss
        self._epoch_start = -1.0

    def restart(self) -> None:
        """After an idle time longer than the RTO (RFC 5681 section 4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_SEGMENTS * self.mss)
        self._epoch_start = -1.0

    def mss_changed(self, mss: int) -> None:
        """The path's MTU became smaller; the window in bytes stays, at least one segment."""
        self.mss = mss
        self.cwnd = max(self.cwnd, mss)
