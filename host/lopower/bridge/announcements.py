"""UDP port 9909 of the gateway, where boards with our firmware say what they run, once after each start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lopower.devices.firmware import MAX_BYTES, AnnouncementError, Firmware, parse

if TYPE_CHECKING:
    from lopower.bridge.gateway import GatewayUdp

Announced = Callable[[Any, Firmware], None]


class AnnouncementService:
    """Answers what it has understood, so that the board does not say it again. `announced`: told of a peer's."""

    def __init__(self, announced: Announced) -> None:
        self._announced = announced

    def receive(self, flow: GatewayUdp, payloads: list[Any], now: float) -> None:
        """As `UdpService.receive`."""
        for payload in payloads:
            try:
                firmware = parse(bytes(payload[: MAX_BYTES + 1]))
            except AnnouncementError:
                flow.table.count(flow.state, "announcements_malformed")
                continue
            flow.table.count(flow.state, "announcements")
            self._announced(flow.state.peer, firmware)
            flow.send([b"ok"], now)
