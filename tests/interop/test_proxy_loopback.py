"""The whole proxy against virtual devices, with all of the kernel's help and with none of it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import random
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from dnslib import DNSRecord

from lopower.netstack.errors import FlowError
from lopower_hil.virtual_device import VirtualDevice, VirtualStream
from tests.support.proxy import GATEWAY_IPV4, GATEWAY_IPV6, Proxy, running_proxy, tcp_server

WITHOUT = ["gro", "gso", "pktinfo", "epoll"]
BULK = 10_000_000


@pytest.fixture(params=[[], WITHOUT], ids=["kernel-help", "plain"])
async def proxy(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Proxy]:
    async with running_proxy(tmp_path, without=request.param) as running:
        yield running


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends everything back, and closes when the other side does."""
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nothing announces."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def exchange(stream: VirtualStream, data: bytes) -> bytes:
    """Send all and take the echo at the same time."""
    sending = asyncio.create_task(stream.write(data))
    received = await stream.read_exactly(len(data))
    await sending
    return received


@pytest.mark.parametrize("gateway", [GATEWAY_IPV4, GATEWAY_IPV6], ids=["IPv4", "IPv6"])
async def test_bulk_both_ways_at_once_arrives_unchanged(proxy: Proxy, gateway: str) -> None:
    proxy.enrol("kitchen")
    data = random.Random(1).randbytes(BULK)
    async with tcp_server(echo) as port, proxy.device("kitchen") as device:
        proxy.serve(8000, port)
        stream = await device.open_connection(gateway, 8000)
        assert hashlib.sha256(await exchange(stream, data)).digest() == hashlib.sha256(data).digest()
        stream.write_eof()
        assert await stream.read() == b""


async def test_half_close_reaches_the_other_side_and_the_answer_comes_back(proxy: Proxy) -> None:
    proxy.enrol("kitchen")

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % len(await reader.read()))
        writer.close()

    async with tcp_server(count) as port, proxy.device("kitchen") as device:
        proxy.serve(8000, port)
        stream = await device.open_connection(GATEWAY_IPV4, 8000)
        await stream.write(bytes(300_000))
        stream.write_eof()
        assert await stream.read_all() == b"300000"


async def test_refused_and_forbidden_are_told_apart(proxy: Proxy) -> None:
    device = proxy.enrol("kitchen")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        proxy.serve(8000, closed.getsockname()[1])
        async with proxy.device("kitchen") as virtual:
            with pytest.raises(ConnectionRefusedError):
                await virtual.open_connection(GATEWAY_IPV4, 8000)
            with pytest.raises(ConnectionRefusedError):
                await virtual.open_connection(GATEWAY_IPV6, 81)
            with pytest.raises(OSError, match="prohibited"):
                await virtual.open_connection("192.0.2.1", 80)
            flow = virtual.datagrams("127.0.0.1", 9)
            flow.send(b"x")
            with pytest.raises(PermissionError):
                async with asyncio.timeout(5):
                    await flow.receive()
    counters = proxy.runtime.device_statistics(device).counters
    assert counters["refused_not_allowed"] == 1
    assert counters["refused_loopback"] == 1


async def test_dns_answers_the_gateways_and_the_devices_names(proxy: Proxy) -> None:
    kitchen = proxy.enrol("kitchen")
    async with proxy.device("kitchen") as device:
        flow = device.datagrams(GATEWAY_IPV4, 53)
        for name, expected in (("gateway", GATEWAY_IPV4), ("kitchen", str(kitchen.ipv4))):
            flow.send(bytes(DNSRecord.question(name).pack()))
            async with asyncio.timeout(5):
                reply = DNSRecord.parse(await flow.receive())
            assert [str(record.rdata) for record in reply.rr] == [expected]


async def test_devices_reach_each_other_by_rule_and_see_each_others_addresses(proxy: Proxy) -> None:
    garden = proxy.enrol("garden")
    proxy.enrol("kitchen", "device:garden")
    accepted: asyncio.Queue[VirtualStream] = asyncio.Queue()
    async with proxy.device("kitchen") as one, proxy.device("garden") as other:
        assert garden.ipv4 is not None
        # It has never connected, so nobody knows where it is: ICMP at the first SYN, a RST at the second.
        with pytest.raises(OSError, match=r"no route|refused"):
            await one.open_connection(garden.ipv4, 80)
        assert proxy.runtime.bridge.flows.counters["refused_device_never_seen"] >= 1
        await other.handshake()
        other.listen(80, accepted.put_nowait)
        stream = await one.open_connection(garden.ipv4, 80)
        theirs = await accepted.get()
        assert theirs.connection.remote[0] == one.configuration.addresses[0].packed
        await stream.write(b"hello")
        assert await theirs.read_exactly(5) == b"hello"
        assert await one.ping(garden.ipv4) < 5
        other.listen(81, accepted.put_nowait)
        with pytest.raises(OSError, match="prohibited"):
            await other.open_connection(one.configuration.addresses[0].ip, 81)


async def test_a_restart_calls_the_devices_and_nobody_waits_for_a_rekey(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    proxy.start()
    try:
        proxy.enrol("kitchen")
        async with proxy.device("kitchen") as device:
            await device.handshake()
            await device.ping(GATEWAY_IPV4)
            await proxy.stop()
            proxy.start()
            async with asyncio.timeout(3):
                await until(lambda: proxy.runtime.device_statistics(proxy.registry.get("kitchen")).latest_handshake)
            await device.ping(GATEWAY_IPV4, timeout=1)
    finally:
        await proxy.stop()


async def test_a_replayed_initiation_is_refused_after_our_restart_too(tmp_path: Path) -> None:
    proxy = Proxy(tmp_path)
    proxy.start()
    try:
        proxy.enrol("kitchen")
        recorded: list[bytes] = []
        async with proxy.device("kitchen") as device:
            transmit = device._interface._negotiator._transmit

            def record(datagrams: memoryview[int], size: int, endpoint: object) -> None:
                recorded.append(bytes(datagrams))
                transmit(datagrams, size, endpoint)  # type: ignore[arg-type]

            device._interface._negotiator._transmit = record
            await device.handshake()
        assert len(recorded[0]) == 148
        await proxy.stop()
        proxy.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.sendto(recorded[0], ("127.0.0.1", proxy.port))
            attacker.setblocking(False)
            kitchen = proxy.registry.get("kitchen")
            async with asyncio.timeout(5):
                await until(lambda: proxy.runtime.device_statistics(kitchen).counters.get("timestamp_not_newer"))
            with pytest.raises(BlockingIOError):
                attacker.recv(200)
    finally:
        await proxy.stop()


async def test_a_full_disk_delays_nobody_and_is_said(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy.enrol("kitchen")

    def full(_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(proxy.runtime._stamps, "_write", full)
    async with proxy.device("kitchen") as device:
        await device.handshake(timeout=2)
        assert any("no space left" in failure for failure in proxy.runtime.status()["failures"])


async def test_garbage_on_the_port_disturbs_nobody(proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    dice = random.Random(2)
    async with tcp_server(echo) as port, proxy.device("kitchen") as device:
        proxy.serve(8000, port)
        stream = await device.open_connection(GATEWAY_IPV4, 8000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            for round_number in range(300):
                size = dice.choice([0, 1, 31, 32, 64, 92, 148, 149, 1452, 65_507])
                kind = dice.choice([0, 1, 2, 3, 4, 5, 0x01000001])
                datagram = kind.to_bytes(4, "little") + dice.randbytes(max(0, size - 4))
                attacker.sendto(datagram[:size], ("127.0.0.1", proxy.port))
                if round_number % 20 == 0:
                    data = dice.randbytes(3000)
                    assert await exchange(stream, data) == data
        stream.abort()
    assert proxy.runtime.path.counters["faults"] == 0
    assert proxy.runtime.interface.counters["malformed"] > 0


async def test_a_device_that_uses_anothers_address_is_dropped_and_counted(proxy: Proxy) -> None:
    kitchen = proxy.enrol("kitchen")
    garden = proxy.enrol("garden")
    configuration = proxy.configuration("kitchen")
    theft = VirtualDevice(type(configuration)(**{
        **{name: getattr(configuration, name) for name in configuration.__slots__},
        "addresses": proxy.configuration("garden").addresses,
    }))  # fmt: skip
    async with theft:
        await theft.handshake()
        with pytest.raises(TimeoutError):
            await theft.ping(GATEWAY_IPV4, timeout=0.3)
    assert proxy.runtime.device_statistics(kitchen).counters["source_not_allowed"] >= 1
    assert proxy.runtime.device_statistics(garden).rx_packets == 0


async def test_disabling_and_removing_are_live(proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    async with proxy.device("kitchen") as device:
        await device.ping(GATEWAY_IPV4)
        previous = proxy.registry.get("kitchen")
        proxy.runtime.device_changed(proxy.registry.set_enabled("kitchen", False), previous)
        with pytest.raises(TimeoutError):
            await device.ping(GATEWAY_IPV4, timeout=0.3)
        previous = proxy.registry.get("kitchen")
        proxy.runtime.device_changed(proxy.registry.set_enabled("kitchen", True), previous)
        device._interface.connect(device._peer, device._clock())
    async with proxy.device("kitchen") as device:
        await device.ping(GATEWAY_IPV4)
        proxy.runtime.device_removed(proxy.registry.remove("kitchen"))
        with pytest.raises(TimeoutError):
            await device.ping(GATEWAY_IPV4, timeout=0.3)


async def test_a_thousand_flows_leave_nothing(proxy: Proxy) -> None:
    proxy.enrol("kitchen")
    gc.collect()
    descriptors = len(os.listdir("/proc/self/fd"))
    async with tcp_server(echo) as port, proxy.device("kitchen") as device:
        proxy.serve(8000, port)

        async def once() -> None:
            stream = await device.open_connection(GATEWAY_IPV4, 8000)
            await stream.write(b"hello")
            assert await stream.read_exactly(5) == b"hello"
            stream.write_eof()
            assert await stream.read() == b""
            await stream.close()

        for _ in range(20):
            await asyncio.gather(*(once() for _ in range(50)))
        async with asyncio.timeout(10):
            await until(lambda: not len(proxy.runtime.bridge.flows))
    tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert len(tasks) <= 2, tasks  # what the runtime itself keeps
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1
    assert not proxy.runtime.path.counters["faults"]


def test_flow_errors_are_told_as_a_socket_would() -> None:
    from lopower_hil.virtual_device.flows import os_error

    for error in FlowError.__subclasses__():
        assert isinstance(os_error(error), OSError)
