"""The host driver: into the tailnet where the route leaves by a tailnet interface, and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import IPv4Address, ip_address

import pytest

from lopower.tailnet import host
from lopower.tailnet.driver import (
    DialError,
    DialForbidden,
    DialRefused,
    DialTimedOut,
    DialUnreachable,
    IPAddress,
    TcpDial,
    dial_error,
    in_tailnet_ranges,
)
from lopower.tailnet.host import HostDialer, HostDriver
from lopower.tailnet.routes import HostNetwork, HostSnapshot

LOOPBACK = ip_address("127.0.0.1")
OURS = ip_address("100.101.102.103")


class Network(HostNetwork):
    """A host whose addresses and routes the test says."""

    def __init__(
        self, *, tailnet: frozenset[IPAddress] = frozenset(), suspects: frozenset[IPAddress] = frozenset()
    ) -> None:
        self.snapshot = HostSnapshot(frozenset(), (), tailnet, suspects)
        self.source: IPAddress | None = None

    def source_for(self, destination: IPAddress) -> IPAddress | None:
        return self.source


async def connected(dial: TcpDial) -> None:
    """Wait until a dial has succeeded."""
    async with asyncio.timeout(5):
        while not dial.advance():  # noqa: ASYNC110 (the kernel has no event of ours)
            await asyncio.sleep(0.001)


def test_outside_a_tailnet_tailnet_addresses_are_unreachable() -> None:
    driver = HostDriver(Network())
    assert not driver.routes(OURS)
    for destination in (ip_address("100.64.0.1"), ip_address("fd7a:115c:a1e0::1")):
        with pytest.raises(DialUnreachable, match="no tailnet interface"):
            driver.dial_tcp(destination, 80)
        with pytest.raises(DialUnreachable, match="no tailnet interface"):
            driver.open_udp(destination, 80)


async def test_outside_a_tailnet_tailnet_names_are_not_asked_for() -> None:
    with pytest.raises(DialUnreachable):
        await HostDriver(Network()).query(b"\x12\x34")


def test_outside_a_tailnet_the_status_says_what_to_do() -> None:
    status = HostDriver(Network()).status()
    assert not status["connected"]
    assert "install Tailscale" in status["advice"]


def test_a_providers_cgnat_is_named_in_the_status() -> None:
    status = HostDriver(Network(suspects=frozenset({ip_address("100.70.1.2")}))).status()
    assert not status["connected"]
    assert "100.70.1.2 is its Internet provider's" in status["detail"]


def test_in_a_tailnet_the_route_decides() -> None:
    network = Network(tailnet=frozenset({OURS}))
    driver = HostDriver(network)
    assert driver.status() == {
        "driver": "host",
        "connected": True,
        "detail": "this host is in a tailnet, as 100.101.102.103",
        "advice": None,
    }
    network.source = OURS
    assert driver.routes(ip_address("100.64.0.1"))
    assert driver.routes(ip_address("192.168.55.1")), "a subnet route that the host accepted"
    network.source = ip_address("192.168.7.2")
    assert not driver.routes(ip_address("100.64.0.1")), "the tailnet is there, and the route leaves elsewhere"
    network.source = None
    assert not driver.routes(ip_address("100.64.0.1"))


async def test_tailnet_names_go_to_the_tailnets_resolver_and_to_tcp_when_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:

        async def serve_tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            size = int.from_bytes(await reader.readexactly(2), "big")
            query = await reader.readexactly(size)
            writer.write(b"\x00\x05" + query[:2] + b"all")
            writer.close()

        # TCP chooses the port: connections of other tests may have the one that UDP would choose.
        server = await asyncio.start_server(serve_tcp, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        resolver.bind(("127.0.0.1", port))
        resolver.setblocking(False)
        monkeypatch.setattr(host, "MAGIC_DNS_IPV4", IPv4Address("127.0.0.1"))
        monkeypatch.setattr(host, "_DNS_PORT", port)
        network = Network(tailnet=frozenset({LOOPBACK}))
        network.source = LOOPBACK
        driver = HostDriver(network)
        driver._dialer = HostDialer(never_self=False)

        async def answer(*answers: bytes) -> None:
            loop = asyncio.get_running_loop()
            query, address = await loop.sock_recvfrom(resolver, 512)
            for text in answers:
                await loop.sock_sendto(resolver, text.replace(b"ID", query[:2]), address)

        task = asyncio.create_task(answer(b"\xff\xffxspoofed", b"ID\x80\x00whole"))
        assert await driver.query(b"\x12\x34query") == b"\x12\x34\x80\x00whole"
        await task
        task = asyncio.create_task(answer(b"ID\x82\x00cut"))
        assert await driver.query(b"\x12\x34query") == b"\x12\x34all"
        await task
        monkeypatch.setattr(host, "QUERY_SECONDS", 0.05)
        with pytest.raises(DialTimedOut):
            await driver.query(b"\x12\x34query")
        server.close()
        await server.wait_closed()


async def test_a_dial_succeeds_and_its_socket_is_connected() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dial = HostDialer(never_self=False).dial_tcp(LOOPBACK, listener.getsockname()[1])
        await connected(dial)
        with dial.socket as upstream, listener.accept()[0] as accepted:
            upstream.send(b"hello")
            assert accepted.recv(5) == b"hello"
            assert not upstream.getblocking()
            assert upstream.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_closed_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    dial = HostDialer(never_self=False).dial_tcp(LOOPBACK, port)
    with dial.socket, pytest.raises(DialRefused):
        await connected(dial)


async def test_the_host_itself_is_never_a_destination() -> None:
    """Even if an address became the host's own a moment ago, and policy has not heard of it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        dial = HostDialer().dial_tcp(LOOPBACK, port)
        with dial.socket, pytest.raises(DialForbidden):
            await connected(dial)
        with pytest.raises(DialForbidden):
            HostDialer().open_udp(LOOPBACK, port)


async def test_source_addresses_are_taken_in_turn() -> None:
    dialer = HostDialer(sources=[ip_address("127.0.0.7"), ip_address("127.0.0.8"), ip_address("::1")], never_self=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sources = []
        for _ in range(3):
            dial = dialer.dial_tcp(LOOPBACK, listener.getsockname()[1])
            await connected(dial)
            sources.append(dial.socket.getsockname()[0])
            dial.socket.close()
            listener.accept()[0].close()
        assert sources == ["127.0.0.7", "127.0.0.8", "127.0.0.7"]
    with dialer.open_udp(ip_address("::1"), 9) as upstream:
        assert upstream.getsockname()[0] == "::1"


def test_a_source_address_that_is_not_ours_says_so() -> None:
    with pytest.raises(DialUnreachable, match=r"source address 192\.0\.2\.99 cannot be used"):
        HostDialer(sources=[ip_address("192.0.2.99")]).dial_tcp(LOOPBACK, 80)


def test_udp_hears_only_from_whom_it_asked() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
    ):
        asked.bind(("127.0.0.1", 0))
        stranger.bind(("127.0.0.1", 0))
        with HostDialer(never_self=False).open_udp(LOOPBACK, asked.getsockname()[1]) as upstream:
            stranger.sendto(b"forged", upstream.getsockname())
            asked.sendto(b"answer", upstream.getsockname())
            assert upstream.recv(100) == b"answer"
            with pytest.raises(BlockingIOError):
                upstream.recv(100)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ECONNREFUSED, DialRefused),
        (errno.ETIMEDOUT, DialTimedOut),
        (errno.EHOSTUNREACH, DialUnreachable),
        (errno.ENETUNREACH, DialUnreachable),
        (errno.EACCES, DialForbidden),
        (errno.EMFILE, DialError),
    ],
)
def test_what_the_kernel_says_becomes_what_happened(code: int, kind: type[DialError]) -> None:
    assert type(dial_error(code)) is kind


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("100.63.255.255", False),
        ("100.64.0.0", True),
        ("100.127.255.255", True),
        ("100.128.0.0", False),
        ("fd7a:115c:a1df:ffff::", False),
        ("fd7a:115c:a1e0::", True),
        ("fd7a:115c:a1e0:b1a:0:7:a00:1", True),
        ("fd7a:115c:a1e1::", False),
    ],
)
def test_the_edges_of_the_tailnet_ranges(text: str, inside: bool) -> None:
    assert in_tailnet_ranges(ip_address(text)) is inside
