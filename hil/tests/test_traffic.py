"""What programs on a board do with the network, through the tunnel, with the libraries that they use."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from lopower_hil.bench import BenchError, Board, Proxy, TailnetPeer
from tests.support import bench_servers as servers
from tests.support.device_libraries import require_umqtt
from tests.support.dns_certificates import make_certificates
from tests.support.figures import Figure
from tests.support.requirements import require_module

BULK_BYTES = 400_000


def test_http(device: Board, proxy: Proxy) -> None:
    with servers.http_server() as port:
        proxy.serve(8000, port)
        program = f"import requests; r = requests.get('http://{proxy.gateway}:8000/'); print(r.status_code, r.text)"
        assert device.run(program).split("\n")[0] == "200 a page of the bench"


def test_tls(device: Board, proxy: Proxy, tmp_path: Path) -> None:
    """With the server's certificate verified, and refused by another authority."""
    authority, certificate = make_certificates(tmp_path, (proxy.gateway,))
    other = tmp_path / "other"
    other.mkdir()
    stranger, _ = make_certificates(other, (proxy.gateway,))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    program = f"""
import socket, ssl, time, machine
machine.RTC().datetime({_datetime()})
def fetch(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority)
    raw = socket.socket()
    raw.connect(({proxy.gateway!r}, 8443))
    try:
        wrapped = context.wrap_socket(raw, server_hostname={proxy.gateway!r})
        wrapped.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return wrapped.read().split(b"\\r\\n\\r\\n")[-1]
    finally:
        raw.close()
print(fetch({_der(authority)!r}))
try:
    print(fetch({_der(stranger)!r}))
except (OSError, ValueError) as error:
    print("refused", type(error).__name__)
"""
    with servers.http_server(context) as port:
        proxy.serve(8443, port)
        said = device.run(program, 60).splitlines()
    assert said[0] in ("b'a page of the bench\\n'", "b''"), said
    assert said[1].startswith("refused"), said


def _datetime() -> tuple[int, ...]:
    import datetime

    now = datetime.datetime.now(datetime.UTC)
    return (now.year, now.month, now.day, now.weekday(), now.hour, now.minute, now.second, 0)


def _der(path: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_mqtt(device: Board, proxy: Proxy, tmp_path: Path) -> None:
    """umqtt.simple against mosquitto."""
    library = (require_umqtt() / "umqtt" / "simple.py").read_text()
    device.install({"/umqtt/simple.py": library})
    program = f"""
import sys
sys.path.insert(0, "/")
from umqtt.simple import MQTTClient
got = []
client = MQTTClient(b"bench", {proxy.gateway!r}, keepalive=30)
client.set_callback(lambda topic, message: got.append((topic, message)))
client.connect()
client.subscribe(b"bench/#", qos=1)
for number in range(20):
    client.publish(b"bench/%d" % number, b"m" * number * 50, qos=number & 1)
    while len(got) <= number:  # it may have come while the broker's receipt was waited for
        client.wait_msg()
print(len(got), sum(len(message) for _, message in got))
client.disconnect()
"""
    with servers.mosquitto(tmp_path) as port:
        proxy.serve(1883, port)
        assert device.run(program, 60) == f"20 {sum(50 * number for number in range(20))}\n"


def test_udp_and_echo(device: Board, proxy: Proxy) -> None:
    """Datagrams of all sizes that fit come back whole; the board answers echo requests."""
    program = f"""
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(10)
good = 0
for size in (1, 100, 1000, 1372):
    sent = bytes([size & 255]) * size
    sock.sendto(sent, ({proxy.gateway!r}, 7007))
    good += sock.recvfrom(2000)[0] == sent
print(good)
sock.close()
"""
    with servers.udp_echo() as port:
        proxy.serve_udp(7007, port)
        assert device.run(program, 60) == "4\n"
    said = proxy.lopower("ping", device.device, "--count", "3", "--interval", "0.2")
    assert "3" in said.splitlines()[-1] or "0 %" in said


def test_names(device: Board, proxy: Proxy) -> None:
    """Its own name, and one that nobody has."""
    program = f"""
import socket
print(socket.getaddrinfo({device.device!r}, 80)[0][-1][0])
try:
    print(socket.getaddrinfo("nobody-has-this-name.invalid", 80))
except OSError:
    print("no such name")
"""
    own, nobody = device.run(program, 60).splitlines()
    known = proxy.device(device.device)
    assert own in (known["ipv4"], known["ipv6"])
    assert nobody == "no such name"


def test_bulk(device: Board, proxy: Proxy, figure: Figure) -> None:
    program = f"""
import hashlib, socket, time
def connect(line):
    sock = socket.socket()
    sock.connect(({proxy.gateway!r}, 9000))
    sock.write(line)
    return sock
began = time.ticks_ms()
sock = connect(b"get {BULK_BYTES}\\n")
digest, buffer, got = hashlib.sha256(), bytearray(2048), 0
while True:
    n = sock.readinto(buffer)
    if not n:
        break
    digest.update(memoryview(buffer)[:n])
    got += n
sock.close()
down = time.ticks_diff(time.ticks_ms(), began)
print(got, digest.digest().hex(), down)
began = time.ticks_ms()
sock = connect(b"put {BULK_BYTES}\\n")
piece = bytes(1000)
for _ in range({BULK_BYTES} // 1000):
    sock.write(piece)
print(sock.read(64).decode(), time.ticks_diff(time.ticks_ms(), began))
sock.close()
"""
    with servers.bulk() as port:
        proxy.serve(9000, port)
        down, up = (line.split() for line in device.run(program, 100).splitlines())
    sent = (servers.PATTERN * (BULK_BYTES // len(servers.PATTERN) + 1))[:BULK_BYTES]
    assert down[:2] == [str(BULK_BYTES), hashlib.sha256(sent).hexdigest()]
    assert up[0] == hashlib.sha256(bytes(BULK_BYTES)).hexdigest()
    figure("to the board", BULK_BYTES * 8e-3 / float(down[2]), "Mbit/s")
    figure("from the board", BULK_BYTES * 8e-3 / float(up[1]), "Mbit/s")


@pytest.mark.long
def test_a_rekey_under_load(device: Board, proxy: Proxy, figure: Figure) -> None:
    """One connection over the end of a session (REKEY_AFTER_TIME, 120 s): every byte arrives, in its place."""
    program = f"""
import lopower, socket, time
def handshakes():
    return lopower.status()["counters"]["handshakes_completed"]
before = handshakes()
period = {len(servers.PATTERN)}
pattern = memoryview(bytes(range(period)) * 10)
sock = socket.socket()
sock.connect(({proxy.gateway!r}, 9000))
sock.write(b"get 10000000000\\n")
buffer, got = bytearray(1024), 0
view = memoryview(buffer)
end = time.ticks_add(time.ticks_ms(), 140_000)
while time.ticks_diff(end, time.ticks_ms()) > 0:
    n = sock.readinto(buffer)
    at = got % period
    assert n and view[:n] == pattern[at : at + n], got
    got += n
    time.sleep_ms(1)  # else it measures how fast this host is
sock.close()
print(got, handshakes() - before)
"""
    with servers.bulk() as port:
        proxy.serve(9000, port)
        got, handshakes = (int(word) for word in device.run(program, 300).split())
    figure("moved over a rekey", got / 1e6, "MB")
    assert handshakes >= 1


def test_a_web_server_on_the_board(board: Board, proxy: Proxy, tailnet_peer: TailnetPeer) -> None:
    """microdot, from PyPI; asked by a node of the tailnet, once the board is exposed."""
    microdot = Path(str(require_module("microdot").__file__)).parent
    board.join(proxy)
    board.install({"/microdot.py": (microdot / "microdot.py").read_text()})
    board.start(
        "import sys\nsys.path.insert(0, '/')\nfrom microdot import Microdot\napp = Microdot()\n"
        "@app.route('/')\nasync def index(request):\n    return 'from the board'\n"
        "print('serving')\napp.run(host='0.0.0.0', port=80)\n"
    )
    board.wait_for("serving")
    with pytest.raises(BenchError):
        tailnet_peer.get(f"http://{proxy.tailnet_name.rstrip('.')}/", 5)
    proxy.lopower("expose", board.device, "--port", "80")
    page = tailnet_peer.get(f"http://{proxy.tailnet_name.rstrip('.')}/")
    assert (page.status, page.body) == (200, "from the board")
