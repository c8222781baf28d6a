"""What the interface has to say to its owner, in order; `Interface.take_events` hands it over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lopower.wireguard.peer import Peer


@dataclass(frozen=True, slots=True)
class TimestampsAccepted:
    """Initiations were accepted, and their answers wait: store the stamps durably, then call `timestamps_stored`.

    Attributes:
        token: for `timestamps_stored`. If storing fails, do not call it: the peers try again after five seconds.
        timestamps: `(peer, TAI64N)`, 12 bytes each; a peer occurs once at most.
    """

    token: int
    timestamps: tuple[tuple[Peer, bytes], ...]


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """An authenticated, fresh message of the peer came from another address than before: `peer.endpoint`."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class SessionEstablished:
    """A handshake is complete: the other side has proved that it holds the new keys."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class HandshakeFailed:
    """Ninety seconds of initiations went unanswered; what was queued for the peer has been dropped."""

    peer: Peer


Event = TimestampsAccepted | EndpointChanged | SessionEstablished | HandshakeFailed
