"""Run in a network namespace of its own that permits ping sockets: echo through the bridge, answered by the kernel."""

from __future__ import annotations

import asyncio

from tests.support.bridge_devices import make_device
from tests.support.bridge_world import running


async def check() -> None:
    """The kernel answers what it has an address for; what cannot be reached is said; silence stays silence."""
    async with running(make_device(2)) as world:
        device = world.devices[0]
        assert world.bridge.status()["ping_sockets"]
        for destination in ("100.64.0.9", "fd7a:115c:a1e0::9"):
            for identifier in (7, 8):
                for sequence in (1, 2):
                    payload = b"%d" % sequence * 1000
                    device.ping(destination, identifier, sequence, payload)
                    reply = await asyncio.wait_for(device.echo_replies.get(), 5)
                    assert (reply.identifier, reply.sequence, reply.payload) == (identifier, sequence, payload)
        assert device.state.echoes == 4
        world.elapse(11)
        await world.until(lambda: not device.state.echoes)
        assert not len(world.poller)
        device.ping("100.64.1.1")
        await world.until(lambda: world.stack.counters["icmp_errors_sent"] == 1)
        device.ping("100.64.2.1")
        await world.until(lambda: device.state.echoes == 1)
        world.elapse(11)
        await world.until(lambda: not device.state.echoes)
        assert device.state.counters["echo_unanswered"] == 1
        assert device.echo_replies.empty()
        for identifier in range(20):
            device.ping("100.64.2.1", identifier)
        await world.until(lambda: device.state.counters["echo_limit"] == 4)


if __name__ == "__main__":
    asyncio.run(check())
