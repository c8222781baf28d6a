"""SNTP on UDP port 123 of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lopower.bridge.gateway import GatewayUdp
    from lopower.bridge.sntp import SntpServer


class TimeService:
    """Hands requests to the SNTP server, and its answers back."""

    def __init__(self, server: SntpServer) -> None:
        self._server = server

    def receive(self, flow: GatewayUdp, payloads: list[Any], now: float) -> None:
        """As `UdpService.receive`."""
        answers = [answer for payload in payloads if (answer := self._server.answer(payload)) is not None]
        flow.table.count(flow.state, "time_requests")
        if answers:
            flow.send(answers, now)
