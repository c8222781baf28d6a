"""RFC 9293 section 3.10 state by state, and the hardening of RFC 5961."""

from __future__ import annotations

import pytest

from lopower.netstack.errors import FlowRefused, FlowReset, FlowUnreachable
from lopower.netstack.tcp.segments import SegmentBuilder
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, CWR, ECE, FIN, PSH, RST, SYN, URG, TcpOptions
from tests.support.tcp_pair import PEER, Host, parse_ip
from tests.support.tcp_raw import MODERN, PLAIN, RawClient, state_of

S = TcpState
SYNCHRONIZED = [S.ESTABLISHED, S.FIN_WAIT_1, S.FIN_WAIT_2, S.CLOSE_WAIT, S.CLOSING, S.LAST_ACK]
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def client(version: int = 4) -> RawClient:
    """A hand-made device in front of a host that accepts everything."""
    return RawClient(Host("host"), version=version)


# Opening


@VERSIONS
def test_passive_open_with_all_options(version: int) -> None:
    raw = client(version)
    (syn_ack,) = raw.send(SYN, options=MODERN)
    options = syn_ack.header.options
    assert options.maximum_segment_size == 1420 - 20 - (20 if version == 4 else 40)
    assert (options.window_scale, options.sack_permitted, options.timestamp_echo) == (7, True, 5000)


@VERSIONS
def test_passive_open_offers_only_what_the_peer_offered(version: int) -> None:
    raw = client(version)
    (syn_ack,) = raw.send(SYN, options=PLAIN)
    options = syn_ack.header.options
    assert (options.window_scale, options.sack_permitted, options.timestamp) == (None, False, None)


def test_syn_with_ecn_bits_is_accepted() -> None:
    raw = client()
    (syn_ack,) = raw.send(SYN | ECE | CWR, options=MODERN)
    assert syn_ack.flags == SYN | ACK


def test_syn_with_fin_is_dropped() -> None:
    assert client().send(SYN | FIN) == []


@VERSIONS
def test_active_open(version: int) -> None:
    raw = client(version)
    connection = raw.in_state(S.SYN_SENT)
    (ack,) = raw.send(SYN | ACK, options=PLAIN)
    assert ack.flags == ACK
    assert state_of(connection) is S.ESTABLISHED
    assert connection in raw.host.layer.connections()


def test_active_open_refused() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_SENT)
    assert raw.send(RST | ACK, sequence=0) == []
    assert connection.error is FlowRefused
    raw.host.layer.take_dirty()
    raw.host.assert_clean()


def test_active_open_ignores_a_reset_without_acceptable_ack() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_SENT)
    raw.send(RST, sequence=0)
    raw.send(RST | ACK, sequence=0, acknowledgment=raw.acknowledgment + 5)
    assert state_of(connection) is S.SYN_SENT


def test_active_open_answers_an_old_ack_with_a_reset() -> None:
    raw = client()
    raw.in_state(S.SYN_SENT)
    (reset,) = raw.send(SYN | ACK, acknowledgment=raw.acknowledgment + 1)
    assert reset.flags == RST
    assert reset.header.sequence == raw.acknowledgment + 1


def test_simultaneous_open() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_SENT)
    (syn_ack,) = raw.send(SYN, options=MODERN)
    assert syn_ack.flags == SYN | ACK
    assert state_of(connection) is S.SYN_RECEIVED
    raw.timestamps = True
    raw.send(SYN | ACK, sequence=raw.sequence - 1)
    assert state_of(connection) is S.ESTABLISHED


def test_syn_received_is_reset_by_a_reset() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_RECEIVED)
    raw.send(RST)
    assert connection.error is FlowReset


def test_syn_received_answers_a_wrong_ack_with_a_reset() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_RECEIVED)
    (reset,) = raw.send(ACK, acknowledgment=raw.acknowledgment + 7)
    assert reset.flags == RST
    assert state_of(connection) is S.SYN_RECEIVED


def test_repeated_syn_gets_the_syn_ack_again() -> None:
    raw = client()
    raw.in_state(S.SYN_RECEIVED)
    (again,) = raw.send(SYN, sequence=raw.sequence - 1, options=MODERN)
    assert again.flags == SYN | ACK
    assert again.header.sequence == raw.acknowledgment - 1


def test_data_with_the_handshakes_ack_is_received() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_RECEIVED)
    raw.send(ACK | PSH, b"GET")
    assert state_of(connection) is S.ESTABLISHED
    assert b"".join(connection.received) == b"GET"


# No connection


@VERSIONS
def test_segments_without_a_connection(version: int) -> None:
    raw = client(version)
    (reset,) = raw.send(ACK, b"x", acknowledgment=77)
    assert (reset.flags, reset.header.sequence) == (RST, 77)
    (reset,) = raw.send(FIN, b"xy", sequence=100)
    assert (reset.flags, reset.header.acknowledgment) == (RST | ACK, 103)
    assert raw.send(RST) == []


# Resets: RFC 5961 section 3


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_exact_reset_ends_the_flow(state: TcpState) -> None:
    raw = client()
    connection = raw.in_state(state)
    assert raw.send(RST) == []
    assert state_of(connection) is S.CLOSED
    assert connection.error is FlowReset


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_reset_inside_the_window_is_challenged(state: TcpState) -> None:
    raw = client()
    connection = raw.in_state(state)
    (challenge,) = raw.send(RST, sequence=raw.sequence + 100)
    assert challenge.flags == ACK
    assert state_of(connection) is state


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("offset", [-1, -10000, 10_000_000])
def test_reset_outside_the_window_is_dropped(state: TcpState, offset: int) -> None:
    raw = client()
    connection = raw.in_state(state)
    assert raw.send(RST, sequence=raw.sequence + offset) == []
    assert state_of(connection) is state


# SYN: RFC 5961 section 4


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("offset", [0, 100, -1, 10_000_000])
def test_syn_in_a_synchronized_state_is_challenged(state: TcpState, offset: int) -> None:
    raw = client()
    connection = raw.in_state(state)
    (challenge,) = raw.send(SYN, sequence=raw.sequence + offset)
    assert challenge.flags == ACK
    assert challenge.header.acknowledgment == raw.sequence
    assert state_of(connection) is state


# ACK: RFC 5961 section 5


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_ack_of_what_was_never_sent_is_challenged(state: TcpState) -> None:
    raw = client()
    connection = raw.in_state(state)
    (challenge,) = raw.send(ACK, acknowledgment=raw.acknowledgment + 100_000)
    assert challenge.flags == ACK
    assert state_of(connection) is state


def test_ack_range_of_rfc_5961() -> None:
    raw = client()
    connection = raw.open()
    raw.send(ACK, b"a", acknowledgment=raw.acknowledgment - 60000)
    assert connection.received_bytes == 1
    (challenge,) = raw.send(ACK, b"b", sequence=raw.sequence, acknowledgment=raw.acknowledgment - 60001)
    assert challenge.flags == ACK
    assert connection.received_bytes == 1


def test_challenge_acks_are_limited_but_out_of_window_data_is_always_acknowledged() -> None:
    raw = client()
    raw.open()
    challenges = sum(len(raw.send(RST, sequence=raw.sequence + 100)) for _ in range(50))
    assert challenges == 5
    answers = sum(len(raw.send(ACK, b"old", sequence=raw.sequence - 1000)) for _ in range(50))
    assert answers == 50
    raw.now += 1.0
    assert len(raw.send(RST, sequence=raw.sequence + 100)) == 1


def test_segment_without_ack_is_dropped() -> None:
    raw = client()
    connection = raw.open()
    assert raw.send(PSH, b"data") == []
    assert connection.received_bytes == 0


def test_urgent_data_is_delivered_in_line() -> None:
    raw = client()
    connection = raw.open()
    raw.send(ACK | URG, b"urgent")
    assert b"".join(connection.received) == b"urgent"


# Time stamps: RFC 7323


def test_old_time_stamp_is_dropped_and_acknowledged() -> None:
    raw = client()
    connection = raw.open()
    raw.timestamp += 10
    raw.send(ACK, b"a")
    raw.send(ACK, b"b")
    raw.timestamp -= 5
    (ack,) = raw.send(ACK, b"c", sequence=raw.sequence)
    assert ack.flags == ACK
    assert b"".join(connection.received) == b"ab"
    raw.now += 25 * 86400.0
    raw.send(ACK, b"c")
    assert b"".join(connection.received) == b"abc"


def test_missing_time_stamp_is_dropped() -> None:
    raw = client()
    connection = raw.open()
    raw.send(ACK, b"a", sequence=raw.sequence, options=TcpOptions())
    assert connection.received_bytes == 0
    raw.send(RST, options=TcpOptions())
    assert connection.error is FlowReset


def test_echoed_stamp_is_that_of_the_first_unacknowledged_segment() -> None:
    raw = client()
    raw.open()
    first = raw.timestamp = raw.timestamp + 10
    packet = raw.packet(ACK, b"a")
    raw.host.layer.receive_packet(PEER, packet, parse_ip(packet), raw.now)
    raw.sequence += 1
    raw.timestamp += 10
    (ack,) = raw.send(ACK, b"b")
    assert ack.header.options.timestamp_echo == first


# Closing


def test_close_by_the_peer_first() -> None:
    raw = client()
    connection = raw.open()
    (ack,) = raw.send(FIN | ACK, b"bye")
    assert ack.header.acknowledgment == raw.sequence
    assert state_of(connection) is S.CLOSE_WAIT
    assert connection.peer_closed
    connection.consume(3, raw.now)
    connection.shutdown(raw.now)
    (fin,) = raw.answers()
    assert fin.flags == FIN | ACK
    assert state_of(connection) is S.LAST_ACK
    raw.acknowledgment += 1
    raw.send(ACK)
    assert state_of(connection) is S.CLOSED
    assert connection.error is None
    raw.host.layer.take_dirty()
    raw.host.assert_clean()


def test_simultaneous_close() -> None:
    raw = client()
    connection = raw.in_state(S.CLOSING)
    raw.send(ACK)
    assert state_of(connection) is S.TIME_WAIT
    assert connection.is_closed


def test_fin_with_the_ack_of_ours_goes_to_time_wait() -> None:
    raw = client()
    connection = raw.open()
    connection.shutdown(raw.now)
    raw.answers()
    raw.acknowledgment += 1
    (ack,) = raw.send(FIN | ACK)
    assert ack.header.acknowledgment == raw.sequence
    assert state_of(connection) is S.TIME_WAIT


def test_fin_out_of_order_waits_for_its_data() -> None:
    raw = client()
    connection = raw.open()
    raw.send(FIN | ACK, b"", sequence=raw.sequence + 3)
    assert state_of(connection) is S.ESTABLISHED
    raw.send(ACK, b"abc")
    assert state_of(connection) is S.ESTABLISHED
    raw.send(FIN | ACK)
    assert state_of(connection) is S.CLOSE_WAIT


@VERSIONS
def test_time_wait_repeats_its_ack_and_ends(version: int) -> None:
    raw = client(version)
    raw.in_state(S.TIME_WAIT)
    (ack,) = raw.send(FIN | ACK, sequence=raw.sequence - 1)
    assert (ack.flags, ack.header.acknowledgment) == (ACK, raw.sequence)
    raw.now += 59.9
    raw.host.layer.handle_timer(raw.now)
    assert raw.host.layer.record_count == 1
    assert raw.sleep(0.2) == []
    raw.host.assert_clean()


def test_time_wait_survives_resets_and_takes_a_newer_syn() -> None:
    raw = client()
    raw.in_state(S.TIME_WAIT)
    assert raw.send(RST, sequence=raw.sequence) == []
    assert raw.host.layer.record_count == 1
    (ack,) = raw.send(SYN, sequence=raw.sequence - 1000, options=MODERN._replace(timestamp=4000))
    assert ack.flags == ACK
    raw.sequence += 100_000
    (syn_ack,) = raw.send(SYN, options=MODERN._replace(timestamp=6000))
    assert syn_ack.flags == SYN | ACK
    assert raw.host.layer.record_count == 0


def test_close_with_unread_data_sends_a_reset() -> None:
    raw = client()
    connection = raw.open()
    raw.send(ACK, b"unread")
    connection.close(raw.now)
    (reset,) = raw.answers()
    assert reset.flags == RST | ACK


def test_data_after_close_is_answered_with_a_reset() -> None:
    raw = client()
    connection = raw.open()
    connection.close(raw.now)
    (fin,) = raw.answers()
    assert fin.flags == FIN | ACK
    raw.acknowledgment += 1
    (reset,) = raw.send(ACK, b"late")
    assert reset.flags == RST | ACK
    assert connection.is_closed


def test_fin_wait_2_ends_once_nobody_reads() -> None:
    raw = client()
    connection = raw.in_state(S.FIN_WAIT_2)
    raw.sleep(61.0)
    assert state_of(connection) is S.FIN_WAIT_2  # half-closed and still read: keepalive and idle limits only
    connection.close(raw.now)
    raw.sleep(59.0)
    assert state_of(connection) is S.FIN_WAIT_2
    raw.sleep(1.1)
    assert connection.is_closed


def test_abort_sends_a_reset() -> None:
    raw = client()
    connection = raw.open()
    connection.abort(raw.now)
    (reset,) = raw.answers()
    assert (reset.flags, reset.header.sequence) == (RST | ACK, raw.acknowledgment)
    raw.host.layer.take_dirty()
    raw.host.assert_clean()


# ICMP errors: RFC 5927


def test_hard_icmp_error_ends_an_open_under_way_only() -> None:
    raw = client()
    connection = raw.in_state(S.SYN_SENT)
    quote = SegmentBuilder(raw.destination, raw.source, 80, raw.port).build(raw.acknowledgment - 1, 0, SYN, 0)
    raw.host.layer.icmp_error(PEER, quote, "hard", 0, raw.now)
    assert connection.error is FlowUnreachable

    raw = client()
    connection = raw.open()
    connection.send(b"data", raw.now)
    (segment,) = raw.answers()
    raw.host.layer.icmp_error(PEER, segment.packet[:28], "hard", 0, raw.now)
    assert state_of(connection) is S.ESTABLISHED
