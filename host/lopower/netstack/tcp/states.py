"""The states of RFC 9293 section 3.3.2. LISTEN is not among them: every address listens until its owner says no."""

from __future__ import annotations

import enum


class TcpState(enum.Enum):
    """State of a connection."""

    SYN_SENT = enum.auto()
    SYN_RECEIVED = enum.auto()
    ESTABLISHED = enum.auto()
    FIN_WAIT_1 = enum.auto()
    FIN_WAIT_2 = enum.auto()
    CLOSE_WAIT = enum.auto()
    CLOSING = enum.auto()
    LAST_ACK = enum.auto()
    TIME_WAIT = enum.auto()
    CLOSED = enum.auto()
