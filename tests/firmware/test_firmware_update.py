"""The device's side of an update: power cuts at each write, a full flash, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from tests.firmware.test_firmware_flash import FLASH
from tests.firmware.test_firmware_tunnel import START
from tests.support.micropython import FIRMWARE, built, micropython, run_micropython, write_settings
from tests.support.proxy import running_proxy

UPDATE = """
flash = Flash(bytearray(4096 * BLOCKS))
vfs.umount("/flash")
vfs.VfsLfs2.mkfs(flash)
power_on()
names = {"__name__": "boot"}
exec(open(BOOT).read(), names)
choose, whole = names["choose"], names["whole"]

def write(path, content):
    with open(path, "wb") as file:
        file.write(content)

def digest(content):
    return "".join(["%02x" % byte for byte in hashlib.sha256(content).digest()])

os.mkdir(ROOT + "lopower_a")
os.mkdir(ROOT + "lopower_a/lopower")
os.mkdir(ROOT + "lopower_a/files")
write(ROOT + "lopower_a/files/main.py", b"print(1)")
for name in os.listdir(SET + "/lopower"):
    with open(SET + "/lopower/" + name, "rb") as file:
        write(ROOT + "lopower_a/lopower/" + name, file.read())
with open(SET + "/manifest.json") as file:
    write(ROOT + "lopower_a/manifest.json", file.read().encode())
sys.path.insert(0, ROOT + "lopower_a")
import lopower
from lopower.ring import Ring
from lopower.tcp import ESTABLISHED

class Restart(Exception):
    pass

class machine:
    @staticmethod
    def reset():
        raise Restart

sys.modules["machine"] = machine
visits = __import__("lopower.visit", None, None, ["x"])

class Connection:
    def __init__(self, data):
        self.data, self.state, self.peer_closed = data, ESTABLISHED, False
        self.received, self.outgoing, self.said = Ring(2000), Ring(0), b""
    def feed(self):
        part = self.data[: self.received.free]
        self.received.write(0, part, 0, len(part))
        self.received.length += len(part)
        self.data = self.data[len(part) :]
        self.peer_closed = not self.data
    def read(self, to, length, now):
        self.received.read(0, to, 0, length)
        self.received.drop(length)
        return length
    def write(self, data, offset, length, now):
        self.said += data[offset : offset + length]
        return length
    def close(self, now):
        pass

class Tunnel:
    trial = None

def line(**members):
    return json.dumps(members).encode() + b"\\n"

FILES = {"lopower/%s.mpy" % name: bytes([65 + at]) * 3000 for at, name in enumerate(("a", "b", "c"))}
FILES["lopower.json"] = b'{"wifi": []}'

def request(path, content):
    return line(do="file", path=path, size=len(content), sha256=digest(content)) + content

def visit(data):
    connection = Connection(data)
    made = visits.Visit(Tunnel(), connection, 0)
    now = 0
    try:
        while not made.watch(now):
            connection.feed()
            now += 1
            assert now < 100_000
    except Restart:
        connection.said += b"restart"
    return connection.said

BEGIN, KEEP, COMMIT = line(do="begin"), line(do="keep"), line(do="commit", package="2.0", arch="x64", limit=60)
WHOLE = BEGIN + b"".join([request(path, content) for path, content in FILES.items()]) + KEEP + COMMIT
A, B = ROOT + "lopower_a", ROOT + "lopower_b"
"""

CUTS = """
number, before, after = 0, 0, 0
while True:
    number += 1
    cut_in(number)
    try:
        said = visit(WHOLE)
        flash.cut = -1
        break
    except PowerCut:
        pass
    power_on()
    assert whole(A) == 1, number
    if whole(B) is None:
        before += 1
        assert choose(ROOT) == A
    else:  # the manifest has its name: the switch was made
        after += 1
        assert choose(ROOT) == B and whole(B) == 2, number
        for path, content in FILES.items():
            if path.startswith("lopower/"):
                assert open(B + "/" + path, "rb").read() == content
        assert open(B + "/files/main.py").read() == "print(1)"
        assert json.load(open(ROOT + "lopower.sets"))["limit"] == 60
        os.remove(ROOT + "lopower.sets")
assert said.endswith(b'{"set": 2}\\nrestart'), said
assert choose(ROOT) == B
assert json.load(open(B + "/manifest.json"))["package"] == "2.0"
print(before, after)
"""


def _run(program: str, directory: Path, blocks: int) -> str:
    paths = f"SET, BOOT, BLOCKS = {str(built('x64'))!r}, {str(FIRMWARE / 'boot.py')!r}, {blocks}\n"
    return run_micropython(FLASH + paths + UPDATE + program, directory, heap="8M", timeout=110)


def test_power_cuts_at_each_write(tmp_path: Path) -> None:
    """Whatever is cut, a complete set starts: the old one until the switch, the new one after it."""
    before, _ = map(int, _run(CUTS, tmp_path, 80).splitlines()[-1].split())
    assert before > 60


REFUSED = """
def refused(data, *words):
    said = visit(data)
    assert b"error" in said and all(word in said for word in words), said
    assert b"restart" not in said
    assert choose(ROOT) == A and whole(A) == 1 and whole(B) is None

good = request("lopower/a.mpy", b"x" * 100)
refused(BEGIN + good.replace(b"x" * 100, b"y" * 100), b"hash")
refused(BEGIN + good[:-50], b"ended early")
for path in ("../boot.py", "lopower/../../boot.py", "/boot.py", "lopower", "files/", "files//x", "lopower.sets",
             "boot.py", "files/" + "x" * 200, "files/" + "d/" * 10 + "x",
             'files/a"b', "files/\\x01", "lopower.jso\\u0144"):
    refused(BEGIN + request(path, b"x"), b"path")
for path in (None, 5, ["lopower/a.mpy"]):
    refused(BEGIN + line(do="file", path=path, size=1, sha256="") + b"x", b"not understood")
for size in (-1, "1", None, 1.5):
    refused(BEGIN + line(do="file", path="lopower/a.mpy", size=size, sha256=""), b"size")
for bad in (b"[]\\n", b"5\\n", b"{\\n",
            b'{"do": 5}\\n', b'{"do": "other"}\\n', b"\\xff\\xfe\\n", b"x" * 600 + b"\\n", b"x" * 3000):
    refused(bad, b"")
    refused(BEGIN + bad, b"")
refused(good, b"no update has begun")
refused(COMMIT, b"no update has begun")
for limit in (0, 1, -5, 1 << 40, "60", None):
    refused(BEGIN + good + line(do="commit", package="2", arch="x64", limit=limit), b"trial")
refused(BEGIN + line(do="commit", package="2" * 300, arch="x64", limit=60), b"version")
Tunnel.trial = 1
refused(WHOLE, b"on trial itself")
Tunnel.trial = None
class settings:
    remote_repl = False
Tunnel.settings = settings
refused(line(do="repl"), b"--remote-repl")
# A flash that is full: the old set runs, and it is said.
full = BEGIN + b"".join([request("files/%d" % n, bytes(30000)) for n in range(20)]) + COMMIT
refused(full, b"the flash is full")
# Who says nothing is sent away.
connection = Connection(b"")
idle = visits.Visit(Tunnel(), connection, 0)
assert not idle.watch(29_999)
assert idle.watch(30_000)
assert visit(WHOLE).endswith(b"restart")
print("done")
"""


def test_what_is_refused(tmp_path: Path) -> None:
    """Paths, sizes, hashes, lines and versions that are wrong, a full flash: words, and nothing is switched."""
    assert _run(REFUSED, tmp_path, 80).splitlines()[-1] == "done"


LISTEN = (
    START
    + """
import socket, os
server = socket.socket()
server.bind(("0.0.0.0", 7777))
server.listen(1)
while "stop" not in os.listdir("."):
    lopower.pump()
    time.sleep_ms(5)
print("done")
"""
)


async def test_the_gateway_alone_is_let_in(tmp_path: Path) -> None:
    """Another device, which policy lets talk to this one, finds the port closed; the gateway is answered."""
    async with running_proxy(tmp_path) as proxy:
        sensor = proxy.enrol("sensor")
        proxy.enrol("other", "allow device:sensor")
        write_settings(tmp_path, proxy.configuration("sensor"))
        program = asyncio.create_task(micropython(LISTEN, tmp_path))
        peer = next(peer for peer in proxy.runtime.interface.peers.values() if peer.context.device.name == "sensor")
        loop = asyncio.get_running_loop()
        while not peer.has_session(loop.time()):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.02)
        async with proxy.device("other") as other:
            await (await other.open_connection(str(sensor.ipv4), 7777)).close()
            with pytest.raises(ConnectionRefusedError):
                await other.open_connection(str(sensor.ipv4), 9909)
        answer = await _ask(await proxy.runtime.call(sensor, 9909), {"do": "facts"})
        assert answer["repl"] is False
        assert "MicroPython" in str(answer["image"])
        while (told := proxy.registry.get("sensor").firmware) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert told.image == answer["image"]
        (tmp_path / "stop").touch()
        assert (await program).strip() == "done"


async def _ask(stream: socket.socket, request: dict[str, object]) -> dict[str, object]:
    reader, writer = await asyncio.open_connection(sock=stream)
    writer.write(json.dumps(request).encode() + b"\n")
    answer: dict[str, object] = json.loads(await reader.readline())
    writer.close()
    return answer
