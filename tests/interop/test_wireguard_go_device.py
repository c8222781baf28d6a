"""The daemon as a user runs it, and wireguard-go with Linux's own TCP as its device."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support import wireguard_go as wg
from tests.support.lopower_daemon import LopowerDaemon
from tests.support.netns import World, network_world
from tests.support.requirements import require_program

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-device")]

PLAIN = [flag for feature in ("gro", "gso", "pktinfo", "epoll") for flag in ("--without", feature)]
BULK = 8_000_000
RELAY_PORT = 40_000


@dataclass(frozen=True, slots=True)
class Setup:
    """What one test works with."""

    world: World
    daemon: LopowerDaemon
    device: wg.WireguardGo
    directory: Path

    def curl(self, url: str, *options: str, check: bool = True, timeout: float = 30) -> str:
        """`curl` on the device."""
        return self.world.device.run(
            "curl", "-sS", "-g", "--max-time", str(timeout), *options, url, check=check, timeout=timeout + 10
        )


@contextmanager
def setup(
    directory: Path,
    *flags: str,
    program: Callable[[], Path] = wg.upstream,
    ipv6: bool = False,
    psk: bool = True,
    relay: tuple[str, ...] | None = None,
    before: Callable[[World], None] | None = None,
) -> Iterator[Setup]:
    """A daemon in the host's namespace, and a device in its own, configured by `device add`."""
    with ExitStack() as stack:
        world = stack.enter_context(network_world())
        require_program("curl")
        if before is not None:
            before(world)
        endpoint = World.HOST_IPV6 if ipv6 else World.HOST_IPV4
        daemon = LopowerDaemon(world.host, directory, *flags, endpoint=endpoint)
        stack.callback(daemon.stop)
        daemon.start()
        configuration = daemon.lopower("device", "add", "kitchen", *([] if psk else ["--no-psk"]))
        assert ("PresharedKey" in configuration) == psk
        if relay is not None:
            process = world.start(
                world.device, sys.executable, "-m", "tests.support.udp_link", str(RELAY_PORT), World.HOST_IPV4,
                "51820", *relay, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            configuration = configuration.replace(f"{World.HOST_IPV4}:51820", f"127.0.0.1:{RELAY_PORT}")
        device = stack.enter_context(wg.wireguard_go(world.device, program()))
        device.configure(configuration)
        yield Setup(world, daemon, device, directory)


def http_server(setup: Setup, port: int, *, lan: bool = False) -> None:
    """A web server with `bulk`, and `upload` that answers with the SHA-256 of what it got."""
    space, host = (setup.world.lan, "0.0.0.0") if lan else (setup.world.host, "127.0.0.1")
    process = setup.world.start(
        space, sys.executable, "-m", "tests.interop.test_wireguard_go_device", host, str(port), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def payload() -> bytes:
    """What is moved."""
    return random.Random(7).randbytes(BULK)


class Handler(BaseHTTPRequestHandler):
    """`GET /` sends the payload; `PUT` answers with the hash of the body."""

    def do_GET(self) -> None:
        body = payload()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        rest = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while rest:
            piece = self.rfile.read(min(rest, 1 << 20))
            if not piece:
                return
            digest.update(piece)
            rest -= len(piece)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(digest.hexdigest().encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def check_bulk(setup: Setup, url: str) -> None:
    """Both ways, whole."""
    check_upload(setup, url)
    check_download(setup, url)


def check_upload(setup: Setup, url: str) -> None:
    """Device to network."""
    file = setup.directory / "bulk"
    file.write_bytes(payload())
    assert setup.curl(url, "-T", str(file), timeout=60) == hashlib.sha256(payload()).hexdigest()


def check_download(setup: Setup, url: str) -> None:
    """Network to device."""
    fetched = setup.directory / "fetched"
    setup.curl(url, "-o", str(fetched), timeout=60)
    assert fetched.read_bytes() == payload()


@pytest.mark.parametrize("flags", [(), tuple(PLAIN)], ids=["kernel-help", "plain"])
@pytest.mark.parametrize("ipv6", [False, True], ids=["outer-IPv4", "outer-IPv6"])
@pytest.mark.parametrize("psk", [True, False], ids=["psk", "no-psk"])
def test_page_ping_and_bulk(tmp_path: Path, flags: tuple[str, ...], ipv6: bool, psk: bool) -> None:
    program = wg.upstream if psk else wg.debian
    with setup(tmp_path, *flags, program=program, ipv6=ipv6, psk=psk) as this:
        ipv4, gateway6 = this.daemon.gateway_ipv4, this.daemon.gateway_ipv6
        for host in (ipv4, f"[{gateway6}]"):
            assert "kitchen" in this.curl(f"http://{host}/")
        page = json.loads(this.curl(f"http://{ipv4}/", "-H", "Accept: application/json"))
        assert page["device"] == "kitchen"
        this.world.device.run("ping", "-c", "3", "-i", "0.2", ipv4)
        this.world.device.run("ping", "-6", "-c", "3", "-i", "0.2", gateway6)
        http_server(this, 8000)
        this.daemon.lopower("serve", "8000")
        check_bulk(this, f"http://{ipv4}:8000/")
        check_bulk(this, f"http://[{gateway6}]:8000/")
        [shown] = this.daemon.json("device", "list")["devices"]
        assert shown["state"] == "connected"


def test_forbidden_refused_and_allowed(tmp_path: Path) -> None:
    with setup(tmp_path, "--allow", f"{World.LAN_IPV4}/32:8000") as this:
        # The configuration holds what is permitted; this device tries more.
        key = this.daemon.json("server", "show")["public_key"]
        this.device.wg("set", "wg0", "peer", key, "allowed-ips", "0.0.0.0/0,::/0")
        this.world.device.ip("route", "replace", "198.51.100.0/24", "dev", "wg0")
        http_server(this, 8000, lan=True)
        check_bulk(this, f"http://{World.LAN_IPV4}:8000/")
        began = time.monotonic()
        for url in (f"http://{World.LAN_IPV4}:81/", f"http://{World.HOST_LAN_IPV4}/", "http://10.90.0.1:81/"):
            assert this.curl(url, "-o", "/dev/null", "-w", "%{http_code}", check=False) == "000"
        assert time.monotonic() - began < 10, "each refusal is told at once"
        shown = this.daemon.json("device", "show", "kitchen")
        assert "refused_not_allowed" in json.dumps(shown)
        assert "refused_host_address" in json.dumps(shown)
        this.daemon.lopower("device", "allow", "kitchen", f"{World.LAN_IPV4}/32")
        refused = this.world.device.run(
            "curl", "-sS", "--max-time", "5", f"http://{World.LAN_IPV4}:81/", check=False
        )  # fmt: skip
        assert refused == ""


def test_roaming_in_mid_transfer(tmp_path: Path) -> None:
    # Slow enough that each way takes a second.
    with setup(tmp_path, relay=("--delay", "0.01", "--rate", "8000000")) as this:
        http_server(this, 8000)
        this.daemon.lopower("serve", "8000")
        relay = this.world.processes[0]
        stop = threading.Event()

        def roam() -> None:
            while not stop.wait(0.2):
                relay.send_signal(signal.SIGUSR1)

        roaming = threading.Thread(target=roam)
        roaming.start()
        try:
            check_upload(this, "http://10.90.0.1:8000/")
        finally:
            stop.set()
            roaming.join()
        # While it only receives, the device says from where only when its keepalive is due (10 s): once is enough.
        once = threading.Timer(0.3, lambda: relay.send_signal(signal.SIGUSR1))
        once.start()
        check_download(this, "http://10.90.0.1:8000/")
        once.join()


@pytest.mark.parametrize("loss", ["0.01", "0.05"])
def test_linux_tcp_over_a_link_that_loses_and_reorders(tmp_path: Path, loss: str) -> None:
    link = ("--loss", loss, "--delay", "0.005", "--jitter", "0.002", "--duplicate", "0.01", "--reorder", "0.01")
    with setup(tmp_path, relay=link) as this:
        http_server(this, 8000)
        this.daemon.lopower("serve", "8000")
        check_bulk(this, "http://10.90.0.1:8000/")


def test_a_device_without_sack_timestamps_scaling_and_with_a_small_window(tmp_path: Path) -> None:
    def small(world: World) -> None:
        for name in ("tcp_sack", "tcp_timestamps", "tcp_window_scaling"):
            world.device.run("sysctl", "-qw", f"net.ipv4.{name}=0")
        world.device.run("sysctl", "-qw", "net.ipv4.tcp_rmem=2880 5744 5744")

    with setup(tmp_path, relay=("--loss", "0.002"), before=small) as this:
        http_server(this, 8000)
        this.daemon.lopower("serve", "8000")
        check_bulk(this, "http://10.90.0.1:8000/")


def test_a_killed_daemon_comes_back_and_calls_its_devices(tmp_path: Path) -> None:
    with setup(tmp_path) as this:
        assert "kitchen" in this.curl("http://10.90.0.1/")
        time.sleep(11)  # until the device's endpoint is on the disk
        this.daemon.kill()
        this.daemon.start()
        began = time.monotonic()
        while not this.curl("http://10.90.0.1/", "--connect-timeout", "1", check=False, timeout=2):
            assert time.monotonic() - began < 10
        assert time.monotonic() - began < 5
        assert "counter" in this.daemon.lopower("device", "show", "kitchen", "--json")


def test_iperf3_both_ways_and_udp(tmp_path: Path) -> None:
    require_program("iperf3")
    with setup(tmp_path) as this:
        this.world.start(this.world.host, "iperf3", "-s", "-B", "127.0.0.1", stdout=subprocess.DEVNULL)
        this.daemon.lopower("serve", "5201")
        this.daemon.lopower("serve", "5201", "--udp")
        for options in ([], ["-R"], ["-u", "-b", "20M"], ["-u", "-b", "20M", "-R"], ["-P", "4"]):
            report = json.loads(this.world.device.run("iperf3", "-c", "10.90.0.1", "-t", "1", "-J", *options))
            assert "error" not in report, report
            if "-u" in options:
                assert report["end"]["sum"]["lost_percent"] < 20
            else:
                assert report["end"]["sum_received"]["bytes"] > 1_000_000


def test_the_largest_udp_datagrams_pass_unharmed(tmp_path: Path) -> None:
    echo = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 9000))\n"
        "print('ready', flush=True)\n"
        "while True:\n    data, who = s.recvfrom(65535); s.sendto(data, who)\n"
    )
    ask = (
        "import socket, os, sys\n"
        "s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.settimeout(10); s.connect((sys.argv[1], 9000))\n"
        "for size in (0, 1, 1372, 1373, 9000, 65507 if '.' in sys.argv[1] else 65487):\n"
        "    data = os.urandom(size); s.send(data); assert s.recv(65535) == data, size\n"
    )
    with setup(tmp_path) as this:
        server = this.world.start(this.world.host, sys.executable, "-c", echo, stdout=subprocess.PIPE)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        this.daemon.lopower("serve", "9000", "--udp")
        for gateway in (this.daemon.gateway_ipv4, this.daemon.gateway_ipv6):
            this.world.device.run(sys.executable, "-c", ask, gateway)


def test_dig_and_dnsperf_against_the_gateway(tmp_path: Path) -> None:
    require_program("dig")
    require_program("dnsperf")
    with setup(tmp_path) as this:
        for options in ([], ["+tcp"], ["+bufsize=1232", "+dnssec"], ["+noedns"]):
            answer = this.world.device.run("dig", "@10.90.0.1", "kitchen", *options, "+short", "+tries=1")
            assert answer.strip() == "10.90.0.2", options
        reverse = this.world.device.run("dig", f"@{this.daemon.gateway_ipv6}", "-x", "10.90.0.2", "+short")
        assert reverse.strip() == "kitchen."
        queries = tmp_path / "queries"
        queries.write_text("kitchen A\ngateway AAAA\nnothing.invalid A\n")
        report = this.world.device.run("dnsperf", "-s", "10.90.0.1", "-d", str(queries), "-l", "2", "-Q", "2000")
        assert "Queries lost:         0" in report, report


@pytest.mark.realtime
@pytest.mark.timeout(300)
def test_a_rekey_under_traffic_loses_nothing(tmp_path: Path) -> None:
    variants = [(program, ipv6, psk) for program in (wg.upstream, wg.debian) for ipv6 in (0, 1) for psk in (0, 1)]
    with ExitStack() as stack:
        running: list[Setup] = []
        for number, (program, ipv6, psk) in enumerate(variants):
            directory = tmp_path / str(number)
            directory.mkdir()
            running.append(
                stack.enter_context(setup(directory, program=program, ipv6=bool(ipv6), psk=bool(psk)))
            )  # fmt: skip
        pings = [
            this.world.start(this.world.device, "ping", "-i", "0.2", "-c", "700", "10.90.0.1", stdout=subprocess.PIPE)
            for this in running
        ]
        first = [this.device.latest_handshake() for this in running]
        for ping in pings:
            said, _ = ping.communicate(timeout=250)
            assert " 0% packet loss" in said, said[-300:]
        for this, before in zip(running, first, strict=True):
            assert this.device.latest_handshake() > before


if __name__ == "__main__":
    server = ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    print("ready", flush=True)
    server.serve_forever()
