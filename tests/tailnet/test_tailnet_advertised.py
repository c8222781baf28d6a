"""The devices' ranges as routes of a real tailnet: as they are and by 4via6, mixed; echo; addresses of nobody."""

from __future__ import annotations

import asyncio

import pytest

from lopower.daemon.advertising import Advertising
from lopower.daemon.errors import OperationError
from lopower.devices.advertising import Advertisement
from tests.support.proxy import Proxy
from tests.support.tailnet_proxy import Kitchen, driver_of, until
from tests.support.tailnet_world import TailnetWorld

# The first of them builds the test tailnet, which takes minutes where nothing of it is cached.
pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(600)]

HOSTNAME = "lopower"


async def advertise(tailnet: TailnetWorld, proxy: Proxy, advertisement: Advertisement) -> None:
    """Advertised, approved, and known to the peer."""
    advertising = Advertising(proxy.registry, proxy.runtime, asyncio.Lock())
    document = await advertising.advertise(advertisement, shared=False)
    routes = [entry["route"] for entry in document["routes"]]
    assert not any(entry["approved"] for entry in document["routes"])

    async def arrived() -> bool:
        nodes = (await tailnet.do("nodes"))["nodes"]
        return any(set(routes) <= set(node["advertised"]) for node in nodes if node["name"] == HOSTNAME)

    async with asyncio.timeout(10):
        while not await arrived():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await tailnet.do("approve", node=HOSTNAME, routes=routes)
    await until(lambda: all(entry["approved"] for entry in advertising.document()["routes"]))


async def reached(tailnet: TailnetWorld, host: str) -> str:
    """What the peer fetches, as soon as it knows the route."""
    async with asyncio.timeout(20):
        while True:
            answer = await tailnet.ask("fetch", peer="peer", url=f"http://{host}/", timeout=3)
            if answer["ok"]:
                return str(answer["body"])
            await asyncio.sleep(0.2)


async def test_ranges_as_they_are(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    await advertise(tailnet, proxy, Advertisement())
    device = proxy.registry.get("kitchen")
    assert await reached(tailnet, str(device.ipv4)) == "kitchen"
    assert await reached(tailnet, f"[{device.ipv6}]") == "kitchen"
    for host in (str(device.ipv4), f"[{device.ipv6}]"):
        answer = await tailnet.do("udp", peer="peer", address=f"{host}:7", send="ping", count=2)
        assert answer["received"] == ["ping"] * 2
        assert (await tailnet.ask("tcp", peer="peer", address=f"{host}:4242"))["error"] == "refused"
    nobody = await tailnet.ask("tcp", peer="peer", address="10.90.0.77:7", timeout=3)
    assert nobody["error"] in ("unreachable", "timeout")


async def test_4via6_and_echo(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    await advertise(tailnet, proxy, Advertisement(7))
    device = proxy.registry.get("kitchen")
    advertising = Advertising(proxy.registry, proxy.runtime, asyncio.Lock())
    via = advertising.of_device(device)
    assert via == {"address": "fd7a:115c:a1e0:b1a:0:7:a5a:2", "name": f"10-90-0-2-via-7.{tailnet.domain}"}
    assert await reached(tailnet, f"[{via['address']}]") == "kitchen"
    answer = await tailnet.do("udp", peer="peer", address=f"[{via['address']}]:7", send="ping")
    assert answer["received"] == ["ping"]
    assert (await tailnet.do("ping", peer="peer", address=via["address"]))["seconds"] > 0


async def test_devices_that_come_later_are_reached(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    await advertise(tailnet, proxy, Advertisement())
    assert await reached(tailnet, str(proxy.registry.get("kitchen").ipv4)) == "kitchen"
    hall = proxy.enrol("hall")
    async with proxy.device("hall") as device:
        await device.handshake()
        made = Kitchen(device)
        assert await reached(tailnet, str(hall.ipv4)) == "kitchen"
        assert (await tailnet.do("ping", peer="peer", address=str(hall.ipv4)))["seconds"] > 0
        await made.close()


async def test_a_range_that_another_advertises_is_refused(
    tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen
) -> None:
    await tailnet.do("approve", node="other", routes=["10.90.0.0/16"])
    advertising = Advertising(proxy.registry, proxy.runtime, asyncio.Lock())

    async def known() -> bool:
        return any("10.90.0.0/16" in (peer.get("routes") or ()) for peer in await driver_of(proxy).peers())

    async with asyncio.timeout(10):
        while not await known():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    with pytest.raises(OperationError, match="other advertises"):
        await advertising.advertise(Advertisement(), shared=False)
    assert proxy.registry.advertisement is None
    await advertising.advertise(Advertisement(), shared=True)
    assert (await advertising.withdraw())["routes"] == []
