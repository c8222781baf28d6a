"""The `tsnet` driver against a sidecar that fails on request: dials, datagrams, questions, states, deaths."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from lopower.tailnet import tsnet_dns
from lopower.tailnet.driver import (
    DialError,
    DialForbidden,
    DialRefused,
    DialTimedOut,
    DialUnreachable,
    IPAddress,
    TcpDial,
)
from lopower.tailnet.tsnet_control import NodeConfig, SidecarError
from lopower.tailnet.tsnet_places import find_program, has_identity
from lopower.tailnet.tsnet_streams import FramedUdp
from tests.support.tsnet_world import TsnetWorld, tsnet_world

NODE = ip_address("100.64.0.7")
NODE6 = ip_address("fd7a:115c:a1e0::7")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[TsnetWorld]:
    async with tsnet_world(tmp_path) as made:
        yield made


async def finished(dial: TcpDial) -> socket.socket:
    """The dial's connection."""
    async with asyncio.timeout(5):
        while not dial.advance():
            await ready(dial.socket.fileno(), select.POLLIN)
    return dial.socket


async def ready(fd: int, events: int, milliseconds: int = 5000) -> None:
    poll = select.poll()
    poll.register(fd, events)
    await asyncio.to_thread(poll.poll, milliseconds)


async def received(upstream: FramedUdp) -> bytes:
    slot = memoryview(bytearray(65_536))
    async with asyncio.timeout(5):
        while True:
            upstream.flush()
            try:
                return bytes(slot[: upstream.recv_into(slot)])
            except BlockingIOError:
                await ready(upstream.fileno(), select.POLLIN, 50)


@pytest.mark.parametrize("destination", [NODE, NODE6], ids=["v4", "v6"])
async def test_a_dial_carries_bytes_and_both_ends(world: TsnetWorld, destination: IPAddress) -> None:
    loop = asyncio.get_running_loop()
    with await finished(world.driver.dial_tcp(destination, 7)) as stream:
        await loop.sock_sendall(stream, b"hello")
        stream.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(stream, 100) == b"hello"
        assert await loop.sock_recv(stream, 100) == b""


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, DialError),
        (2, DialForbidden),
        (3, DialUnreachable),
        (4, DialUnreachable),
        (5, DialRefused),
        (6, DialUnreachable),
        (8, DialError),
    ],
)
async def test_a_reply_says_why_not(world: TsnetWorld, code: int, error: type[DialError]) -> None:
    dial = world.driver.dial_tcp(NODE, 1000 + code)
    with pytest.raises(DialError) as caught, dial.socket:
        await finished(dial)
    assert type(caught.value) is error


async def test_a_dial_whose_sidecar_dies_is_unreachable(world: TsnetWorld) -> None:
    dial = world.driver.dial_tcp(NODE, 2000)
    assert not dial.advance()
    await asyncio.sleep(0.05)
    kill(world)
    with pytest.raises(DialUnreachable), dial.socket:
        await finished(dial)


def kill(world: TsnetWorld, number: int = signal.SIGKILL) -> int:
    process = world.driver.supervisor.process
    assert process is not None
    os.kill(process, number)
    return process


@pytest.mark.parametrize("size", [0, 1, 1200, 65_507])
async def test_datagrams_keep_their_bounds(world: TsnetWorld, size: int) -> None:
    with contextlib.closing(world.driver.open_udp(NODE, 7)) as upstream:
        payloads = [bytes([number]) * size for number in range(4)]
        for payload in payloads:
            await sent(upstream, payload)
        assert [await received(upstream) for _ in payloads] == payloads


async def sent(upstream: FramedUdp, payload: bytes) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                assert upstream.send(payload) == len(payload)
                return
            except BlockingIOError:
                await ready(upstream.fileno(), select.POLLOUT)


@pytest.mark.parametrize(
    ("port", "number"),
    [(1001, errno.EIO), (1002, errno.EACCES), (1003, errno.ENETUNREACH)],
)
async def test_a_refused_udp_flow_says_why_and_ends(world: TsnetWorld, port: int, number: int) -> None:
    with contextlib.closing(world.driver.open_udp(NODE, port)) as upstream:
        with pytest.raises(OSError) as caught:  # noqa: PT011 (the number is what counts)
            await received(upstream)
        assert caught.value.errno == number
        with pytest.raises(EOFError):
            await received(upstream)


async def test_an_error_that_came_back_is_raised_once_and_the_flow_goes_on(world: TsnetWorld) -> None:
    with contextlib.closing(world.driver.open_udp(NODE, 2005)) as upstream:
        for _ in range(2):
            upstream.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                await received(upstream)


async def test_the_end_of_the_sidecar_ends_a_udp_flow(world: TsnetWorld) -> None:
    with contextlib.closing(world.driver.open_udp(NODE, 7)) as upstream:
        upstream.send(b"x")
        await received(upstream)
        kill(world)
        with pytest.raises(EOFError):
            await received(upstream)
        with pytest.raises(EOFError):
            upstream.send(b"x")


async def test_a_datagram_that_is_too_long_is_refused(world: TsnetWorld) -> None:
    with contextlib.closing(world.driver.open_udp(NODE, 7)) as upstream:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            upstream.send(bytes(65_508))
        assert caught.value.errno == errno.EMSGSIZE


async def test_a_full_stream_takes_whole_datagrams_or_nothing(world: TsnetWorld) -> None:
    kill(world, signal.SIGSTOP)
    upstream = world.driver.open_udp(NODE, 7)
    count = 0
    with contextlib.closing(upstream):
        with contextlib.suppress(BlockingIOError):
            while upstream.send(bytes([count % 256]) * 40_000):
                count += 1
        kill(world, signal.SIGCONT)
        flushing = asyncio.create_task(sent(upstream, b"last"))
        payloads = [await received(upstream) for _ in range(count + 1)]
        await flushing
    assert payloads[:-1] == [bytes([number % 256]) * 40_000 for number in range(count)]
    assert payloads[-1] == b"last"


QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"


async def test_questions_are_answered_with_their_own_numbers(world: TsnetWorld) -> None:
    questions = [bytes((0, number)) + QUESTION[2:] + b"peer" for number in range(50)] * 1
    answers = await asyncio.gather(*map(world.driver.query, questions))
    assert [answer[:2] for answer in answers] == [question[:2] for question in questions]


async def test_a_name_that_is_not_the_tailnets_is_no_answer(world: TsnetWorld) -> None:
    with pytest.raises(DialError, match="no resolver"):
        await world.driver.query(QUESTION + b"foreign")


async def test_silence_ends_in_time(world: TsnetWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsnet_dns, "QUERY_SECONDS", 0.2)
    with pytest.raises(DialTimedOut):
        await world.driver.query(QUESTION + b"silent")


async def test_a_lost_connection_fails_what_waits_and_is_made_anew(world: TsnetWorld) -> None:
    with pytest.raises(DialUnreachable):
        await world.driver.query(QUESTION + b"hangup")
    assert (await world.driver.query(QUESTION))[:2] == QUESTION[:2]


async def test_pings_are_the_nodes(world: TsnetWorld) -> None:
    assert await world.driver.ping(NODE, 1.0)
    assert not await world.driver.ping(ip_address("100.64.0.6"), 1.0)
    with pytest.raises(DialError, match="no such thing"):
        await world.driver.ping(ip_address("100.64.0.5"), 1.0)


async def test_a_node_that_is_in_says_so(world: TsnetWorld) -> None:
    status = world.driver.status()
    assert status["connected"]
    assert status["detail"] == "in the tailnet example.org as lopower.tail.example, 100.64.0.3, fd7a:115c:a1e0::3"
    assert status["login_url"] is None
    assert world.driver.routes(NODE)
    assert not world.driver.routes(ip_address("192.168.7.1"))
    assert world.driver.accepts(ip_address("192.168.7.1"))
    assert not world.driver.accepts(ip_address("192.168.8.1"))
    assert not world.driver.accepts(ip_address("9.9.9.9"))
    assert (await world.configuration())["auth_key"] == "good"


async def test_an_exit_node_is_told_and_is_no_accepted_route(world: TsnetWorld) -> None:
    await world.set_status(exit_node={"name": "office", "online": True}, routes_accepted=["0.0.0.0/0", "10.1.0.0/16"])
    await world.until(lambda: world.driver.has_exit_node)
    assert world.driver.accepts(ip_address("10.1.0.1"))
    assert not world.driver.accepts(ip_address("9.9.9.9"))


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("starting", "joining"),
        ("needs-approval", "approve"),
        ("expired", "expired"),
        ("stopped", "not in the tailnet"),
        ("failed", "could not be started (disk full)"),
    ],
)
async def test_out_of_the_tailnet_devices_are_told_why(world: TsnetWorld, state: str, said: str) -> None:
    await world.set_status(state=state, error="disk full" if state == "failed" else None)
    await world.until_state(state)
    assert said in world.driver.status()["detail"]
    assert not world.driver.routes(NODE)
    with pytest.raises(DialUnreachable, match=said.replace("(", r"\(").replace(")", r"\)")):
        world.driver.dial_tcp(NODE, 80)
    with pytest.raises(DialUnreachable):
        world.driver.open_udp(NODE, 80)
    with pytest.raises(DialUnreachable):
        await world.driver.query(QUESTION)


NETWORK = "see that this host has a network"


@pytest.mark.parametrize("state", ["starting", "needs-login"])
@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ('fetch control key: Get "https://c/key": dial tcp 192.0.2.1:443: connect: connection refused', NETWORK),
        ("the network is down", NETWORK),
        (
            "fetch control key: tls: x509: certificate has expired or is not yet valid: current time …",
            "set this host's",
        ),
        ("fetch control key: tls: x509: certificate signed by unknown authority", "have this host trust"),
        ("invalid authkey", "lopower login for a URL, or lopower login --auth-key-file FILE with another key"),
        ("weird: regen=true but server says NodeKeyExpired: nodekey:00", "remove the node at the control server"),
    ],
)
async def test_why_it_does_not_get_in_and_what_helps(world: TsnetWorld, state: str, error: str, advice: str) -> None:
    await world.set_status(state=state, error=error)
    await world.until_state(state)
    status = world.driver.status()
    assert f"({error})" in status["detail"]
    assert status["advice"].startswith(advice)


async def test_without_a_key_the_url_is_shown_and_a_key_helps_later(tmp_path: Path) -> None:
    async with tsnet_world(tmp_path, key=None) as world:
        await world.until_state("needs-login")
        status = world.driver.status()
        assert status["login_url"] == "https://login.example/a/1"
        assert "https://login.example/a/1" in status["advice"]
        await world.driver.login()
        await world.until(lambda: world.driver.status()["login_url"] == "https://login.example/a/2")
        await world.driver.login("good")
        await world.until_state("running")


async def test_a_wrong_key_is_told_and_a_right_one_helps(tmp_path: Path) -> None:
    async with tsnet_world(tmp_path, key="bad") as world:
        await world.until_state("needs-login")
        assert "invalid authkey" in world.driver.status()["detail"]
        await world.driver.login("good")
        await world.until_state("running")


async def test_who_logged_out_stays_out_although_there_is_a_key(world: TsnetWorld) -> None:
    await world.driver.logout()
    await world.until_state("needs-login")
    kill(world)
    await world.until(lambda: world.driver.supervisor.restarts == 1 and world.driver.proxy is not None)
    assert world.driver.status()["state"] == "needs-login"
    assert "auth_key" not in await world.configuration()


async def test_a_killed_sidecar_comes_back_with_what_was_asked_for(world: TsnetWorld) -> None:
    await world.driver.configure(accept_routes=False, exit_node="office")
    before = world.changes
    process = kill(world)
    await world.until(lambda: world.driver.proxy is None)
    assert world.changes > before
    with pytest.raises(DialUnreachable, match="sidecar"):
        world.driver.dial_tcp(NODE, 80)
    assert world.driver.accepts(ip_address("192.168.7.1"))  # unreachable for now, but not forbidden
    await world.until_state("running")
    assert world.driver.supervisor.process != process
    configuration = await world.configuration()
    assert (configuration["accept_routes"], configuration["exit_node"]) == (False, "office")
    (await finished(world.driver.dial_tcp(NODE, 7))).close()


async def test_without_a_sidecar_nothing_can_be_asked(tmp_path: Path) -> None:
    async with tsnet_world(tmp_path, key=None, faults="protocol") as world:
        await world.until(lambda: world.driver.supervisor.state == "unusable")
        assert "speaks protocol 7" in world.driver.status()["detail"]
        with pytest.raises(SidecarError, match="this daemon is the older one"):
            await world.driver.login()


async def test_a_key_never_shows(world: TsnetWorld, caplog: pytest.LogCaptureFixture) -> None:
    await world.driver.logout()
    await world.driver.login("tskey-auth-secret")
    with contextlib.suppress(TimeoutError):
        await world.until(lambda: "invalid" in world.driver.status()["detail"])
    assert "tskey-auth-secret" not in caplog.text + str(world.driver.status())


async def test_close_leaves_nothing(tmp_path: Path) -> None:
    async with tsnet_world(tmp_path) as world:
        process, sockets = world.driver.supervisor.process, world.driver.sockets
        assert process is not None
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


async def test_nodes_that_nobody_wants_any_more_are_logged_out_and_nothing_else_is_touched(tmp_path: Path) -> None:
    for name in ("device-7", "certificates"):
        (tmp_path / "tailnet" / name).mkdir(parents=True)
    async with tsnet_world(tmp_path) as world:
        driver = world.driver
        await world.until(lambda: not driver._unwanted)
        driver.set_nodes({"device-8": NodeConfig(hostname="hall"), "device-9": NodeConfig(hostname="kitchen")})
        await world.until(lambda: {"proxy", "device-8", "device-9"} == set(driver.nodes))
        driver.set_nodes({"device-9": NodeConfig(hostname="kitchen")})
        await world.until(lambda: {"proxy", "device-9"} == set(driver.nodes))
        kill(world)
        driver.set_nodes({})
        await world.until(lambda: driver.supervisor.restarts == 1 and set(driver.nodes) == {"proxy"})
        await world.until(lambda: not driver._unwanted)
        (await finished(driver.dial_tcp(NODE, 7, None))).close()
        with pytest.raises(DialUnreachable):
            driver.dial_tcp(NODE, 7, "device-9")


async def test_sockets_of_killed_daemons_are_removed_and_a_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    left = tmp_path / "sockets-left"
    left.mkdir()
    (left / "control").touch()
    async with tsnet_world(tmp_path) as world:
        assert not left.exists()
        assert world.driver.sockets.parent == tmp_path
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    async with tsnet_world(deep) as world:
        assert world.driver.sockets.parent != deep
        (await finished(world.driver.dial_tcp(NODE, 7))).close()
    assert not world.driver.sockets.exists()


def test_an_identity_is_what_was_kept(tmp_path: Path) -> None:
    assert not has_identity(tmp_path)
    (tmp_path / "proxy").mkdir()
    assert not has_identity(tmp_path)
    (tmp_path / "proxy" / "tailscaled.state").touch()
    assert has_identity(tmp_path)


def test_the_program_is_looked_for_beside_ours_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_program([tmp_path]) is None
    (tmp_path / "path").mkdir()
    for directory in (tmp_path / "path", tmp_path):
        (directory / "lopower-sidecar").touch(mode=0o755)
        assert find_program([tmp_path]) == directory / "lopower-sidecar"
