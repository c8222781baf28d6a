"""What a proxy asks of TCP: the owner dials first, and every outcome of the dial is told in TCP's own way."""

from __future__ import annotations

import pytest

from lopower.netstack.errors import FlowAborted, FlowReset
from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, RST, SYN
from tests.support.tcp_pair import Host, Network, Sink, Source, parse_ip
from tests.support.tcp_raw import MODERN, PLAIN, RawClient, state_of

VERSIONS = pytest.mark.parametrize("version", [4, 6])


def undecided(version: int = 4) -> tuple[RawClient, list[Connection]]:
    """A host whose owner has not decided about any flow yet."""
    host = Host("host")
    pending: list[Connection] = []
    host.on_syn = lambda connection, now: pending.append(connection)
    return RawClient(host, version=version), pending


@VERSIONS
def test_nothing_is_answered_before_the_dial_and_a_repeated_syn_dials_once(version: int) -> None:
    raw, pending = undecided(version)
    assert raw.send(SYN, options=MODERN) == []
    for _ in range(3):
        raw.now += 1.0
        assert raw.send(SYN, sequence=raw.sequence - 1, options=MODERN) == []
    (connection,) = pending
    assert connection.local == (raw.destination, 80)
    assert connection.remote == (raw.source, raw.port)
    connection.accept(raw.now)
    connection.accept(raw.now)
    (syn_ack,) = raw.answers()
    assert syn_ack.flags == SYN | ACK


@VERSIONS
def test_refused_dial_is_a_reset(version: int) -> None:
    raw, pending = undecided(version)
    raw.send(SYN, options=MODERN)
    pending[0].reject(raw.now)
    (reset,) = raw.answers()
    assert (reset.flags, reset.header.sequence, reset.header.acknowledgment) == (RST | ACK, 0, raw.sequence)
    assert pending[0].error is FlowAborted
    raw.host.assert_clean()


@VERSIONS
def test_unreachable_is_icmp_at_the_first_syn_and_a_reset_at_its_retransmission(version: int) -> None:
    raw, pending = undecided(version)
    raw.send(SYN, options=MODERN)
    pending[0].reject_unreachable("administratively-prohibited", raw.now)
    assert raw.answers() == []
    ((packet, code),) = raw.host.unreachables
    assert code == "administratively-prohibited"
    assert packet == raw.packet(SYN, sequence=raw.sequence - 1, acknowledgment=0, options=MODERN)
    assert pending[0].is_closed
    (reset,) = raw.send(SYN, sequence=raw.sequence - 1, options=MODERN)
    assert (reset.flags, reset.header.acknowledgment) == (RST | ACK, raw.sequence)
    assert len(pending) == 1
    raw.host.assert_clean()


def test_unreachable_is_forgotten_after_a_while_and_a_new_syn_asks_again() -> None:
    raw, pending = undecided()
    raw.send(SYN, options=MODERN)
    pending[0].reject_unreachable("host", raw.now)
    raw.send(SYN, sequence=raw.sequence + 77, options=MODERN)
    assert len(pending) == 2
    pending[1].reject_unreachable("host", raw.now)
    raw.answers()
    raw.sleep(30.1)
    raw.host.assert_clean()


def test_reset_from_the_device_cancels_the_dial() -> None:
    raw, pending = undecided()
    raw.send(SYN, options=MODERN)
    raw.host.layer.take_dirty()
    raw.send(RST)
    assert pending[0].error is FlowReset
    pending[0].accept(raw.now)
    assert raw.answers() == []
    raw.host.assert_clean()


def test_syn_and_reset_in_one_batch_never_reach_the_owner() -> None:
    raw, pending = undecided()
    host = raw.host
    syn, reset = raw.packet(SYN, options=PLAIN), raw.packet(RST, sequence=raw.sequence + 1)
    host.receive([syn, reset], raw.now)
    assert pending == []
    host.assert_clean()


def test_device_that_starts_anew_on_the_same_port_replaces_its_old_syn() -> None:
    raw, pending = undecided()
    raw.send(SYN, options=MODERN)
    raw.send(SYN, sequence=raw.sequence + 5000, options=MODERN)
    first, second = pending
    assert first.error is FlowReset
    second.accept(raw.now)
    (syn_ack,) = raw.answers()
    assert syn_ack.header.acknowledgment == raw.sequence + 5001 & 0xFFFFFFFF


def test_slow_dial_is_accepted_late() -> None:
    raw, pending = undecided()
    raw.send(SYN, options=MODERN)
    raw.now += 30.0
    raw.host.layer.handle_timer(raw.now)
    pending[0].accept(raw.now)
    (syn_ack,) = raw.answers()
    raw.acknowledgment, raw.timestamps = syn_ack.header.sequence + 1, True
    raw.send(ACK)
    assert state_of(pending[0]) is TcpState.ESTABLISHED


@VERSIONS
def test_upstream_is_read_only_while_the_device_takes_it(version: int) -> None:
    raw = RawClient(Host("host"), version=version, window=5744)
    connection = raw.open(PLAIN)
    taken = 0
    while slots := connection.send_slots():
        size = sum(map(len, slots))
        connection.commit(size, raw.now)
        taken += size
    assert 5744 < taken < 200_000
    mss = connection.sender.mss
    raw.answers()
    acked = raw.acknowledgment
    woken = 0
    while connection.unsent_bytes:
        acked += 4 * mss
        raw.host.layer.dirty.clear()
        packet = raw.packet(ACK, acknowledgment=acked)
        raw.host.layer.receive_packet("peer", packet, parse_ip(packet), raw.now)
        woken += connection in raw.host.layer.dirty
        raw.host.layer.flush(raw.now)
    assert woken >= 1
    assert len(connection.send_slots()) > 0


def test_small_writes_of_one_turn_share_a_packet_and_leave_at_once() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    connection.send(b"HTTP/1.1 200 OK\r\n", raw.now)
    connection.send(b"\r\n", raw.now)
    (segment,) = raw.answers()
    assert segment.payload == b"HTTP/1.1 200 OK\r\n\r\n"
    connection.send(b"more", raw.now)
    (segment,) = raw.answers()  # Nagle's algorithm is off
    assert segment.payload == b"more"


def test_answer_carries_the_ack() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    assert raw.send(ACK, b"request") == []
    connection.send(b"answer", raw.now)
    (segment,) = raw.answers()
    assert segment.header.acknowledgment == raw.sequence
    raw.acknowledgment += 6
    raw.send(ACK)
    assert raw.sleep(1.0) == []


def test_lone_small_segment_is_acknowledged_later_and_two_at_once() -> None:
    raw = RawClient(Host("host"))
    raw.open()
    assert raw.send(ACK, b"a") == []
    assert raw.sleep(0.019) == []
    assert len(raw.sleep(0.002)) == 1
    assert raw.send(ACK, b"b") == []
    assert len(raw.send(ACK, b"c")) == 1
    assert len(raw.send(ACK, bytes(1368))) == 1


def test_a_committed_size_beyond_the_slots_is_our_own_error() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    slots = connection.send_slots()
    with pytest.raises(ValueError, match="commit of"):
        connection.commit(sum(map(len, slots)) + 1, raw.now)
    with pytest.raises(ValueError, match="consume of"):
        connection.consume(1, raw.now)


def test_unused_slots_go_back_at_the_turns_end() -> None:
    raw = RawClient(Host("host"))
    connection = raw.open()
    assert connection.send_slots()
    assert raw.host.layer.budget.used > 0
    raw.answers()
    assert raw.host.layer.budget.used == 0


@VERSIONS
def test_many_flows_at_once_keep_their_bytes_apart(version: int) -> None:
    network = Network(version=version)
    flows = []
    for number in range(20):
        client, server = network.establish(port=1000 + number)
        data = bytes([number]) * 50_000
        flows.append((Sink(network.server, server), Sink(network.client, client), data))
        Source(network.client, client, data)
        Source(network.server, server, data[::-1])
    network.run(30)
    for up, down, data in flows:
        assert bytes(up.data) == bytes(down.data) == data
    network.run(61)
    network.client.assert_clean()
    network.server.assert_clean()
