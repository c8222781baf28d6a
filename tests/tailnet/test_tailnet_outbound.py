"""Devices reach a real tailnet through the proxy's own node: by address and name, TCP, UDP, DNS and echo."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from dnslib import DNSRecord

from lopower_hil.virtual_device import VirtualDevice
from tests.support.proxy import GATEWAY_IPV4, Proxy, running_proxy
from tests.support.tailnet_proxy import driver_of, echo, joined, until
from tests.support.tailnet_world import TailnetWorld

# The first of them builds the test tailnet, which takes minutes where nothing of it is cached.
pytestmark = [pytest.mark.xdist_group("tailnet"), pytest.mark.timeout(600)]

BULK = 20_000_000


@pytest.fixture
async def device(proxy: Proxy) -> AsyncIterator[VirtualDevice]:
    proxy.enrol("kitchen")
    async with proxy.device("kitchen") as made:
        yield made


async def resolve(device: VirtualDevice, name: str, qtype: str = "A") -> tuple[int, list[str]]:
    """Response code and data."""
    flow = device.datagrams(GATEWAY_IPV4, 53)
    try:
        flow.send(bytes(DNSRecord.question(name, qtype).pack()))
        answer = DNSRecord.parse(await asyncio.wait_for(flow.receive(), 10))
    finally:
        flow.close()
    return answer.header.rcode, [str(record.rdata) for record in answer.rr]


@pytest.mark.parametrize("version", [0, 1], ids=["IPv4", "IPv6"])
async def test_a_stream_with_half_close(tailnet: TailnetWorld, device: VirtualDevice, version: int) -> None:
    data = random.Random(1).randbytes(100_000)
    assert await echo(device, tailnet.peers["peer"][version], data) == data


async def test_bulk_both_ways_has_equal_hashes(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    address = tailnet.peers["peer"][0]
    data = random.Random(1).randbytes(BULK)
    up = await device.open_connection(address, 9)
    await up.write(data)
    up.write_eof()
    assert (await up.read_all()).decode().strip() == hashlib.sha256(data).hexdigest()
    down = await device.open_connection(address, 19)
    await down.write(f"{BULK}\n".encode())
    assert len(await asyncio.wait_for(down.read_all(), 60)) == BULK


async def test_a_refused_connection_is_refused(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    with pytest.raises(ConnectionRefusedError):
        await device.open_connection(tailnet.peers["peer"][0], 4242)


async def test_an_address_that_is_nobodys_is_prohibited(device: VirtualDevice) -> None:
    with pytest.raises(PermissionError):
        await device.open_connection("100.99.98.97", 80)


async def test_datagrams(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    flow = device.datagrams(tailnet.peers["peer"][0], 7)
    flow.send(b"one", b"two")
    assert {await asyncio.wait_for(flow.receive(), 10) for _ in range(2)} == {b"one", b"two"}


async def test_names_of_the_tailnet(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    four, six = tailnet.peers["peer"]
    name = f"peer.{tailnet.domain}"
    assert await resolve(device, name) == (0, [four])
    assert await resolve(device, name, "AAAA") == (0, [six])
    assert (await resolve(device, "peer"))[1][-1:] == [four]
    assert (await resolve(device, f"nobody.{tailnet.domain}"))[0] == 3
    reverse = ".".join(reversed(four.split("."))) + ".in-addr.arpa"
    assert await resolve(device, reverse, "PTR") == (0, [f"{name}."])


async def test_split_and_override_resolvers_inside_the_tailnet(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    peer = tailnet.peers["peer"][0]
    await tailnet.do("dns", split={"corp.test": [peer]})
    await found(device, "printer.corp.test", "192.0.2.53")
    await tailnet.do("dns", resolvers=[peer])
    await found(device, "anything.example.org", "192.0.2.53")


async def found(device: VirtualDevice, name: str, address: str) -> None:
    """The name resolves to the address before long: the change must get here first."""
    async with asyncio.timeout(20):
        while (await resolve(device, name))[1][-1:] != [address]:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_an_echo_request_is_answered_by_the_node(tailnet: TailnetWorld, device: VirtualDevice) -> None:
    assert await device.ping(tailnet.peers["peer"][0]) > 0
    with pytest.raises(TimeoutError):
        await device.ping("100.99.98.97", timeout=1.0)


async def test_a_killed_sidecar_resets_flows_and_all_resumes(
    tailnet: TailnetWorld, proxy: Proxy, device: VirtualDevice
) -> None:
    address = tailnet.peers["peer"][0]
    node = driver_of(proxy).proxy
    assert node is not None
    stream = await device.open_connection(address, 7)
    await stream.write(b"x")
    assert await stream.read() == b"x"
    process = driver_of(proxy).supervisor.process
    assert process is not None
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(stream.read(), 5)
    await until(lambda: driver_of(proxy).proxy is None)
    assert (await resolve(device, f"other.{tailnet.domain}"))[0] == 2
    await joined(proxy)
    assert await echo(device, address, b"again") == b"again"
    after = driver_of(proxy).proxy
    assert after is not None
    assert after.addresses == node.addresses


async def test_a_restart_keeps_the_identity(tailnet: TailnetWorld, proxy: Proxy) -> None:
    before = driver_of(proxy).proxy
    await proxy.stop()
    proxy.start()
    await joined(proxy)
    after = driver_of(proxy).proxy
    assert before is not None
    assert after is not None
    assert (after.addresses, after.dns_name) == (before.addresses, before.dns_name)


async def test_an_accepted_route_needs_no_rule(tailnet: TailnetWorld, tmp_path: Path) -> None:
    flags = {"tailnet": "tsnet", "control_url": tailnet.control_url, "accept_routes": True}
    async with running_proxy(tmp_path, **flags) as proxy:
        await joined(proxy)
        proxy.enrol("kitchen")
        async with proxy.device("kitchen") as device:
            address = ip_address("198.51.100.7")
            counters = proxy.runtime.bridge.flows.counters
            with pytest.raises(PermissionError):
                await device.open_connection(address, 80)
            assert counters["refused_not_allowed"] == 1
            await tailnet.do("approve", node="peer", routes=["198.51.100.0/24"])
            await until(lambda: driver_of(proxy).accepts(address))
            # The peer, which knows nothing of this route of its own, is reached, and refuses.
            with pytest.raises(PermissionError):
                await device.open_connection(address, 80)
            assert counters["dial_forbidden"] == 1


async def test_login_by_key_and_by_url(tailnet: TailnetWorld, tmp_path: Path) -> None:
    await tailnet.do("require", login="tskey-right")
    key = tmp_path / "key"
    key.write_text("tskey-wrong\n")
    flags = {"tailnet": "tsnet", "control_url": tailnet.control_url, "auth_key_file": str(key)}
    async with running_proxy(tmp_path, **flags) as proxy:
        driver = driver_of(proxy)
        await until(lambda: driver.proxy is not None and bool(driver.proxy.error))
        assert not driver.status()["connected"]
        await driver.login("tskey-right")
        await joined(proxy)
        key.unlink()
        await tailnet.do("require", login="url")
        await driver.logout()
        await until(lambda: driver.status()["state"] == "needs-login")
        await driver.login()
        await until(lambda: driver.status()["login_url"] is not None)
        await tailnet.do("authorize", url=driver.status()["login_url"])
        await joined(proxy)
