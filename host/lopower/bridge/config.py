"""The bridge's limits and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeConfig:
    """Times in seconds. Every table has a limit; the comment says who could exhaust it.

    Attributes:
        dial_timeout: until a dial that nobody answers is given up and the device gets a RST.
        tcp_idle_timeout: of an open flow. RFC 5382 (REQ-5) asks for 2 h 4 min at least; dead peers are found much
            sooner by keepalive, on both sides, so this is for flows that live and that everybody forgot.
        tcp_half_closed_timeout: of a flow one side of which has said all it has to say.
        tcp_linger_timeout: for the device to take the last bytes once upstream has ended both directions.
        udp_timeout: idle, RFC 4787 (REQ-5) asks for 2 min at least and recommends 5 min.
        dns_timeout: of a UDP flow to port 53, here or elsewhere: one question, one answer.
        echo_timeout: how long an echo reply is waited for.
        inbound_timeout: for a device to answer a connection from the tailnet; the sidecar waits for 10 s.
        wake_timeout: the same, of a device without a session, whose last endpoint is tried meanwhile.
        connection_timeout: of a connection to the gateway's own services that says nothing.
    """

    dial_timeout: float = 10.0
    tcp_idle_timeout: float = 24 * 3600.0
    tcp_half_closed_timeout: float = 7440.0
    tcp_linger_timeout: float = 60.0
    udp_timeout: float = 300.0
    dns_timeout: float = 30.0
    echo_timeout: float = 10.0
    connection_timeout: float = 30.0
    inbound_timeout: float = 9.0
    wake_timeout: float = 5.0

    # A device (or what runs on it) that opens flows without end: it reaches its own limit, not the host's descriptors.
    max_tcp_flows_per_device: int = 1024
    max_udp_flows_per_device: int = 512
    max_dials_per_device: int = 128
    max_echoes_per_device: int = 16
    # Questions being resolved; each is a task. A device that asks for what no resolver answers.
    max_queries_per_device: int = 64
    # Each of these unix streams may hold 2 MB in the kernel, of a tailnet slower than its device.
    max_large_streams: int = 64
    # Many devices at once; sockets, and buffers in the kernel behind each.
    max_flows: int = 16_384
    max_queries: int = 1024
