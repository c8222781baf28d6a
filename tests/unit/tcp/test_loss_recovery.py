"""RTT and RTO (RFC 6298), CUBIC (RFC 9438), the scoreboard (RFC 6675) and RACK (RFC 8985), each alone."""

from __future__ import annotations

import math

import pytest

from lopower.netstack.tcp.congestion import Cubic
from lopower.netstack.tcp.recovery import Scoreboard
from lopower.netstack.tcp.rtt import RttEstimator
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, TcpOptions
from tests.support.tcp_pair import Host
from tests.support.tcp_raw import MODERN, PLAIN, RawClient, state_of

MSS = 1000


# RFC 6298


def test_first_and_second_sample() -> None:
    rtt = RttEstimator()
    assert rtt.rto == 1.0
    rtt.sample(0.1, 0.0)
    assert (rtt.srtt, rtt.rttvar) == (0.1, 0.05)
    assert rtt.rto == pytest.approx(0.3)
    rtt.sample(0.2, 0.0)
    assert rtt.rttvar == pytest.approx(0.75 * 0.05 + 0.25 * 0.1)
    assert rtt.srtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.2)


def test_rto_is_at_least_200_ms_and_doubles_up_to_a_minute() -> None:
    rtt = RttEstimator()
    for _ in range(50):
        rtt.sample(0.001, 0.0)
    assert rtt.rto == 0.2
    for _ in range(3):
        rtt.back_off()
    assert rtt.rto == pytest.approx(1.6)
    for _ in range(10):
        rtt.back_off()
    assert rtt.rto == 60.0
    rtt.progressed()
    assert rtt.rto == 0.2


def test_minimum_is_forgotten_after_a_while() -> None:
    rtt = RttEstimator()
    rtt.sample(0.01, 0.0)
    rtt.sample(0.05, 299.0)
    assert rtt.minimum == 0.01
    rtt.sample(0.05, 301.0)
    assert rtt.minimum == 0.05


@pytest.mark.parametrize("options", [MODERN, PLAIN], ids=["modern", "plain"])
def test_retransmission_timer_before_at_and_after(options: TcpOptions) -> None:
    raw = RawClient(Host("host"))
    connection = raw.open(options)
    connection.send(b"data", raw.now)
    raw.answers()
    waits = []
    for _ in range(4):
        began = raw.now
        assert raw.sleep(connection.sender.timer_at - raw.now - 0.001) == []
        (again,) = raw.sleep(0.002)
        assert again.payload == b"data"
        waits.append(raw.now - began)
    first = 1 if options is MODERN else 0  # with SACK the first to come is the loss probe, which does not double
    for before, after in zip(waits[first:], waits[first + 1 :], strict=False):
        assert after == pytest.approx(2 * before, rel=0.05)
    assert state_of(connection) is TcpState.ESTABLISHED


def test_karn_a_retransmitted_segment_is_not_timed() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open(PLAIN)
    connection.send(b"data", raw.now)
    raw.answers()
    before = connection.sender.rtt.srtt
    raw.sleep(connection.sender.timer_at - raw.now + 0.001)
    raw.now += 0.5
    raw.acknowledgment += 4
    raw.send(ACK)
    assert connection.sender.rtt.srtt == before
    assert connection.sender.rtt.backoff == 0


# RFC 9438


def test_initial_window_is_ten_segments_and_slow_start_doubles() -> None:
    cubic = Cubic(MSS)
    assert cubic.cwnd == 10 * MSS
    cubic.acknowledged(10 * MSS, 0.1, 0.0)
    assert cubic.cwnd == 20 * MSS


def test_loss_multiplies_by_seven_tenths_and_cubic_returns_to_w_max() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 100 * MSS
    cubic.lost(100 * MSS)
    assert cubic.ssthresh == 70 * MSS
    cubic.cwnd = cubic.ssthresh
    now, rtt = 0.0, 0.1
    k = (100 * 0.3 / 0.4) ** (1 / 3)
    while now < k:
        cubic.acknowledged(cubic.cwnd, rtt, now)
        now += rtt
    assert cubic.cwnd == pytest.approx(100 * MSS, rel=0.05)
    plateau = cubic.cwnd
    while now < 2 * k:
        cubic.acknowledged(cubic.cwnd, rtt, now)
        now += rtt
    assert cubic.cwnd > 1.2 * plateau


def test_fast_convergence_gives_way() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 100 * MSS
    cubic.lost(cubic.cwnd)
    cubic.cwnd = 80 * MSS
    cubic.lost(cubic.cwnd)
    assert cubic._w_max == pytest.approx(80 * 0.85)


def test_timeout_collapses_to_one_segment() -> None:
    cubic = Cubic(MSS)
    cubic.cwnd = 100 * MSS
    cubic.timed_out(50 * MSS)
    assert (cubic.cwnd, cubic.ssthresh) == (MSS, 35 * MSS)


# RFC 6675 and RFC 8985


def board_with(segments: int) -> Scoreboard:
    """Segments of 100 bytes, sent one millisecond apart."""
    board = Scoreboard(0)
    for number in range(segments):
        board.sent(100 * number, 100 * (number + 1), number / 1000)
    return board


def test_rack_marks_what_was_sent_before_the_newest_delivered() -> None:
    board = board_with(10)
    news = board.selectively_acknowledged([(300, 600)], 0.1, math.inf, 0.09)
    assert news == board.sacked_bytes == 300
    again = board.detect_losses(0.1, 0.09, 0.1, patient=False)
    assert again is None
    assert [(flight.start, flight.end) for flight in board.flights if flight.lost] == [(0, 100), (100, 200), (200, 300)]
    assert board.lost_bytes == 300


def test_rack_waits_a_quarter_of_the_rtt_for_reordered_segments() -> None:
    board = board_with(3)
    board.selectively_acknowledged([(100, 200)], 0.1, math.inf, 0.09)
    again = board.detect_losses(0.1, 0.09, 0.1, patient=True)
    assert again is not None
    assert again == pytest.approx(0.0 + board.rtt + 0.09 / 4)
    assert board.lost_bytes == 0
    assert board.detect_losses(again, 0.09, 0.1, patient=True) is None
    assert board.lost_bytes == 100


def test_a_late_original_shows_that_the_path_reorders() -> None:
    board = board_with(5)
    board.selectively_acknowledged([(300, 400)], 0.1, math.inf, 0.0)
    assert not board.reordering_seen
    board.acknowledged(100, 0.101, math.inf, 0.0)
    assert board.reordering_seen


def test_one_burst_is_one_flight_and_is_cut_where_it_was_lost() -> None:
    board = Scoreboard(0)
    board.sent(0, 5000, 1.0)
    board.sent(5000, 9000, 1.0)
    assert len(board.flights) == 1
    board.selectively_acknowledged([(1000, 2000), (4000, 9000)], 1.1, math.inf, 0.1)
    board.detect_losses(1.1, 0.1, 0.1, patient=False)
    lost = [(flight.start, flight.end) for flight in board.flights if flight.lost]
    assert lost == [(0, 1000), (2000, 4000)]
    first = board.next_lost()
    assert first is not None
    board.retransmitted(first, 500, 1.2)
    assert board.lost_bytes == 2500
    delivered, measured = board.acknowledged(9000, 1.3, math.inf, 0.1)
    assert delivered == 3000
    assert measured is None  # none of it was sent once only and not given up
    assert board.is_clean
    assert board.flights == []


def test_three_duplicates_start_newreno_and_a_partial_ack_repairs_the_next_hole() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open(PLAIN)
    connection.sender.cubic.cwnd = 20 * 1380
    connection.send(bytes(10 * 1380), raw.now)
    base = raw.acknowledgment
    assert len(raw.answers()) == 10
    raw.now += 0.01
    assert raw.send(ACK) == []
    assert raw.send(ACK) == []
    (again,) = raw.send(ACK)
    assert again.header.sequence == base
    (next_hole, *_) = raw.send(ACK, acknowledgment=base + 3 * 1380)
    assert next_hole.header.sequence == base + 3 * 1380 & 0xFFFFFFFF
    raw.send(ACK, acknowledgment=base + 10 * 1380)
    assert connection.sender.recovery_point is None
    assert raw.host.counters["tcp_fast_recoveries"] == 1
    assert raw.host.counters["tcp_retransmission_timeouts"] == 0


def test_early_retransmit_when_no_third_duplicate_can_come() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open(PLAIN)
    connection.send(bytes(2 * 1380), raw.now)
    base = raw.acknowledgment
    assert len(raw.answers()) == 2
    (again,) = raw.send(ACK)
    assert again.header.sequence == base
