"""Echo to a tailnet that is not the host's network: the driver pings, and a device is answered only if that was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING

from lopower.tailnet.driver import DialError

if TYPE_CHECKING:
    from lopower.bridge.device_state import DeviceState
    from lopower.bridge.flow import FlowTable
    from lopower.netstack.events import EchoRequested
    from lopower.tailnet.driver import Driver


class TailnetEcho:
    """Echo requests of devices that the driver passes on."""

    def __init__(
        self, table: FlowTable, driver: Driver, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._driver = driver
        self._loop = loop
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    def request(self, state: DeviceState, event: EchoRequested) -> None:
        """Send one request on, within the device's limit."""
        if state.echoes >= self._table.config.max_echoes_per_device:
            self._table.count(state, "echo_limit")
            return
        state.echoes += 1
        task = self._loop.create_task(self._ping(state, event), name="echo request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what waits."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ping(self, state: DeviceState, event: EchoRequested) -> None:
        table = self._table
        try:
            answered = await self._driver.ping(ip_address(event.destination), table.config.echo_timeout)
        except DialError:
            table.count(state, "echo_unreachable")
            if state.peer is event.peer:
                table.stack.send_unreachable(event.peer, event, "host", self._clock())
        else:
            if not answered:
                table.count(state, "echo_unanswered")
            elif state.peer is event.peer:  # the device is still there
                table.stack.send_echo_reply(event, event.payload, self._clock())
        finally:
            state.echoes -= 1
            table.poller.wake()
