"""MicroPython with wireguard-go as the server and Linux behind it: TCP, UDP, DNS and echo, in both directions."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from lopower.devices.keys import generate_private_key, public_key_of
from tests.support.dns_certificates import make_certificates
from tests.support.micropython import built, interpreter, prelude, renamed
from tests.support.netns import World, network_world
from tests.support.requirements import require_module
from tests.support.wireguard_go import WireguardGo, wireguard_go

pytestmark = [pytest.mark.netns, pytest.mark.xdist_group("netns-firmware")]

SERVER_IPV4, DEVICE_IPV4 = "10.9.0.1", "10.9.0.2"
SERVER_IPV6, DEVICE_IPV6 = "fd09::1", "fd09::2"

SERVERS = f"""
import socket, threading
from dnslib import A, AAAA, QTYPE, RCODE, RR, DNSRecord

def tcp_echo(link):
    while data := link.recv(65536):
        link.sendall(data)
    link.close()

def accept(family, address):
    server = socket.create_server((address, 7), family=family)
    while True:
        threading.Thread(target=tcp_echo, args=[server.accept()[0]], daemon=True).start()

def udp_echo(family, address):
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((address, 7))
    while True:
        data, sender = server.recvfrom(65536)
        server.sendto(data, sender)

def dns():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("{SERVER_IPV4}", 53))
    asked = 0
    while True:
        data, sender = server.recvfrom(512)
        asked += 1
        if asked == 1:
            continue  # lost on the way: asked again
        question = DNSRecord.parse(data)
        answer = question.reply()
        name = str(question.q.qname)
        if name == "server.example." and question.q.qtype == QTYPE.A:
            answer.add_answer(*RR.fromZone("server.example. 60 CNAME www.server.example."))
            answer.add_answer(RR("www.server.example", QTYPE.A, rdata=A("{SERVER_IPV4}"), ttl=60))
        elif name == "six.example." and question.q.qtype == QTYPE.AAAA:
            answer.add_answer(RR("six.example", QTYPE.AAAA, rdata=AAAA("{SERVER_IPV6}"), ttl=60))
        elif name not in ("server.example.", "six.example."):
            answer.header.rcode = RCODE.NXDOMAIN
        server.sendto(answer.pack(), sender)

for family, address in ((socket.AF_INET, "{SERVER_IPV4}"), (socket.AF_INET6, "{SERVER_IPV6}")):
    threading.Thread(target=accept, args=[family, address], daemon=True).start()
    threading.Thread(target=udp_echo, args=[family, address], daemon=True).start()
dns()
"""


class Setting:
    """wireguard-go in the host's namespace, with servers; settings for MicroPython in the device's."""

    def __init__(self, world: World, server: WireguardGo, directory: Path, *, psk: bool, ipv6: bool) -> None:
        self.world, self.server, self.directory = world, server, directory
        private, other = generate_private_key(), generate_private_key()
        preshared = generate_private_key() if psk else None
        lines = [
            "[Interface]",
            f"PrivateKey = {_text(other)}",
            "ListenPort = 51820",
            f"Address = {SERVER_IPV4}/32, {SERVER_IPV6}/128",
            "[Peer]",
            f"PublicKey = {_text(public_key_of(private))}",
            f"AllowedIPs = {DEVICE_IPV4}/32, {DEVICE_IPV6}/128",
        ]
        if preshared is not None:
            lines.append(f"PresharedKey = {_text(preshared)}")
        server.configure("\n".join(lines))
        host = f"[{World.HOST_IPV6}]" if ipv6 else World.HOST_IPV4
        settings: dict[str, Any] = {
            "private_key": _text(private),
            "proxies": [
                {
                    "public_key": _text(public_key_of(other)),
                    "preshared_key": None if preshared is None else _text(preshared),
                    "addresses": [DEVICE_IPV4, DEVICE_IPV6],
                    "dns": [SERVER_IPV4],
                    "endpoints": [f"{host}:51820"],
                    "allowed_ips": [f"{SERVER_IPV4}/32", f"{SERVER_IPV6}/128"],
                }
            ],
        }
        (directory / "lopower.json").write_text(json.dumps(settings))
        (directory / "servers.py").write_text(SERVERS)
        world.start(world.host, _python(), directory / "servers.py")
        world.host.wait_for_port(53, "udp")
        world.host.wait_for_port(7)

    def start(self, program: str) -> subprocess.Popen[str]:
        """MicroPython in the device's namespace."""
        path = self.directory / "program.py"
        path.write_text(prelude(built("x64")) + renamed(START + program))
        return self.world.start(
            self.world.device,
            *interpreter(),
            path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
        )

    def run(self, program: str, timeout: float = 60) -> str:
        """A program to its end; its output."""
        process = self.start(program)
        output, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, output
        return output


START = """
import time, lopower
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
import socket
"""


def _python() -> str:
    import sys

    return sys.executable


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


@pytest.fixture(params=[(True, False), (False, True)], ids=["psk-ipv4", "no-psk-ipv6"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    psk, ipv6 = request.param
    with network_world() as world, wireguard_go(world.host) as server:
        yield Setting(world, server, tmp_path, psk=psk, ipv6=ipv6)


def test_from_the_device(setting: Setting) -> None:
    """DNS, TCP and UDP over both families, to Linux's own stack."""
    output = setting.run(
        """
assert socket.getaddrinfo("server.example", 7)[0][-1] == ("10.9.0.1", 7)
assert socket.getaddrinfo("server.example", 7)[0][-1] == ("10.9.0.1", 7)  # cached
assert socket.getaddrinfo("six.example", 7)[0][-1] == ("fd09::1", 7)
try:
    socket.getaddrinfo("nothing.example", 7)
    assert False
except OSError:
    pass
for name in ("server.example", "six.example"):
    family, kind, proto, _, address = socket.getaddrinfo(name, 7, 0, socket.SOCK_STREAM)[0]
    link = socket.socket(family, kind, proto)
    link.settimeout(10)
    link.connect(address)
    for size in (1, 1000, 3000):
        data = bytes([size & 255]) * size
        link.write(data)
        assert link.read(size) == data
    link.close()
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    datagrams.settimeout(3)
    for size in (0, 1, 1300):
        datagrams.sendto(bytes(size), address)
        data, sender = datagrams.recvfrom(2000)
        assert data == bytes(size) and sender == address, (len(data), sender)
    try:
        datagrams.sendto(bytes(1500), address)
        assert False
    except OSError as error:
        assert error.errno == 90
    datagrams.connect(("10.9.0.1" if family == 2 else "fd09::1", 9))
    datagrams.send(b"nobody is there")
    try:
        datagrams.recv(10)
        assert False
    except OSError as error:
        import errno
        assert error.errno == errno.ECONNREFUSED, error
    datagrams.close()
    closed = socket.socket(family, kind)
    try:
        closed.connect((address[0], 9))
        assert False
    except OSError as error:
        assert error.errno == errno.ECONNREFUSED, error
print(lopower.status()["counters"].get("not_authentic", 0))
"""
    )
    assert output == "0\n"


def test_to_the_device(setting: Setting) -> None:
    """A web server on the device, echo, and a port where nobody listens, from Linux."""
    process = setting.start(
        """
import asyncio
served = 0

async def serve(reader, writer):
    global served
    line = await reader.readline()
    while await reader.readline() not in (b"", b"\\r\\n"):
        pass
    body = b"x" * 5000
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: 5000\\r\\n\\r\\n" + body)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    served += 1

async def main():
    await asyncio.start_server(serve, "0.0.0.0", 8080)
    asyncio.create_task(lopower.run())
    print("ready")
    while served < 4:
        await asyncio.sleep_ms(20)
    await asyncio.sleep_ms(300)

asyncio.run(main())
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    host = setting.world.host
    assert " 0% packet loss" in host.run("ping", "-c", "3", "-i", "0.2", "-W", "2", DEVICE_IPV4)
    assert " 0% packet loss" in host.run("ping", "-c", "3", "-i", "0.2", "-s", "1300", "-W", "2", DEVICE_IPV6)
    refused = subprocess.run(
        host.command("curl", "-sS", "-m", "5", f"http://{DEVICE_IPV4}:81/"), capture_output=True, text=True, check=False
    )
    assert refused.returncode == 7, refused.stderr
    for address in (DEVICE_IPV4, f"[{DEVICE_IPV6}]") * 2:
        assert host.run("curl", "-sS", "-m", "10", f"http://{address}:8080/") == "x" * 5000
    assert process.wait(20) == 0


@pytest.mark.parametrize("setting", [(True, False)], indirect=True, ids=["psk-ipv4"])
def test_microdot(setting: Setting) -> None:
    """The web framework from PyPI, unchanged, reached from Linux."""
    package = Path(require_module("microdot").__file__ or "").parent
    (setting.directory / "microdot.py").write_text((package / "microdot.py").read_text())
    process = setting.start(
        """
import asyncio, sys
sys.path.insert(0, "")
from microdot import Microdot

app = Microdot()

@app.route("/hello/<name>", methods=["GET", "POST"])
async def hello(request, name):
    return {"name": name, "got": len(request.body)}

@app.get("/end")
async def end(request):
    request.app.shutdown()
    return "ended"

async def main():
    asyncio.create_task(lopower.run())
    server = asyncio.create_task(app.start_server(host="0.0.0.0", port=8080))
    await asyncio.sleep_ms(50)
    print("ready")
    await server
    await asyncio.sleep_ms(1000)

asyncio.run(main())
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    host = setting.world.host
    got = host.run("curl", "-sS", "-m", "10", "--data", "x" * 5000, f"http://{DEVICE_IPV4}:8080/hello/sensor")
    assert json.loads(got) == {"name": "sensor", "got": 5000}
    assert host.run("curl", "-sS", "-m", "10", f"http://[{DEVICE_IPV6}]:8080/end") == "ended"
    process.wait(20)


def test_rekey_and_roaming(setting: Setting) -> None:
    """Sessions are renewed many times, and the device's own port changes, in the midst of one connection."""
    output = setting.run(
        """
import lopower.peer
lopower.peer.REKEY_AFTER_TIME, lopower.peer.REKEY_TIMEOUT = 300, 100
tunnel = lopower._running
link = socket.socket(socket.AF_INET)
link.settimeout(10)
link.connect(("10.9.0.1", 7))
moves, number = 0, 0
began = time.ticks_ms()
while time.ticks_diff(time.ticks_ms(), began) < 3000:
    line = b"line %d " % number * 100 + b"\\n"
    number += 1
    link.write(line)
    assert link.readline() == line
    time.sleep_ms(20)
    if number % 40 == 0:  # another address translator, or another lease
        tunnel.lock.acquire()
        tunnel._close_outer()
        tunnel.lock.release()
        moves += 1
counters = lopower.status()["counters"]
assert "not_authentic" not in counters and "replayed" not in counters, counters
print(moves >= 1, counters["handshakes_completed"] > 4)
"""
    )
    assert output == "True True\n"


@pytest.mark.parametrize("setting", [(True, False)], indirect=True, ids=["psk-ipv4"])
def test_a_tls_server_on_the_device(setting: Setting) -> None:
    """MicroPython's `ssl` as a server, under asyncio, for curl with the authority's certificate and without it."""
    authority, server_pem = make_certificates(setting.directory, (DEVICE_IPV4,))
    pem = server_pem.read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    (setting.directory / "key.der").write_bytes(
        key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    certificate = x509.load_pem_x509_certificate(pem)
    (setting.directory / "certificate.der").write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    process = setting.start(
        """
import asyncio, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
with open("certificate.der", "rb") as certificate, open("key.der", "rb") as key:
    context.load_cert_chain(certificate.read(), key.read())
served = 0

async def serve(reader, writer):
    global served
    while await reader.readline() not in (b"", b"\\r\\n"):
        pass
    writer.write(b"HTTP/1.0 200 OK\\r\\nContent-Length: 3000\\r\\n\\r\\n" + b"x" * 3000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    served += 1

async def main():
    await asyncio.start_server(serve, "0.0.0.0", 443, ssl=context)
    asyncio.create_task(lopower.run())
    print("ready")
    while not served:
        await asyncio.sleep_ms(20)
    await asyncio.sleep_ms(300)

asyncio.run(main())
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    host = setting.world.host
    refused = subprocess.run(
        host.command("curl", "-sS", "-m", "10", f"https://{DEVICE_IPV4}/"), capture_output=True, check=False
    )
    assert refused.returncode == 60
    assert host.run("curl", "-sS", "-m", "10", "--cacert", authority, f"https://{DEVICE_IPV4}/") == "x" * 3000
    assert process.wait(20) == 0


BULK = """
link = socket.socket()
link.connect(("10.9.0.1", 7777))
began = time.ticks_us()
block = bytes(4096)
left = 8000000
while left:
    left -= link.write(block, min(4096, left))
link.shutdown(1)
assert link.recv(1) == b"!"
up = 8000000 * 8 / time.ticks_diff(time.ticks_us(), began)
link.close()
link = socket.socket()
link.connect(("10.9.0.1", 7778))
began = time.ticks_us()
buffer = bytearray(4096)
received = 0
while True:
    n = link.readinto(buffer)
    if not n:
        break
    received += n
down = received * 8 / time.ticks_diff(time.ticks_us(), began)
print(up, down, received, lopower.status()["counters"])
"""
BULK_SERVERS = """
import socket
server = socket.create_server(("10.9.0.1", 7777))
other = socket.create_server(("10.9.0.1", 7778))
link = server.accept()[0]
while link.recv(65536):
    pass
link.sendall(b"!")
other.accept()[0].sendall(bytes(8000000))
"""


@pytest.mark.parametrize("setting", [(True, False)], indirect=True, ids=["psk-ipv4"])
def test_bulk(setting: Setting) -> None:
    """Eight megabytes each way; what it took in Mbit/s is printed, up and down."""
    path = setting.directory / "bulk.py"
    path.write_text(BULK_SERVERS)
    setting.world.start(setting.world.host, _python(), path)
    setting.world.host.wait_for_port(7778)
    output = setting.run(BULK)
    print(output)
    _, _, received = output.split(" {")[0].split()
    assert int(received) == 8_000_000
