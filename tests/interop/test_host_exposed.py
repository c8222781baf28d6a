"""`lopower expose --port` with the host driver, as a user sees it: curl and datagrams from a peer to a Linux device.

The tailnet is an interface with a tailnet's addresses, and the peer has one of its own: what carries their packets is
not what is tested here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.test_wireguard_go_device import Setup, setup
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import World, one_namespace, wait_until

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-device")]

HOST, PEER = ("100.64.0.9", "fd7a:115c:a1e0::9"), ("100.64.0.7", "fd7a:115c:a1e0::7")
_SERVER = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.bind(("::", 5683))
print("ready", flush=True)
while True:
    data, sender = sock.recvfrom(2048)
    sock.sendto(data + b" from " + sender[0].removeprefix("::ffff:").encode(), sender)
"""
_CLIENT = """
import socket, sys
sock = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
sock.connect((sys.argv[1], 5683))
sock.send(b"hello")
print(sock.recv(2048).decode())
"""


def tailnet(world: World, *addresses: str) -> None:
    """The host gets these addresses, and the peer its own."""
    if not any("tailscale0" in line for line in world.host.run("ip", "-br", "link").splitlines()):
        world.host.ip("link", "add", "tailscale0", "type", "veth", "peer", "name", "other0")
        for link in ("tailscale0", "other0"):
            world.host.ip("link", "set", link, "up")
        for address in PEER:
            length = 128 if ":" in address else 32
            world.lan.ip("address", "add", f"{address}/{length}", "dev", "out0", *(["nodad"] if length > 32 else []))
            world.host.ip("route", "add", address, "via", World.LAN_IPV6 if length > 32 else World.LAN_IPV4)
        for address in HOST:
            via, source = (World.HOST_LAN_IPV6, PEER[1]) if ":" in address else (World.HOST_LAN_IPV4, PEER[0])
            world.lan.ip("route", "add", address, "via", via, "src", source)
    for address in addresses:
        length = 128 if ":" in address else 32
        world.host.ip("address", "add", f"{address}/{length}", "dev", "tailscale0", *(["nodad"] if length > 32 else []))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Setup]:
    with setup(tmp_path, "--tailnet", "host", before=lambda world: tailnet(world, *HOST)) as made:
        server = made.world.start(
            made.world.device, sys.executable, "-m", "http.server", "80", "--bind", "::", cwd=made.directory,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert server.poll() is None
        (made.directory / "hello").write_text("I am the kitchen")
        made.world.device.wait_for_port(80)
        # The device says where it is.
        made.world.device.run("ping", "-c", "1", "-W", "5", made.daemon.gateway_ipv4)
        yield made


def test_a_host_in_no_tailnet_is_told_the_ways_to_one(tmp_path: Path) -> None:
    with one_namespace("alone") as space:
        daemon = LopowerDaemon(space, tmp_path, endpoint="192.0.2.1")
        daemon.start()
        try:
            said = daemon.log.read_text()
            assert daemon.json("status")["data_plane"]["tailnet"]["driver"] == "host"
        finally:
            daemon.stop()
    assert "lopower up --tailnet tsnet" in said
    assert "tailscale up" in said


def fetched(made: Setup, address: str) -> str:
    host = f"[{address}]" if ":" in address else address
    return made.world.lan.run("curl", "-sS", "-g", "--max-time", "10", f"http://{host}:8080/hello", check=False)


def node(made: Setup) -> dict[str, object]:
    found: dict[str, object] = made.daemon.json("expose")["exposures"][0]["node"]
    return found


def test_a_port_of_the_hosts_tailnet_addresses(running: Setup) -> None:
    lopower = running.daemon.lopower
    said = lopower("expose", "kitchen", "--port", "8080:80")
    assert said == f"this host ({', '.join(HOST)}), tcp port 8080 reaches kitchen, port 80\n"
    for address in HOST:
        assert fetched(running, address) == "I am the kitchen"
    assert "8080" not in running.world.host.run("ss", "-Htln", "src", World.HOST_LAN_IPV4)

    lopower("expose", "kitchen", "--port", "5683", "--udp")
    running.world.start(running.world.device, sys.executable, "-c", _SERVER, stdout=subprocess.DEVNULL)
    running.world.device.wait_for_port(5683, "udp")
    for address, peer in zip(HOST, PEER, strict=True):
        assert running.world.lan.run(sys.executable, "-c", _CLIENT, address) == f"hello from {peer}\n"

    # Addresses go and come back.
    running.world.host.ip("address", "del", f"{HOST[0]}/32", "dev", "tailscale0")
    wait_until(lambda: node(running)["addresses"] == [HOST[1]], 10, "the address is left alone")
    running.world.host.ip("address", "del", f"{HOST[1]}/128", "dev", "tailscale0")
    wait_until(lambda: node(running)["state"] == "no-tailnet", 10, "the host is in no tailnet")
    assert "waits for this host to be in a tailnet" in lopower("expose", "kitchen", "--port", "8080:80")
    tailnet(running.world, *HOST)
    wait_until(lambda: node(running)["addresses"] == list(HOST), 10, "the addresses are back")
    assert fetched(running, HOST[0]) == "I am the kitchen"

    assert running.daemon.stop() == 0
    running.daemon.start()
    running.world.device.run("ping", "-c", "1", "-W", "5", running.daemon.gateway_ipv4)
    assert fetched(running, HOST[0]) == "I am the kitchen"
    lopower("expose", "kitchen", "--off")
    assert fetched(running, HOST[0]) == ""


def test_who_may_connect_and_a_port_in_use(running: Setup) -> None:
    lopower = running.daemon.lopower
    other = running.world.start(
        running.world.host, sys.executable, "-m", "http.server", "8080", "--bind", HOST[0],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    running.world.host.wait_for_port(8080)
    said = lopower("expose", "kitchen", "--port", "8080:80", "--from", f"{PEER[0]}/32", "--from", f"{PEER[1]}/128")
    assert "another program has it" in said
    assert fetched(running, HOST[1]) == "I am the kitchen"
    other.terminate()
    wait_until(lambda: node(running)["connected"], 15, "the port is taken when it is free")
    assert fetched(running, HOST[0]) == "I am the kitchen"
    lopower("expose", "kitchen", "--port", "8080:80", "--from", "100.64.0.8/32")
    assert fetched(running, HOST[0]) == ""
    for arguments, why in (
        (["kitchen"], "--tailnet tsnet"),
        (["kitchen", "--node"], "--tailnet tsnet"),
        (["kitchen", "--https"], "--tailnet tsnet"),
        (["kitchen", "--port", "80", "--from", "tag:phone"], "name networks"),
    ):
        with pytest.raises(AssertionError, match=why):
            lopower("expose", *arguments)
