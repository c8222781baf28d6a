"""How a flow can end other than by both sides having said all they had to say."""

from __future__ import annotations


class FlowError(Exception):
    """Base of all reasons; `Connection.error` holds one of the subclasses."""


class FlowRefused(FlowError):  # noqa: N818
    """The peer answered the SYN with a RST (active open)."""


class FlowUnreachable(FlowError):  # noqa: N818
    """An ICMP error or the want of a local address ended an active open."""


class FlowProhibited(FlowUnreachable):
    """The same, since somebody on the way does not permit it: an ICMP error "administratively prohibited"."""


class FlowReset(FlowError):  # noqa: N818
    """The peer sent a RST that RFC 5961 accepts."""


class FlowTimedOut(FlowError):  # noqa: N818
    """The peer stopped acknowledging: retransmissions, keepalive probes or a wait for its last words ran out."""


class FlowAborted(FlowError):  # noqa: N818
    """Our side ended the flow with a RST, or the peer it belonged to was removed."""


class LimitReached(FlowError):  # noqa: N818
    """A new flow was refused since a table is full. Raised by `connect`; passive opens are counted and dropped."""
