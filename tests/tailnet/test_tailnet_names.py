"""Peers ask for devices' names at the proxy's node, with dig from a peer; nothing else of the gateway's is there."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from lopower.bridge.tailnet_names import MAX_FLOWS_PER_NODE
from lopower.daemon.advertising import Advertising
from lopower.daemon.errors import OperationError
from lopower.devices.advertising import Advertisement, Zone
from lopower.devices.exposures import Exposure
from tests.support.proxy import Proxy, running_proxy
from tests.support.requirements import require_program
from tests.support.tailnet_proxy import joined
from tests.support.tailnet_world import TailnetWorld
from tests.tailnet.test_tailnet_inbound import address_of, expose

# The first of them builds the test tailnet, which takes minutes where nothing of it is cached.
pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(600)]

ZONE = Zone("iot.home.arpa")


@pytest.fixture
async def proxy(tailnet: TailnetWorld, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(tmp_path, tailnet="tsnet", control_url=tailnet.control_url) as running:
        await joined(running)
        yield running


class Resolver:
    """What a peer's programs find at port 53 of the proxy's node."""

    def __init__(self, port: int) -> None:
        self._dig = [require_program("dig"), "@127.0.0.1", "-p", str(port), "+tries=1", "+time=3"]

    async def ask(self, *arguments: str) -> str:
        """dig's output."""
        done = await asyncio.to_thread(
            subprocess.run, [*self._dig, *arguments], capture_output=True, text=True, check=False, timeout=20
        )
        return done.stdout

    async def short(self, *arguments: str) -> list[str]:
        """The answers alone."""
        return (await self.ask("+short", *arguments)).split()


async def resolver(tailnet: TailnetWorld, proxy: Proxy, version: int = 4, peer: str = "peer") -> Resolver:
    address = address_of(proxy, version=1 if version == 6 else 0)
    # Two nodes that call each other for the first time at one moment wait 5 s (WireGuard's REKEY_TIMEOUT).
    await tailnet.do("ping", peer=peer, address=address, timeout=10)
    host = f"[{address}]" if version == 6 else address
    return Resolver((await tailnet.do("forward", peer=peer, address=f"{host}:53"))["port"])


def advertising(proxy: Proxy) -> Advertising:
    return Advertising(proxy.registry, proxy.runtime, asyncio.Lock())


@pytest.mark.parametrize("version", [4, 6])
async def test_names_over_both_transports(tailnet: TailnetWorld, proxy: Proxy, version: int) -> None:
    proxy.enrol("kitchen")
    asked = await resolver(tailnet, proxy, version)
    assert "NOERROR" not in await asked.ask("+time=1", "kitchen.iot.home.arpa")
    await advertising(proxy).advertise(Advertisement(), shared=False, zone=ZONE)
    device = proxy.registry.get("kitchen")
    for transport in ("+notcp", "+tcp"):
        assert await asked.short(transport, "KITCHEN.iot.home.arpa", "A") == [str(device.ipv4)]
        assert await asked.short(transport, "kitchen.iot.home.arpa", "AAAA") == [str(device.ipv6)]
        assert await asked.short(transport, "-x", str(device.ipv4)) == ["kitchen.iot.home.arpa."]
        assert await asked.short(transport, "iot.home.arpa", "NS") == ["iot.home.arpa."]
        assert await asked.short(transport, "iot.home.arpa", "A") == [address_of(proxy)]
        assert "status: NXDOMAIN" in await asked.ask(transport, "nobody.iot.home.arpa")
        assert "status: REFUSED" in await asked.ask(transport, "www.example.org")
    text = await asked.ask("+edns=0", "kitchen.iot.home.arpa", "MX")
    assert "status: NOERROR" in text
    assert "flags: qr aa rd; QUERY: 1, ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1" in text
    # dig asks the two questions over one connection.
    assert len(await asked.short("+tcp", "+keepopen", "kitchen.iot.home.arpa", "A", "kitchen.iot.home.arpa")) == 2
    assert proxy.runtime.bridge.flows.counters["zone_queries"] > 10


async def test_names_follow_what_is_advertised_and_survive_a_restart(tailnet: TailnetWorld, proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    await advertising(proxy).advertise(Advertisement(7), shared=False, zone=ZONE)
    asked = await resolver(tailnet, proxy)
    via = ["fd7a:115c:a1e0:b1a:0:7:a5a:2"]
    assert await asked.short("kitchen.iot.home.arpa", "AAAA") == via
    assert await asked.short("kitchen.iot.home.arpa", "A") == []
    assert await asked.short("-x", via[0]) == ["kitchen.iot.home.arpa."]
    await proxy.stop()
    proxy.start()
    await joined(proxy)
    # Another peer: the first one goes on with its WireGuard session to the node of before, for up to 15 s.
    asked = await resolver(tailnet, proxy, peer="other")
    assert await asked.short("kitchen.iot.home.arpa", "AAAA") == via
    proxy.enrol("hall")
    assert await asked.short("hall.iot.home.arpa", "AAAA") == ["fd7a:115c:a1e0:b1a:0:7:a5a:3"]
    await advertising(proxy).withdraw(names_only=True)
    assert "NOERROR" not in await asked.ask("+time=1", "hall.iot.home.arpa", "AAAA")
    assert proxy.registry.advertisement == Advertisement(7)


async def test_the_other_services_of_the_gateway_stay_closed(tailnet: TailnetWorld, proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    await advertising(proxy).advertise(Advertisement(), shared=False, zone=ZONE)
    assert (await tailnet.ask("tcp", peer="peer", address=f"{address_of(proxy)}:80"))["error"] == "refused"
    assert not (await tailnet.ask("udp", peer="peer", address=f"{address_of(proxy)}:123", send="x" * 48))["ok"]
    nodes = (await tailnet.do("nodes"))["nodes"]
    assert next(node["advertised"] for node in nodes if node["name"] == "lopower")
    await tailnet.do("approve", node="lopower", routes=["10.90.0.0/24"])
    answer = await tailnet.ask("udp", peer="peer", address="10.90.0.1:53", send="x", timeout=2)
    assert not answer["ok"]


async def test_a_port_is_either_a_devices_or_the_names(tailnet: TailnetWorld, proxy: Proxy) -> None:
    device = proxy.enrol("kitchen")
    exposure = Exposure(device_id=device.id, kind="port", transport="udp", port=53, target_port=53)
    expose(proxy, exposure)
    with pytest.raises(OperationError, match="exposed to kitchen"):
        await advertising(proxy).advertise(Advertisement(), shared=False, zone=ZONE)
    with pytest.raises(OperationError, match="by themselves"):
        await advertising(proxy).advertise(Advertisement(), shared=False, zone=Zone(f"iot.{tailnet.domain}"))
    expose(proxy, replace(exposure, kind="all", transport="tcp", port=0, target_port=0))
    await advertising(proxy).advertise(Advertisement(), shared=False, zone=ZONE)
    assert await (await resolver(tailnet, proxy)).short("kitchen.iot.home.arpa") == [str(device.ipv4)]


async def test_a_node_that_keeps_connections_open_reaches_its_own_limit(tailnet: TailnetWorld, proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    await advertising(proxy).advertise(Advertisement(), shared=False, zone=ZONE)
    port = (await tailnet.do("forward", peer="peer", address=f"{address_of(proxy)}:53"))["port"]
    writers = []
    for _ in range(MAX_FLOWS_PER_NODE + 2):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\0")
        writers.append(writer)
    counters = proxy.runtime.bridge.flows.counters
    async with asyncio.timeout(10):
        while not counters["zone_limit"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    other = await resolver(tailnet, proxy, peer="other")
    assert await other.short("kitchen.iot.home.arpa") == ["10.90.0.2"]
    for writer in writers:
        writer.close()
