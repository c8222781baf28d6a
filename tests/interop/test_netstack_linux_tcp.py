"""Our TCP against Linux's: a TUN device in a namespace, sockets of the kernel on one side, the stack on the other."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
import time
from typing import Any

import pytest

from lopower.netstack.errors import FlowRefused, FlowReset
from lopower.netstack.tcp.states import TcpState
from tests.support.link_emulator import LinkConditions
from tests.support.netns import wait_until
from tests.support.tun import DISCARD, ECHO, LINUX, RESET, SOURCE, STACK, Echo, StackHost, stack_on_tun, stream

pytestmark = [
    pytest.mark.netns,
    pytest.mark.xdist_group("netns-tun"),
    pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"]),
]
BULK = 4_000_000
LOSSY_BULK = 600_000
SECONDS = 60

GOOD = LinkConditions()
LOSSY = LinkConditions(loss=0.02, delay=0.005)
UGLY = LinkConditions(loss=0.01, delay=0.005, jitter=0.002, duplication=0.02, reordering=0.02)
THIN = LinkConditions(rate=2_000_000, queue=40_000, delay=0.01)


def dial(host: StackHost, version: int, port: int, **options: int) -> socket.socket:
    """A connection of the kernel's to a service of the stack's; socket options by name."""

    def connect() -> socket.socket:
        opened = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        try:
            for name, value in options.items():
                opened.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
            opened.settimeout(SECONDS)
            opened.connect((STACK[version], port))
        except BaseException:
            opened.close()
            raise
        return opened

    return host.space.call(connect)


def read_all(opened: socket.socket) -> bytes:
    """Until the other side has said all."""
    parts = []
    while part := opened.recv(1 << 18):
        parts.append(part)
    return b"".join(parts)


def upload(opened: socket.socket, size: int) -> None:
    """To `DISCARD`, which has the last word after we have closed our half."""
    data = random.Random(size).randbytes(size)
    opened.sendall(data)
    opened.shutdown(socket.SHUT_WR)
    assert read_all(opened) == hashlib.sha256(data).digest()


def download(opened: socket.socket, size: int) -> None:
    """From `SOURCE`."""
    opened.sendall(struct.pack("!Q", size))
    received = read_all(opened)
    assert len(received) == size
    assert hashlib.sha256(received).digest() == hashlib.sha256(stream(size)).digest()


@pytest.mark.parametrize("timestamps", [0, 1], ids=["no-timestamps", "timestamps"])
def test_bulk_each_way(version: int, timestamps: int) -> None:
    with stack_on_tun() as host:
        host.space.sysctl(tcp_timestamps=timestamps)
        with dial(host, version, DISCARD) as opened:
            upload(opened, BULK)
        with dial(host, version, SOURCE) as opened:
            download(opened, BULK)
        for connection in host.connections:
            assert connection.sender.timestamps == bool(timestamps)
            assert connection.sender.sack
            assert connection.error is None


@pytest.mark.parametrize("conditions", [LOSSY, UGLY, THIN], ids=["lossy", "ugly", "thin"])
def test_bulk_each_way_over_bad_links(version: int, conditions: LinkConditions) -> None:
    with stack_on_tun(up=conditions, down=conditions, seed=3) as host:
        with dial(host, version, DISCARD) as opened:
            upload(opened, LOSSY_BULK)
        with dial(host, version, SOURCE) as opened:
            download(opened, LOSSY_BULK)
        assert host.up.counters["lost"] + host.up.counters["overflowed"] > 0 or conditions.loss == 0


@pytest.mark.parametrize("conditions", [GOOD, LinkConditions(loss=0.01, delay=0.002)], ids=["good", "lossy"])
def test_a_peer_with_a_two_segment_window_and_no_options(version: int, conditions: LinkConditions) -> None:
    """As lwIP on a microcontroller: 5,744 bytes, no SACK, no time stamps, no scaling."""
    with stack_on_tun(up=conditions, down=conditions, seed=5) as host:
        host.space.sysctl(tcp_sack=0, tcp_timestamps=0, tcp_window_scaling=0, tcp_rmem="2880 5744 5744")
        network = "10.9.0.0/24" if version == 4 else "fd00:9::/64"
        host.space.ip("route", "replace", network, "dev", "tun0", "window", "5744", "advmss", "1360")
        with dial(host, version, DISCARD, SO_RCVBUF=5744) as opened:
            upload(opened, 200_000)
        with dial(host, version, SOURCE, SO_RCVBUF=5744) as opened:
            download(opened, 200_000)
        for connection in host.connections:
            assert not connection.sender.timestamps
            assert not connection.sender.sack


def test_both_ways_at_once(version: int) -> None:
    data = random.Random(9).randbytes(2_000_000)
    link = LinkConditions(delay=0.002)
    with stack_on_tun(up=link, down=link) as host, dial(host, version, ECHO) as opened:

        def write() -> None:
            opened.sendall(data)
            opened.shutdown(socket.SHUT_WR)

        writer = threading.Thread(target=write)
        writer.start()
        assert read_all(opened) == data
        writer.join()


def test_a_reader_that_pauses_closes_the_window_and_opens_it_again(version: int) -> None:
    with stack_on_tun() as host, dial(host, version, SOURCE, SO_RCVBUF=20_000) as opened:
        opened.sendall(struct.pack("!Q", 1_000_000))
        time.sleep(1.5)  # several zero window probes
        assert read_all(opened) == stream(1_000_000)


def test_half_close_lets_the_other_half_speak(version: int) -> None:
    with stack_on_tun() as host, dial(host, version, SOURCE) as opened:
        opened.sendall(struct.pack("!Q", 500_000))
        opened.shutdown(socket.SHUT_WR)
        assert read_all(opened) == stream(500_000)
        (connection,) = host.connections
        wait_until(lambda: connection.is_closed, 5, "the stack's side is closed")
        assert connection.error is None


def test_a_reset_of_ours_reaches_the_socket(version: int) -> None:
    with stack_on_tun() as host, dial(host, version, RESET) as opened:
        opened.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            opened.recv(1)


def test_a_reset_of_the_sockets_ends_the_flow(version: int) -> None:
    with stack_on_tun() as host:
        opened = dial(host, version, ECHO)
        opened.sendall(b"x")
        assert opened.recv(1) == b"x"
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        opened.close()
        (connection,) = host.connections
        wait_until(lambda: connection.is_closed, 5, "the flow has ended")
        assert connection.error is FlowReset


def test_a_closed_port_refuses_at_once(version: int) -> None:
    with stack_on_tun() as host:
        began = time.monotonic()
        with pytest.raises(ConnectionRefusedError):
            dial(host, version, 4242)
        assert time.monotonic() - began < 1


@pytest.mark.parametrize("conditions", [GOOD, UGLY], ids=["good", "ugly"])
def test_the_stack_dials_linux(version: int, conditions: LinkConditions) -> None:
    with stack_on_tun(up=conditions, down=conditions, seed=11) as host:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with host.space.call(lambda: socket.create_server((LINUX[version], 8000), family=family)) as listener:
            listener.settimeout(SECONDS)
            connection = host.connect(version, 8000, Echo())
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(SECONDS)
                accepted.sendall(b"over the wire")
                accepted.shutdown(socket.SHUT_WR)
                assert read_all(accepted) == b"over the wire"
            wait_until(lambda: connection.is_closed or connection.state is TcpState.TIME_WAIT, SECONDS, "closed")
            assert connection.error is None


def test_linux_refuses_the_stack(version: int) -> None:
    with stack_on_tun() as host:
        connection = host.connect(version, 8001, Echo())
        wait_until(lambda: connection.is_closed, 5, "the flow has ended")
        assert connection.error is FlowRefused


def test_the_path_mtu_is_found(version: int) -> None:
    """Packets too big for a hop are repeated in smaller ones, and the flow goes on."""
    with stack_on_tun() as host:
        host.path_mtu = 1320
        with dial(host, version, SOURCE) as opened:
            download(opened, 1_000_000)
        assert host.connections[0].error is None


def test_many_connections_leave_nothing(version: int) -> None:
    with stack_on_tun() as host:

        def one(_: Any) -> None:
            with dial(host, version, ECHO) as opened:
                opened.sendall(b"ping")
                assert opened.recv(4) == b"ping"

        for number in range(100):
            one(number)
        wait_until(lambda: all(connection.is_closed for connection in host.connections), 5, "all flows have ended")
        assert len(host.connections) == 100
        assert not host.stack.take_dirty()
