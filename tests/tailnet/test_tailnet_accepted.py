"""Routes that the proxy's node accepts: in new configurations, remembered while the sidecar is away; rules go first."""

from __future__ import annotations

import os
import signal
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from lopower.bridge.policy import Via
from tests.support.proxy import running_proxy
from tests.support.tailnet_proxy import driver_of, joined, until
from tests.support.tailnet_world import TailnetWorld

# The first of them builds the test tailnet, which takes minutes where nothing of it is cached.
pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(600)]

ROUTE = ip_network("198.51.100.0/24")


async def test_accepted_routes_and_rules(tailnet: TailnetWorld, tmp_path: Path) -> None:
    flags = {"tailnet": "tsnet", "control_url": tailnet.control_url, "accept_routes": True}
    async with running_proxy(tmp_path, **flags, allow=["198.51.100.9/32"]) as proxy:
        await joined(proxy)
        device = proxy.enrol("kitchen")
        assert ROUTE not in (proxy.runtime.tailnet_networks() or ())
        await tailnet.do("approve", node="peer", routes=[str(ROUTE)])
        await until(lambda: ROUTE in (proxy.runtime.tailnet_networks() or ()))
        ways = {
            address: proxy.runtime.bridge.policy.decide(device, ip_address(address).packed, "tcp", 80).via
            for address in ("198.51.100.7", "198.51.100.9", tailnet.peers["peer"][0])
        }
        # What a rule permits is this host's to dial, whatever the tailnet says.
        assert list(ways.values()) == [Via.TAILNET, Via.DIRECT, Via.TAILNET]
        process = driver_of(proxy).supervisor.process
        assert process is not None
        os.kill(process, signal.SIGKILL)
        await until(lambda: driver_of(proxy).proxy is None)
        assert ROUTE in (proxy.runtime.tailnet_networks() or ())
        await joined(proxy)
        await tailnet.do("approve", node="peer", routes=[])
        await until(lambda: ROUTE not in (proxy.runtime.tailnet_networks() or ()))
