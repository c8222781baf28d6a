"""What the stack tells the owner of its flows, past tense, in the order it happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lopower.netstack.tcp.connection import Connection


@dataclass(frozen=True, slots=True)
class TcpSynReceived:
    """A device wants a TCP flow; nothing is answered until `accept`, `reject` or `reject_unreachable`.

    Attributes:
        connection: the flow, in SYN-RECEIVED; `local` is what the device dialled, `remote` is the device.
    """

    connection: Connection
