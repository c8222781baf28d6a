"""MicroPython through a proxy: handshake, sockets, and the standard programs for them, unchanged."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.dns_certificates import make_certificates
from tests.support.micropython import FIRMWARE, micropython, write_settings
from tests.support.proxy import Proxy, echo, free_udp_port, running_proxy, tcp_server

START = """
import time, lopower
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
"""


def _device(proxy: Proxy, directory: Path, **changes: object) -> None:
    proxy.enrol("sensor")
    write_settings(directory, proxy.configuration("sensor"), **changes)


async def test_requests_to_the_gateway_page(tmp_path: Path) -> None:
    """From a start without a session to a page."""
    async with running_proxy(tmp_path) as proxy:
        _device(proxy, tmp_path)
        output = await micropython(
            START
            + """
import requests
response = requests.get("http://10.90.0.1/")
assert response.status_code == 200
assert response.text.startswith("sensor, connected"), response.text
response.close()
status = lopower.status()
assert status["state"] == "up", status
print("done")
""",
            tmp_path,
        )
    assert output.strip() == "done"


BULK = (
    START
    + """
import socket
address = socket.getaddrinfo("10.90.0.1", 7)[0][-1]
link = socket.socket()
link.connect(address)
block = bytes(range(256)) * 16
total = 2_000_000
link.setblocking(False)
import select
poller = select.poll()
poller.register(link, select.POLLIN | select.POLLOUT)
sent = received = 0
buffer = bytearray(4096)
while received < total:
    for _, events in poller.poll(1000):
        if events & select.POLLOUT and sent < total:
            sent += link.write(block, sent % 4096, min(4096 - sent % 4096, total - sent)) or 0
        if events & select.POLLIN:
            n = link.readinto(buffer)
            assert n
            for at in (0, n // 2, n - 1):
                assert buffer[at] == (received + at) % 256
            received += n
link.close()
print(received, lopower.status())
"""
)


async def test_bulk_both_ways_at_once(tmp_path: Path) -> None:
    """Non-blocking, by poll: what comes back is what was sent."""
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(BULK, tmp_path)
    assert output.startswith("2000000 ")


async def test_the_proxy_initiates(tmp_path: Path) -> None:
    """As responder: the proxy's initiation makes a session that carries data both ways."""
    async with running_proxy(tmp_path) as proxy:
        _device(proxy, tmp_path)
        program = asyncio.create_task(
            micropython(
                START
                + """
first = lopower.status()["counters"]["handshakes_completed"]
end = time.ticks_add(time.ticks_ms(), 8000)
while lopower.status()["counters"]["handshakes_completed"] == first and time.ticks_diff(end, time.ticks_ms()) > 0:
    lopower.pump()
    time.sleep_ms(5)
counters = lopower.status()["counters"]
assert counters["initiations_received"] and counters["responses_sent"], counters
import requests
assert requests.get("http://10.90.0.1/").status_code == 200
import json
print(json.dumps(lopower.status()["counters"]))
""",
                tmp_path,
            )
        )
        interface = proxy.runtime.interface
        peer = next(iter(interface.peers.values()))
        while not peer.has_session(time.monotonic()):  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
        peer.initiation_sent_at -= 5  # a handshake less than five seconds ago would hold it back
        interface._negotiator.initiate(peer, time.monotonic())
        counters = json.loads(await program)
    assert counters["responses_sent"] == 1
    assert "not_authentic" not in counters


async def test_asyncio_streams(tmp_path: Path) -> None:
    """Five connections at once, and a task beside them that is not starved."""
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(
            START
            + """
import asyncio

ticks = 0
async def ticker():
    global ticks
    while True:
        ticks += 1
        await asyncio.sleep_ms(1)

async def exchange(number):
    reader, writer = await asyncio.open_connection("10.90.0.1", 7)
    line = b"line %d " % number + b"x" * 3000 + b"\\n"
    for _ in range(5):
        writer.write(line)
        await writer.drain()
        assert await reader.readline() == line
    writer.write(b"abcdef")
    await writer.drain()
    assert await reader.readexactly(6) == b"abcdef"
    writer.close()
    await writer.wait_closed()
    return number

async def main():
    task = asyncio.create_task(ticker())
    pump = asyncio.create_task(lopower.run())
    done = await asyncio.gather(*[exchange(i) for i in range(5)])
    task.cancel()
    pump.cancel()
    return done

print(asyncio.run(main()), ticks > 5)
""",
            tmp_path,
        )
    assert output == "[0, 1, 2, 3, 4] True\n"


async def test_errors_and_timeouts(tmp_path: Path) -> None:
    """What `socket` raises elsewhere it raises here: by the numbers of `errno`."""
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(
            START
            + """
import errno, select, socket

def number(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno

refused = socket.socket()
assert number(refused.connect, ("10.90.0.1", 9999)) == errno.ECONNREFUSED
forbidden = socket.socket()
assert number(forbidden.connect, ("100.64.9.9", 80)) in (errno.EHOSTUNREACH, errno.EACCES, errno.ECONNREFUSED)

link = socket.socket()
link.settimeout(0)
assert number(link.connect, ("10.90.0.1", 7)) == errno.EINPROGRESS
poller = select.poll()
poller.register(link, select.POLLOUT)
assert poller.poll(3000)[0][1] & select.POLLOUT
assert number(link.recv, 10) == errno.EAGAIN
assert link.read(10) is None
assert link.readline() is None
poller.modify(link, select.POLLIN)
began = time.ticks_ms()
assert poller.poll(60) == []
assert 50 <= time.ticks_diff(time.ticks_ms(), began) < 3000
link.settimeout(0.1)
began = time.ticks_ms()
assert number(link.recv, 10) == errno.ETIMEDOUT
assert 90 <= time.ticks_diff(time.ticks_ms(), began) < 3000
link.settimeout(3)
link.sendall(b"one\\ntwo\\nthree")
assert link.readline() == b"one\\n"
assert link.read(4) == b"two\\n"
assert link.recv(100) == b"three"
link.write("text", 2)
assert link.read(2) == b"te"
link.shutdown(1)
assert link.recv(100) == b""
assert link.read() == b""
link.close()
assert number(link.send, b"x") == errno.EBADF
plain = socket.socket()
assert number(plain.recv, 1) == errno.ENOTCONN

# Past the tunnel: loopback is the original's.
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", 0)) if False else server.bind(socket.getaddrinfo("127.0.0.1", 45871)[0][-1])
server.listen(1)
client = socket.socket()
client.connect(("127.0.0.1", 45871))
accepted, _ = server.accept()
client.write(b"past\\n")
assert accepted.readline() == b"past\\n"
for each in (accepted, client, server):
    each.close()

# After some use nothing is left but what waits for its time to pass.
end = time.ticks_add(time.ticks_ms(), 1000)
while lopower.status()["connections"] > 1 and time.ticks_diff(end, time.ticks_ms()) > 0:
    lopower.pump()
assert lopower.status()["connections"] <= 1, lopower.status()
lopower.stop()
assert socket.__name__ != "socket"
import socket as again
assert not hasattr(again, "install")
print("done")
""",
            tmp_path,
        )
    assert output == "done\n"


async def test_another_endpoint_when_nobody_answers(tmp_path: Path) -> None:
    """A dead endpoint, a name that does not resolve, a proxy with another key: the right one is found by itself."""
    from tests.support.micropython import device_settings

    async with running_proxy(tmp_path) as proxy:
        proxy.enrol("sensor")
        content = device_settings(proxy.configuration("sensor"))
        right = content["proxies"][0]
        wrong_key = {**right, "public_key": content["private_key"], "preshared_key": None}
        right["endpoints"] = ["no-such-host.invalid:1", *right["endpoints"]]
        content["proxies"] = [wrong_key, right]
        (tmp_path / "lopower.json").write_text(json.dumps(content))
        output = await micropython(
            """
import lopower
import lopower.tunnel
real = lopower.tunnel.clock
lopower.tunnel.clock = lambda: real() * 30 & 0x1FFFFFFF
lopower.start("lopower.json", network=lambda: None, counter="count")
assert not lopower.wait(9)
assert "no answer" in lopower.status()["state"] or "under way" in lopower.status()["state"], lopower.status()
assert lopower.wait(300), lopower.status()
print(lopower.status()["counters"]["endpoint_changes"])
""",
            tmp_path,
        )
    assert int(output) >= 1


def test_settings_that_are_no_settings(tmp_path: Path) -> None:
    """A message in words, `start` says False, and the program goes on."""
    from tests.support.micropython import run_micropython

    program = """
import lopower
print(lopower.start("lopower.json", network=lambda: None, counter="count"), lopower.status(), lopower.wait(1))
import socket
socket.socket().close()
"""
    assert "lopower.json is missing" in run_micropython(program, tmp_path)
    (tmp_path / "lopower.json").write_text('{"private_key": "AA')
    output = run_micropython(program, tmp_path)
    assert output.startswith("lopower: lopower.json is not whole, or no JSON\nFalse {'state': ")


async def test_the_heap_does_not_shrink(tmp_path: Path) -> None:
    """After thousands of packets the largest free block is what it was: nothing is kept, nothing cuts the heap up."""
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(
            START
            + """
import gc, micropython, socket
link = socket.socket()
link.connect(("10.90.0.1", 7))
link.setblocking(False)
buffer, block = bytearray(4096), bytes(4096)

def exchange(total):
    sent = received = 0
    while received < total:
        if sent < total:
            sent += link.write(block, min(4096, total - sent)) or 0
        received += link.readinto(buffer) or 0

exchange(500_000)
for _ in range(2):
    gc.collect()
    micropython.mem_info()
    exchange(4_000_000)
gc.collect()
micropython.mem_info()
link.close()
""",
            tmp_path,
            heap="384K",
        )
    free = [int(line.rpartition(" ")[2]) for line in output.splitlines() if "max free sz" in line]
    assert len(free) == 3
    assert min(free[1:]) >= free[0] - 8


async def test_tls_with_a_verified_certificate(tmp_path: Path) -> None:
    """MicroPython's own `ssl` over a tunnel's socket: another authority's certificate is refused."""
    authority, server_pem = make_certificates(tmp_path, ("10.90.0.1",))
    (tmp_path / "other").mkdir()
    other, _ = make_certificates(tmp_path / "other", ("10.90.0.1",))
    for source, target in ((authority, "ca.der"), (other, "other.der")):
        der = x509.load_pem_x509_certificate(source.read_bytes()).public_bytes(serialization.Encoding.DER)
        (tmp_path / target).write_bytes(der)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server_pem)
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    async with running_proxy(tmp_path) as proxy, server:
        _device(proxy, tmp_path)
        proxy.serve(443, server.sockets[0].getsockname()[1])
        output = await micropython(
            START
            + """
import ssl, socket
for name in ("ca.der", "other.der"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    with open(name, "rb") as file:
        context.load_verify_locations(cadata=file.read())
    link = socket.socket()
    link.connect(("10.90.0.1", 443))
    try:
        secure = context.wrap_socket(link, server_hostname="10.90.0.1")
        secure.write(b"hello\\n")
        print(name, secure.readline())
        secure.close()
    except (OSError, ValueError) as error:
        print(name, "refused")
        link.close()
""",
            tmp_path,
        )
    assert output == "ca.der b'hello\\n'\nother.der refused\n"


async def test_threads(tmp_path: Path) -> None:
    """Three threads with a connection each, under one lock (the unix port has no lock of its interpreter)."""
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path)
        proxy.serve(7, port)
        output = await micropython(
            START
            + """
import _thread, gc, socket
gc.collect()
done = []

def work(number):
    link = socket.socket()
    link.settimeout(10)
    link.connect(("10.90.0.1", 7))
    for i in range(20):
        data = bytes([number]) * (100 + i)
        link.write(data)
        assert link.read(len(data)) == data
    link.close()
    done.append(number)

_thread.stack_size(65536)
for number in range(3):
    _thread.start_new_thread(work, (number,))
end = time.ticks_add(time.ticks_ms(), 20000)
while len(done) < 3 and time.ticks_diff(end, time.ticks_ms()) > 0:
    time.sleep_ms(5)
    lopower.pump()
print(sorted(done))
""",
            tmp_path,
            heap="8M",
        )
    assert output == "[0, 1, 2]\n"


async def test_a_bad_link_and_a_new_address(tmp_path: Path) -> None:
    """Loss, delay, reordering and duplicates on the outer link, and a NAT that forgets the device halfway."""
    relay_port = free_udp_port()
    async with running_proxy(tmp_path) as proxy, tcp_server(echo) as port:
        _device(proxy, tmp_path, endpoints=[f"127.0.0.1:{relay_port}"])
        proxy.serve(7, port)
        link = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.udp_link", str(relay_port), "127.0.0.1", str(proxy.port),
            "--loss", "0.02", "--delay", "0.003", "--jitter", "0.002", "--duplicate", "0.01", "--reorder", "0.02",
            cwd=FIRMWARE.parent, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert link.stdout is not None
        assert await link.stdout.readline() == b"ready\n"
        try:
            program = asyncio.create_task(
                micropython(
                    START
                    + """
import socket
link = socket.socket()
link.settimeout(20)
link.connect(("10.90.0.1", 7))
for i in range(150):
    data = bytes([i]) * 2000
    link.write(data)
    assert link.read(2000) == data, i
print("all", lopower.status()["counters"].get("not_authentic", 0))
""",
                    tmp_path,
                )
            )
            await asyncio.sleep(1.5)
            link.send_signal(signal.SIGUSR1)
            output = await program
        finally:
            link.terminate()
            await link.wait()
        peer = next(iter(proxy.runtime.interface.peers.values()))
    assert output == "all 0\n"
    assert peer.counters["handshakes_completed"] >= 1
