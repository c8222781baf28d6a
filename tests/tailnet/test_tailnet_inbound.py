"""The tailnet reaches devices: by the proxy's node, by one port of it, by nodes of their own; whom `--from` permits."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from lopower.bridge.exposed import node_of
from lopower.devices.device import Device
from lopower.devices.exposures import Exposure, parse_sources
from lopower.tailnet.tsnet import TsnetDriver
from tests.support.proxy import Proxy
from tests.support.tailnet_proxy import DATA, Kitchen, driver_of, echo, joined, until
from tests.support.tailnet_world import TailnetWorld

# The first of them builds the test tailnet, which takes minutes where nothing of it is cached.
pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(600)]


def expose(proxy: Proxy, *exposures: Exposure) -> None:
    """These and no others."""
    proxy.registry.unexpose([entry.place for entry in proxy.registry.exposures()])
    for exposure in exposures:
        proxy.registry.expose(exposure)
    proxy.runtime.exposures_changed(proxy.registry.exposures())


def address_of(proxy: Proxy, name: str | None = None, version: int = 0) -> str:
    """The address of one of our nodes."""
    node = driver_of(proxy).nodes[name or "proxy"]
    return str(node.addresses[version])


def kitchen_of(proxy: Proxy) -> Device:
    return proxy.registry.get("kitchen")


async def own_node(driver: TsnetDriver, name: str) -> None:
    await until(lambda: name in driver.nodes and driver.nodes[name].running and driver.nodes[name].peers >= 2)


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
async def test_all_that_arrives_for_the_node(
    tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen, version: int
) -> None:
    address = address_of(proxy, version=version)
    host = f"[{address}]" if version else address
    refused = await tailnet.ask("tcp", peer="peer", address=f"{host}:7", send="x")
    assert refused["error"] == "refused"
    expose(proxy, Exposure(device_id=kitchen_of(proxy).id, kind="all"))
    fetched = await tailnet.do("fetch", peer="peer", url=f"http://{host}/")
    assert (fetched["status"], fetched["body"]) == (200, "kitchen")
    assert (await tailnet.do("tcp", peer="peer", address=f"{host}:7", send="hello" * 10_000))["received"] == (
        "hello" * 10_000
    )
    answers = await tailnet.do("udp", peer="peer", address=f"{host}:7", send="ping", count=3)
    assert answers["received"] == ["ping"] * 3
    assert (await tailnet.ask("tcp", peer="peer", address=f"{host}:4242", send="x"))["error"] == "refused"
    assert (await tailnet.ask("udp", peer="peer", address=f"{host}:4242", send="x"))["ok"] is False
    expose(proxy)
    assert (await tailnet.ask("tcp", peer="peer", address=f"{host}:7", send="x"))["error"] == "refused"


async def test_bulk_both_ways_has_equal_hashes(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    expose(proxy, Exposure(device_id=kitchen_of(proxy).id, kind="all"))
    host = address_of(proxy)
    up = await tailnet.do("upload", peer="peer", address=f"{host}:9", bytes=len(DATA), timeout=60)
    assert up["received"] == up["sha256"]
    down = await tailnet.do("download", peer="peer", address=f"{host}:19", send="go", timeout=60)
    assert (down["bytes"], down["sha256"]) == (len(DATA), hashlib.sha256(DATA).hexdigest())


async def test_one_port(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    exposure = Exposure(device_id=kitchen_of(proxy).id, kind="port", port=8080, target_port=80)
    expose(proxy, exposure)
    assert (await tailnet.do("fetch", peer="peer", url=f"http://{address_of(proxy)}:8080/"))["body"] == "kitchen"
    assert (await tailnet.ask("tcp", peer="peer", address=f"{address_of(proxy)}:80"))["error"] == "refused"


async def test_https_up_to_the_certificate(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    """The test tailnet gives no certificates: the device was reached, and TLS fails."""
    expose(proxy, Exposure(device_id=kitchen_of(proxy).id, kind="https", port=443, target_port=80))
    answer = await tailnet.ask("tcp", peer="peer", address=f"{address_of(proxy)}:443", send="\x16\x03\x01")
    assert not answer.get("received")
    assert proxy.runtime.bridge.flows.counters["inbound_accepted"] == 1
    await until(lambda: not len(proxy.runtime.bridge.flows))


async def test_who_may_connect(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    sources = parse_sources([tailnet.peers["peer"][0]])
    expose(proxy, Exposure(device_id=kitchen_of(proxy).id, kind="all", sources=sources))
    url = f"http://{address_of(proxy)}/"
    assert (await tailnet.do("fetch", peer="peer", url=url))["body"] == "kitchen"
    assert (await tailnet.ask("fetch", peer="other", url=url))["error"] == "refused"


async def test_a_node_of_its_own_both_ways_and_its_end(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    driver, device = driver_of(proxy), kitchen_of(proxy)
    name = node_of(device.id)
    expose(proxy, Exposure(device_id=device.id, kind="node", hostname="kitchen"))
    await own_node(driver, name)
    assert driver.nodes[name].dns_name == f"kitchen.{tailnet.domain}"
    fetched = await tailnet.do("fetch", peer="peer", url=f"http://{address_of(proxy, name)}/")
    assert fetched["body"] == "kitchen"
    assert (await tailnet.ask("fetch", peer="peer", url=f"http://{address_of(proxy)}/"))["error"] == "refused"
    # Its own flows leave with its identity.
    stream = await kitchen.device.open_connection(tailnet.peers["peer"][0], 80)
    await stream.write(b"GET /address HTTP/1.0\r\n\r\n")
    assert address_of(proxy, name) in (await stream.read_all()).decode()

    proxy.registry.remove("kitchen")
    proxy.runtime.device_removed(device)
    proxy.runtime.exposures_changed(proxy.registry.exposures())
    await until(lambda: name not in driver.nodes)
    await until(lambda: not (proxy.directory / "tailnet" / name).exists())


async def test_own_nodes_survive_a_restart(tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen) -> None:
    device = kitchen_of(proxy)
    name = node_of(device.id)
    expose(proxy, Exposure(device_id=device.id, kind="node", hostname="kitchen"))
    await own_node(driver_of(proxy), name)
    before = driver_of(proxy).nodes[name].addresses
    await proxy.stop()
    proxy.start()
    await joined(proxy)
    await own_node(driver_of(proxy), name)
    assert driver_of(proxy).nodes[name].addresses == before


async def test_a_sleeping_device_is_refused_in_time(tailnet: TailnetWorld, proxy: Proxy) -> None:
    device = proxy.enrol("kitchen")
    expose(proxy, Exposure(device_id=device.id, kind="all"))
    refused = await tailnet.ask("tcp", peer="peer", address=f"{address_of(proxy)}:7", timeout=4)
    assert refused["error"] == "refused"  # at once: nobody knows where it is
    async with proxy.device("kitchen") as virtual:
        await virtual.handshake()
    # Its endpoint is known, but nobody is there any more; the session is, so the SYN goes unanswered.
    refused = await tailnet.ask("tcp", peer="peer", address=f"{address_of(proxy)}:7", timeout=15)
    assert refused["error"] == "refused"


async def test_a_device_answers_while_it_uses_the_tailnet(
    tailnet: TailnetWorld, proxy: Proxy, kitchen: Kitchen
) -> None:
    expose(proxy, Exposure(device_id=kitchen_of(proxy).id, kind="all"))
    # Two nodes that call each other for the first time at one moment wait 5 s (WireGuard's REKEY_TIMEOUT).
    await tailnet.do("ping", peer="peer", address=address_of(proxy), timeout=10)
    data = b"both" * 100_000
    sent, fetched = await asyncio.gather(
        echo(kitchen.device, tailnet.peers["peer"][0], data),
        tailnet.do("tcp", peer="peer", address=f"{address_of(proxy)}:7", send="x" * 100_000),
    )
    assert sent == data
    assert fetched["received"] == "x" * 100_000
