"""What the stack tells the owner of its flows, past tense, in the order it happened.

Addresses are packed: 4 or 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from lopower.netstack.tcp.connection import Connection
    from lopower.netstack.udp import UdpFlow


@dataclass(frozen=True, slots=True)
class TcpSynReceived:
    """A device wants a TCP flow; nothing is answered until `accept`, `reject` or `reject_unreachable`.

    Attributes:
        connection: the flow, in SYN-RECEIVED; `local` is what the device dialled, `remote` is the device.
    """

    connection: Connection


@dataclass(frozen=True, slots=True)
class UdpFlowOpened:
    """A device sent the first datagram from its address and port to another.

    Attributes:
        flow: `local` is what the device sent to, `remote` is the device; `received` holds the turn's datagrams already.
    """

    flow: UdpFlow


@dataclass(frozen=True, slots=True)
class EchoRequested:
    """A device pings an address that is not the stack's own; only who asks that address may answer.

    Attributes:
        peer: whose packet it was.
        source: the device's address; `destination`: the address it asks.
        identifier, sequence: 16 bits each.
        payload: what a reply repeats.
        ttl: hop limit of the request, as it arrived.
    """

    peer: Any
    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    payload: bytes
    ttl: int


@dataclass(frozen=True, slots=True)
class EchoReplyReceived:
    """A device answered an echo request, or says it did: compare with what was asked.

    Attributes:
        peer: whose packet it was.
        source: the device's address; `destination`: the address that asked.
        identifier, sequence: 16 bits each.
        payload: as it came.
        ttl: hop limit of the reply, as it arrived.
    """

    peer: Any
    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    payload: bytes
    ttl: int


StackEvent: TypeAlias = TcpSynReceived | UdpFlowOpened | EchoRequested | EchoReplyReceived
