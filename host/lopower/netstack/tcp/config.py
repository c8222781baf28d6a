"""What can be set about TCP. Times are seconds, sizes bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpConfig:
    """Limits and timeouts of all flows.

    Attributes:
        local_addresses: packed addresses that an active open without a local address may use.
        receive_buffer_initial: the receive window a flow begins with; it doubles while it is what holds the flow up.
        receive_buffer: the most it grows to; a window of at most 65,535 << 7 can be told to the peer.
        send_buffer: the most one flow holds of data not yet acknowledged, sent or not; less while many flows hold some.
        read_ahead: how much unsent data a flow takes beyond its windows, so that upstream is read in large pieces.
        memory_budget: what all flows together hold; beyond it flows shrink to what keeps them moving.
        ack_delay: how long a lone small segment's ACK waits for company; RFC 9293 section 3.8.6.3 permits 0.5.
        accept_timeout: how long a SYN waits for `accept` or `reject`.
        syn_received_timeout: how long SYN-ACKs are repeated.
        connect_timeout: how long SYNs are repeated.
        user_timeout: how long data may stay unacknowledged (RFC 9293 section 3.8.3: at least 100 s).
        close_timeout: the same once both sides have closed, or a closed window has kept our FIN back for so long.
        keepalive_idle, keepalive_interval, keepalive_probes: RFC 9293 section 3.8.4.
        idle_timeout: a flow without any data for so long ends, keepalive or not.
        fin_wait_2: RFC 9293 knows no limit; it applies once nobody reads any more.
        time_wait: twice the maximum segment lifetime.
        max_connections, max_connections_per_peer: flows, TIME-WAIT not counted.
        max_half_open, max_half_open_per_peer: flows whose handshake is not complete.
    """

    local_addresses: tuple[bytes, ...] = ()
    receive_buffer_initial: int = 256 << 10
    receive_buffer: int = 4 << 20
    send_buffer: int = 4 << 20
    read_ahead: int = 64 << 10
    memory_budget: int = 256 << 20
    ack_delay: float = 0.02
    accept_timeout: float = 75.0
    syn_received_timeout: float = 60.0
    connect_timeout: float = 60.0
    user_timeout: float = 120.0
    close_timeout: float = 60.0
    keepalive_idle: float = 600.0
    keepalive_interval: float = 30.0
    keepalive_probes: int = 5
    idle_timeout: float = 86400.0
    fin_wait_2: float = 60.0
    time_wait: float = 60.0
    max_connections: int = 32768
    max_connections_per_peer: int = 8192
    max_half_open: int = 4096
    max_half_open_per_peer: int = 512
