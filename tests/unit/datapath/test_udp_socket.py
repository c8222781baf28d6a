"""The outer UDP socket, against plain sockets of the kernel."""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Iterator

import pytest

from lopower.daemon import udp_socket
from lopower.daemon.arrivals import SLOTS
from lopower.daemon.udp_socket import SocketFeatures, UdpSocket
from lopower.wire.datagrams import Endpoint
from tests.support.requirements import missing

EVERYTHING = SocketFeatures()
NOTHING = SocketFeatures(gro=False, gso=False, pktinfo=False)


class Owner:
    def __init__(self) -> None:
        self.wanted: list[bool] = []

    def __call__(self, wanted: bool) -> None:
        self.wanted.append(wanted)


@pytest.fixture(params=[EVERYTHING, NOTHING], ids=["kernel-help", "plain"])
def ours(request: pytest.FixtureRequest) -> Iterator[UdpSocket]:
    opened = UdpSocket("", 0, request.param, Owner())
    yield opened
    opened.close()


def received(ours: UdpSocket) -> list[tuple[bytes, int, Endpoint]]:
    """Wait for datagrams and take all that are there, as (super-datagram, segment size, endpoint)."""
    select.select([ours], [], [], 5)
    batch, _ = ours.receive()
    return [
        (bytes(batch.view[at : at + length]), size, endpoint)
        for at, length, size, endpoint in zip(
            batch.offsets, batch.lengths, batch.segment_sizes, batch.endpoints, strict=True
        )
    ]


def peer(family: socket.AddressFamily, host: str) -> socket.socket:
    other = socket.socket(family, socket.SOCK_DGRAM)
    other.bind((host, 0))
    other.settimeout(5)
    return other


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["IPv4", "IPv6"]
)
def test_both_families_reach_one_socket_and_are_answered(
    ours: UdpSocket, family: socket.AddressFamily, host: str
) -> None:
    with peer(family, host) as other:
        other.sendto(b"question", (host, ours.port))
        [(data, size, endpoint)] = received(ours)
        assert (data, size) == (b"question", 8)
        assert (endpoint.host, endpoint.port) == (host, other.getsockname()[1])
        ours.transmit(memoryview(b"answer"), 6, endpoint)
        assert other.recvfrom(100)[0] == b"answer"


def test_the_answer_leaves_from_the_address_that_was_asked() -> None:
    ours = UdpSocket("", 0, EVERYTHING, Owner())
    try:
        if not ours.features.pktinfo:
            missing("this kernel has no PKTINFO")
        with peer(socket.AF_INET, "127.0.0.1") as other:
            other.sendto(b"question", ("127.9.9.9", ours.port))
            [(_, _, endpoint)] = received(ours)
            assert endpoint.local == bytes((127, 9, 9, 9))
            ours.transmit(memoryview(b"answer"), 6, endpoint)
            assert other.recvfrom(100)[1] == ("127.9.9.9", ours.port)
    finally:
        ours.close()


def test_an_address_that_is_ours_no_longer_does_not_silence_the_peer() -> None:
    ours = UdpSocket("", 0, EVERYTHING, Owner())
    try:
        with peer(socket.AF_INET, "127.0.0.1") as other:
            gone = Endpoint("127.0.0.1", other.getsockname()[1], 0, bytes((203, 0, 113, 77)))
            ours.transmit(memoryview(b"answer"), 6, gone)
            assert other.recvfrom(100)[0] == b"answer"
    finally:
        ours.close()


@pytest.mark.parametrize("segments", [1, 2, 45, 64, 65, 300])
def test_datagrams_are_cut_at_the_segment_size_and_keep_their_order(ours: UdpSocket, segments: int) -> None:
    size = 200
    expected = [index.to_bytes(2, "big") * (size // 2) for index in range(segments)]
    expected[-1] = expected[-1][:-6]
    with peer(socket.AF_INET6, "::1") as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        ours.transmit(memoryview(b"".join(expected)), size, Endpoint("::1", other.getsockname()[1]))
        assert [other.recvfrom(2000)[0] for _ in expected] == expected


def test_what_two_of_our_sockets_exchange_arrives_whole(ours: UdpSocket) -> None:
    sender = UdpSocket("::1", 0, ours.features, Owner())
    try:
        size, count = 1452, 45
        data = b"".join(index.to_bytes(2, "big") * (size // 2) for index in range(count))
        sender.transmit(memoryview(data), size, Endpoint("::1", ours.port))
        got: list[bytes] = []
        while sum(map(len, got)) < len(data):
            more = received(ours)
            assert more
            assert all(segment == size for _, segment, _ in more)
            got += [chunk for chunk, _, _ in more]
        assert b"".join(got) == data
        if ours.features.gro and ours.features.gso:
            assert len(got) < count
    finally:
        sender.close()


def test_a_full_kernel_buffer_delays_and_never_reorders(monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Owner()
    ours = UdpSocket("::1", 0, NOTHING, owner)

    class Full:
        """The kernel's socket with its send buffer full for a while."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real
            self.full = False

        def sendmsg(self, *arguments: object) -> int:
            if self.full:
                raise BlockingIOError
            return self.real.sendmsg(*arguments)  # type: ignore[arg-type]

        def close(self) -> None:
            self.real.close()

    full = Full(ours._socket)
    monkeypatch.setattr(ours, "_socket", full)
    with peer(socket.AF_INET6, "::1") as other:
        there = Endpoint("::1", other.getsockname()[1])
        full.full = True
        for index in range(10):
            ours.transmit(memoryview(b"%d" % index * 3), 1, there)
        assert owner.wanted == [True]
        assert ours.waiting_bytes == 30
        full.full = False
        ours.transmit(memoryview(b"a"), 1, there)
        ours.flush()
        assert owner.wanted == [True, False]
        assert ours.waiting_bytes == 0
        assert b"".join(other.recvfrom(10)[0] for _ in range(31)) == b"000111222333444555666777888999a"
        full.full = True
        for _ in range(2 * udp_socket.MAX_WAITING_BYTES // 1000):
            ours.transmit(memoryview(bytes(1000)), 1000, there)
        assert ours.waiting_bytes <= udp_socket.MAX_WAITING_BYTES
        assert ours.counters["send_buffer_full"] > 0
    ours.close()


def test_a_port_in_use_is_an_error_that_says_so(ours: UdpSocket) -> None:
    with pytest.raises(OSError, match="in use") as raised:
        UdpSocket("", ours.port, EVERYTHING, Owner())
    assert raised.value.errno == errno.EADDRINUSE


def test_empty_and_largest_datagrams_are_no_trouble(ours: UdpSocket) -> None:
    with peer(socket.AF_INET, "127.0.0.1") as other:
        other.sendto(b"", ("127.0.0.1", ours.port))
        other.sendto(bytes(65_507), ("127.0.0.1", ours.port))
        [(data, size, _)] = received(ours)
        assert len(data) == size == 65_507
        assert ours.counters["empty"] == 1


def test_a_batch_is_bounded_and_the_rest_comes_next(ours: UdpSocket) -> None:
    senders = [peer(socket.AF_INET, "127.0.0.1") for _ in range(SLOTS + 5)]
    try:
        for sender in senders:
            sender.sendto(b"x", ("127.0.0.1", ours.port))
        batch, more = ours.receive()
        assert (len(batch.lengths), more) == (SLOTS, True)
        batch, more = ours.receive()
        assert (len(batch.lengths), more) == (5, False)
    finally:
        for sender in senders:
            sender.close()
