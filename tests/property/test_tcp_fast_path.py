"""The fast path and the general path do the same: both get one input, and what they did is compared."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.tcp.connection import Connection
from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import ACK, FIN, PSH, TcpOptions
from tests.support.tcp_pair import PEER, Host, find_runs, parse_ip, parse_segment
from tests.support.tcp_raw import MODERN, PLAIN, RawClient


def step() -> st.SearchStrategy[tuple[Any, ...]]:
    """One segment: (payload size, gap before it, ACK's step, flags, stamp's step, window)."""
    return st.tuples(
        st.sampled_from([0, 1, 100, 100, 100, 1368]),
        st.sampled_from([0] * 12 + [-1, 1, 100]),
        st.sampled_from([0, 0, 0, 0, 100, 700, -300, 10**6]),
        st.sampled_from([ACK, ACK, ACK, ACK | PSH, ACK | FIN]),
        st.sampled_from([0, 0, 0, 1, 5, -3]),
        st.sampled_from([60000, 60000, 60000, 3000, 0]),
    )


def build(client: RawClient, steps: list[tuple[Any, ...]], limit: int) -> list[bytes]:
    """Segments of one flow; sequence numbers follow each other but for the gaps."""
    packets: list[bytes] = []
    acked = 0
    for size, gap, ack_step, flags, stamp_step, window in steps:
        client.sequence = client.sequence + gap & 0xFFFFFFFF
        acked = min(acked + ack_step, limit if ack_step < 10**6 else 10**7)
        client.timestamp += stamp_step
        options = TcpOptions(timestamp=client.timestamp, timestamp_echo=client.echo) if client.timestamps else None
        packets.append(
            client.packet(
                flags, bytes(size), acknowledgment=client.acknowledgment + acked, window=window, options=options
            )
        )
        if acked > limit:
            acked = 0
        client.sequence = client.sequence + size + (flags & FIN) & 0xFFFFFFFF
    return packets


def observed(host: Host, connection: Connection) -> dict[str, Any]:
    """What a segment can have changed."""
    receiver, sender = connection.receiver, connection.sender
    return {
        "state": connection.state,
        "error": connection.error,
        "received": b"".join(connection.received),
        "fin": receiver.fin_received,
        "rcv_nxt": receiver.rcv_nxt,
        "rcv_adv": receiver.rcv_adv,
        "ts_recent": receiver.ts_recent,
        "out_of_order": receiver.reassembly.byte_count,
        "una": sender.snd_una,
        "nxt": sender.snd_nxt,
        # Not max_snd_wnd: a window that a later row of the same run takes back was never there for long.
        "window": (sender.snd_wnd, sender.snd_wl1, sender.snd_wl2),
        "dupacks": sender.dupacks,
        "dirty": connection in host.layer.dirty,
        "answers": [
            (s.flags, s.header.sequence, s.header.acknowledgment, s.header.window, s.payload)
            for s in map(parse_segment, host.outbox)
        ],
    }


def play(
    fast: bool,
    version: int,
    options: TcpOptions,
    data: int,
    batches: list[Any],
    state: TcpState = TcpState.ESTABLISHED,
) -> tuple[list[Any], int]:
    """Feed the batches to a flow that has `data` bytes in flight; returns what was observed after each."""
    host = Host("host", fast=fast)
    client = RawClient(host, version=version)
    connection = client.open(options)
    if data:
        connection.send(bytes(data), client.now)
        client.answers()
    if state is TcpState.CLOSE_WAIT:
        client.send(ACK | FIN)
    elif state is not TcpState.ESTABLISHED:
        connection.shutdown(client.now)
        client.answers()
        data += 1
        if state is TcpState.FIN_WAIT_2:
            client.acknowledgment += data
            client.send(ACK)
            data = 0
    assert connection.state is state
    host.fast_segments = 0
    seen: list[Any] = []
    for steps in batches:
        client.now += 0.001
        packets = build(client, steps, data)
        for run in find_runs(packets):
            count = run.last - run.first
            if fast and count and host.layer.receive_run(run, client.now):
                host.fast_segments += count
                continue
            for packet in packets[run.first : max(run.last, run.first + 1)]:
                host.layer.receive_packet(PEER, packet, parse_ip(packet), client.now)
        host.layer.take_events()
        before = observed(host, connection)
        host.layer.dirty.clear()
        host.layer.flush(client.now)
        seen.append((before, observed(host, connection)))
        host.outbox.clear()
    return seen, host.fast_segments


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [MODERN, PLAIN], ids=["timestamps", "plain"])
@given(
    data=st.sampled_from([0, 1, 700, 5000]),
    batches=st.lists(st.lists(step(), min_size=1, max_size=12), max_size=5),
    state=st.sampled_from([TcpState.ESTABLISHED, TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2, TcpState.CLOSE_WAIT]),
)
@settings(max_examples=200, deadline=None)
def test_fast_path_equals_general_path(
    version: int, options: TcpOptions, data: int, batches: list[Any], state: TcpState
) -> None:
    fast, _ = play(True, version, options, data, batches, state)
    general, _ = play(False, version, options, data, batches, state)
    assert fast == general


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("options", [MODERN, PLAIN], ids=["timestamps", "plain"])
def test_bulk_takes_the_fast_path(version: int, options: TcpOptions) -> None:
    full = [(1368, 0, 0, ACK, 0, 60000)] * 20 + [(700, 0, 0, ACK | PSH, 0, 60000)]
    seen, segments = play(True, version, options, 0, [full, full[:3], [(5, 0, 0, ACK, 0, 60000)]])
    assert segments == 25
    assert [len(after["answers"]) for _, after in seen] == [1, 1, 0]
