"""Any segment in any state: nothing raises, invariants hold, and in the end nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.tcp.states import TcpState
from lopower.wire.tcp import TcpOptions
from tests.support.tcp_pair import Host
from tests.support.tcp_raw import MODERN, PLAIN, RawClient

OFFSET = st.sampled_from([0, 0, 0, 1, -1, 3, 100, -100, 60000, 70000, -70000, 1 << 31, -(1 << 31)])
SEGMENT = st.tuples(
    st.integers(0, 255),  # flags
    OFFSET,  # of the sequence number
    OFFSET,  # of the acknowledgment
    st.sampled_from([0, 0, 1, 5, 1368]),  # payload
    st.sampled_from([0, 1, 100, 60000]),  # window
    st.sampled_from([None, 0, 1, -1, 1 << 31]),  # the stamp's step; None: no stamp
    st.lists(st.tuples(OFFSET, OFFSET), max_size=3),  # SACK blocks
    st.sampled_from([0.0, 0.0, 0.03, 1.0, 70.0]),  # time that passes afterwards
)


@pytest.mark.parametrize("state", list(TcpState))
@pytest.mark.parametrize("options", [MODERN, PLAIN], ids=["modern", "plain"])
@given(segments=st.lists(SEGMENT, max_size=8), queued=st.sampled_from([0, 3, 5000]), reads=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_segment_in_any_state(
    state: TcpState, options: TcpOptions, segments: list[tuple[Any, ...]], queued: int, reads: bool
) -> None:
    host = Host("host")
    raw = RawClient(host)
    connection = raw.in_state(state, options)
    connection.send(bytes(queued), raw.now)
    raw.answers()
    for flags, sequence, acknowledgment, size, window, stamp, blocks, pause in segments:
        raw.timestamp = raw.timestamp + (stamp or 0) & 0xFFFFFFFF
        edges = [(raw.acknowledgment + a & 0xFFFFFFFF, raw.acknowledgment + b & 0xFFFFFFFF) for a, b in blocks]
        raw.send(
            flags,
            bytes(size),
            sequence=raw.sequence + sequence,
            acknowledgment=raw.acknowledgment + acknowledgment,
            window=window,
            options=TcpOptions(
                timestamp=None if stamp is None else raw.timestamp, timestamp_echo=raw.echo, sack_blocks=tuple(edges)
            ),
        )
        for flow in host.layer.connections():
            receiver, sender = flow.receiver, flow.sender
            if not flow.is_pending and state is not TcpState.SYN_SENT:
                assert receiver.rcv_nxt <= receiver.rcv_adv + 1
            assert sender.snd_una <= sender.snd_nxt
            assert 0 <= sender.board.sacked_bytes + sender.board.lost_bytes <= sender.snd_nxt - sender.snd_una
            assert receiver.received_bytes == sum(map(len, receiver.received))
            assert sender.cubic.cwnd >= sender.mss
            if reads and receiver.received_bytes:
                flow.consume(receiver.received_bytes, raw.now)
        if pause:
            raw.sleep(pause)
    for flow in host.layer.connections():
        flow.abort(raw.now)
    raw.answers()
    raw.sleep(200.0)
    host.assert_clean()
