"""The gateway's services, as a device uses them: DNS over UDP and TCP, time, the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest

from lopower.bridge.config import BridgeConfig
from lopower.bridge.sntp import ClockState
from lopower.devices.device import ServedPort
from lopower.netstack.errors import FlowReset
from lopower.wire.sntp import NtpHeader
from tests.support.bridge_devices import make_device
from tests.support.bridge_driver import LOOPBACK
from tests.support.bridge_world import DnsDouble, Stream, TestDevice, World, running

GATEWAYS = ("10.90.0.1", "fd7a:115c:a1e0:9909::1")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    device = make_device(2, name="kitchen", rules=("192.168.7.9:80",))
    async with running(device, rules=("deny internet",)) as made:
        yield made


def device_of(world: World) -> TestDevice:
    return world.devices[0]


def dns_of(world: World) -> DnsDouble:
    assert isinstance(world.dns, DnsDouble)
    return world.dns


async def nothing_left(world: World) -> None:
    state = device_of(world).state
    await world.until(lambda: not len(world.bridge.flows) and not state.queries)
    assert (state.tcp_flows, state.udp_flows) == (0, 0)


# DNS.


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_dns_that_is_known_at_once(world: World, gateway: str) -> None:
    dns_of(world).now[b"query"] = b"answer"
    flow = device_of(world).open_udp(gateway, 53)
    flow.send(b"query")
    assert await flow.receive() == b"answer"
    assert dns_of(world).asked == [(b"query", "udp", "kitchen")]
    world.elapse(31)
    await nothing_left(world)


async def test_dns_that_takes_its_time_delays_nobody(world: World) -> None:
    dns = dns_of(world)
    dns.later[b"slow"] = b"late"
    dns.now[b"fast"] = b"now"
    flow = device_of(world).open_udp(GATEWAYS[0], 53)
    flow.send(b"slow", b"fast")
    assert await flow.receive() == b"now"
    assert device_of(world).state.queries == 1
    dns.go.set()
    assert await flow.receive() == b"late"
    assert device_of(world).state.queries == 0


async def test_an_answer_after_the_flow_has_ended_goes_nowhere(world: World) -> None:
    dns = dns_of(world)
    dns.later[b"slow"] = b"late"
    flow = device_of(world).open_udp(GATEWAYS[0], 53)
    flow.send(b"slow")
    await world.until(lambda: device_of(world).state.queries == 1)
    world.elapse(31)
    await world.until(lambda: not len(world.bridge.flows))
    dns.go.set()
    await nothing_left(world)
    assert flow.queue.empty()


async def test_questions_being_resolved_are_limited_per_device() -> None:
    async with running(make_device(2), make_device(3), config=BridgeConfig(max_queries_per_device=3)) as world:
        dns_of(world).later.update({b"%d" % number: b"a%d" % number for number in range(10)})
        greedy, modest = (device.open_udp(GATEWAYS[0], 53) for device in world.devices)
        greedy.send(*(b"%d" % number for number in range(6)))
        modest.send(b"9")
        await world.until(lambda: world.devices[1].state.queries == 1)
        assert world.devices[0].state.queries == 3
        assert world.devices[0].state.counters["dns_limit"] == 3
        dns_of(world).go.set()
        assert await modest.receive() == b"a9"
        assert [await greedy.receive() for _ in range(3)] == [b"a0", b"a1", b"a2"]


async def test_questions_in_flight_end_with_the_bridge() -> None:
    async with running(make_device(2)) as world:
        flow = device_of(world).open_udp(GATEWAYS[0], 53)
        flow.send(b"slow")
        await world.until(lambda: device_of(world).state.queries == 1)
        tasks = len(asyncio.all_tasks())
    assert len(asyncio.all_tasks()) < tasks


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


async def read_framed(stream: Stream) -> list[bytes]:
    data, messages = await stream.read_all(), []
    while data:
        end = 2 + int.from_bytes(data[:2], "big")
        messages.append(data[2:end])
        data = data[end:]
    return messages


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_dns_over_tcp_in_pieces_and_pipelined(world: World, gateway: str) -> None:
    dns = dns_of(world)
    dns.now.update({b"one": b"1", b"two": b"2" * 60_000})
    dns.later[b"slow"] = b"3"
    dns.go.set()
    stream = await device_of(world).connect(gateway, 53)
    data = framed(b"one", b"slow", b"two")
    for start in range(0, len(data), 3):
        await stream.write(data[start : start + 3])
        await asyncio.sleep(0.002)
    stream.finish()
    assert sorted(await read_framed(stream)) == [b"1", b"2" * 60_000, b"3"]
    assert {transport for _, transport, _ in dns.asked} == {"tcp"}
    await nothing_left(world)


async def test_dns_over_tcp_from_a_client_that_does_not_read_is_held_back(world: World) -> None:
    dns = dns_of(world)
    dns.now[b"q"] = b"a" * 60_000
    stream = await device_of(world).connect(GATEWAYS[0], 53)
    queries = framed(*[b"q"] * 400)
    await stream.write(queries)
    stream.finish()
    await asyncio.sleep(0.2)
    assert len(dns.asked) < 200, "questions wait while answers are not taken"
    assert len(await read_framed(stream)) == 400
    await nothing_left(world)


async def test_a_silent_dns_connection_ends(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 53)
    await stream.write(b"\x01")
    await asyncio.sleep(0.02)
    world.elapse(31)
    with pytest.raises(FlowReset):
        await stream.read()
    await nothing_left(world)


async def test_a_fault_in_the_dns_server_ends_one_question(world: World) -> None:
    class Broken(DnsDouble):
        async def resolve(self, query: bytes, transport: str, client: object) -> bytes:
            raise ZeroDivisionError

    world.bridge._dns._resolver = Broken()
    stream = await device_of(world).connect(GATEWAYS[0], 53)
    await stream.write(framed(b"q"))
    stream.finish()
    assert await stream.read_all() == b""
    assert device_of(world).state.counters["faults"] == 1
    await nothing_left(world)


# Time.


@pytest.mark.parametrize("gateway", GATEWAYS)
async def test_time(gateway: str) -> None:
    async with running(make_device(2), clock_state=ClockState(True)) as world:
        flow = device_of(world).open_udp(gateway, 123)
        flow.send(NtpHeader(leap=0, version=4, mode=3, transmit_timestamp=42).to_bytes(), b"nonsense")
        answer = NtpHeader.parse(await flow.receive())
        assert (answer.mode, answer.stratum, answer.origin_timestamp) == (4, 4, 42)
        assert flow.queue.empty()


# The page.


async def get(
    world: World,
    path: str = "/",
    *,
    host: str = "gateway",
    accept: str = "",
    method: str = "GET",
    gateway: str = GATEWAYS[0],
) -> tuple[int, dict[str, str], str]:
    stream = await device_of(world).connect(gateway, 80)
    fields = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
    if accept:
        fields += f"Accept: {accept}\r\n"
    await stream.write(fields.encode() + b"\r\n")
    head, _, body = (await stream.read_all()).decode().partition("\r\n\r\n")
    stream.finish()
    status, *lines = head.split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


async def test_the_page_for_a_browser(world: World) -> None:
    status, headers, body = await get(world, accept=BROWSER)
    assert status == 200
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    for text in ("<h1>kitchen</h1>", "10.90.0.2", "192.168.7.9:80", "never internet", "width=device-width"):
        assert text in body
    assert len(body) < 4096

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "img", "link", "iframe")
            assert not {"src", "href"} & {name for name, _ in attrs}

    Links().feed(body)


@pytest.mark.parametrize("gateway", GATEWAYS)
@pytest.mark.parametrize("accept", ["", "*/*", "text/plain"])
async def test_the_page_for_a_tool(world: World, gateway: str, accept: str) -> None:
    host = f"[{gateway}]" if ":" in gateway else gateway
    status, headers, body = await get(world, host=host, accept=accept, gateway=gateway)
    assert status == 200
    assert headers["content-type"].startswith("text/plain")
    assert body.startswith("kitchen, connected through lopower\n")
    assert "not synchronised" in body


async def test_the_page_for_a_program(world: World) -> None:
    world.bridge.set_served([ServedPort(protocol="tcp", port=1883, target=(LOOPBACK[4], 1883))], world.now())
    _, headers, body = await get(world, accept="application/json")
    facts = json.loads(body)
    assert headers["content-type"].startswith("application/json")
    assert facts["device"] == "kitchen"
    assert facts["addresses"] == ["10.90.0.2", "fd7a:115c:a1e0:9909::2"]
    assert facts["gateway"] == list(GATEWAYS)
    assert facts["services"] == ["1883/tcp"]
    assert facts["time"].endswith("Z")
    assert facts["time_synchronized"] is False


async def test_names_that_are_not_the_gateways_are_not_answered(world: World) -> None:
    """A web page on a phone must not read this one under a name of its own (DNS rebinding)."""
    for host in ("evil.example", "gateway.evil.example", "10.90.0.2", "", "[::1]"):
        assert (await get(world, host=host))[0] == 421


@pytest.mark.parametrize(("path", "method", "status"), [("/x", "GET", 404), ("/", "POST", 405), ("/", "DELETE", 405)])
async def test_there_is_nothing_else(world: World, path: str, method: str, status: int) -> None:
    assert (await get(world, path, method=method))[0] == status


async def test_closing_waits_for_no_request(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 80)
    await asyncio.wait_for(world.bridge.close(0), 10)
    world.wake()
    assert await stream.read() == b""


async def test_the_page_stays_open_for_further_requests(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 80)
    for _ in range(3):
        await stream.write(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
        data = b""
        while b"nothing else" not in data:
            data += await stream.read()
    stream.finish()
    assert await stream.read_all() == b""
    await nothing_left(world)


async def test_a_silent_browser_is_hung_up_on(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 80)
    await stream.write(b"GET /")
    await asyncio.sleep(0.02)
    world.elapse(31)
    with pytest.raises(FlowReset):
        await stream.read()
    await nothing_left(world)


async def test_endless_headers_are_refused(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 80)
    await stream.write(b"GET / HTTP/1.1\r\nHost: gateway\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    try:
        data = await stream.read_all()
    except FlowReset:
        pass  # the page closed with our data unread
    else:
        assert data.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
        stream.finish()
    await nothing_left(world)


async def test_nonsense_ends_in_order(world: World) -> None:
    stream = await device_of(world).connect(GATEWAYS[0], 80)
    await stream.write(b"\x16\x03\x01" + bytes(100))
    assert b"400" in await stream.read_all()
    stream.finish()
    await nothing_left(world)
