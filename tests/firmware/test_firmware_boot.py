"""boot.py from the first line on: a littlefs image as the board's flash, the package as built, a Wi-Fi, a proxy."""

from __future__ import annotations

from pathlib import Path

from tests.support.micropython import FIRMWARE, built, run_micropython

BOARD = """
import virtual
virtual.install()
import virtual_net
from virtual import board, Reset
from virtual_net import internet, WLAN
import io, json, os, vfs
from binascii import b2a_base64
from lopower.noise import public_key

DEVICE, OTHER = bytes(range(32)), bytes(range(1, 33))
internet.names["proxy.example"] = "192.0.2.1"
proxy = virtual_net.Proxy("192.0.2.1", OTHER, public_key(DEVICE))
WLAN.air["home"] = (None, True)

def text(key):
    return b2a_base64(key).decode().strip()

SETTINGS = json.dumps({
    "private_key": text(DEVICE), "written": 1_700_000_000, "timer": None, "sntp": False, "wifi": [{"ssid": "home"}],
    "proxies": [{
        "public_key": text(public_key(OTHER)), "addresses": ["10.0.0.2"], "endpoints": ["proxy.example:51820"],
        "allowed_ips": ["10.0.0.0/24"],
    }],
})
files = {}
for name in os.listdir(SET + "/lopower"):
    with open(SET + "/lopower/" + name, "rb") as file:
        files["lopower/" + name] = file.read()
with open(SET + "/manifest.json") as file:
    manifest = json.load(file)
with open(BOOT) as file:
    boot_source = file.read()

class Flash:
    def __init__(self, blocks):
        self.data = bytearray(4096 * blocks)
    def readblocks(self, block, buffer, offset=0):
        buffer[:] = self.data[block * 4096 + offset : block * 4096 + offset + len(buffer)]
    def writeblocks(self, block, buffer, offset=0):
        self.data[block * 4096 + offset : block * 4096 + offset + len(buffer)] = buffer
    def ioctl(self, request, argument):
        return len(self.data) // 4096 if request == 4 else 4096 if request == 5 else 0

flash = Flash(128)
vfs.VfsLfs2.mkfs(flash)
vfs.umount("/")
vfs.mount(vfs.VfsLfs2(flash), "/")
os.chdir("/")

def write(path, content):
    with open(path, "wb" if isinstance(content, bytes) else "w") as file:
        file.write(content)

def install(directory, version, changes={}):
    import hashlib
    os.mkdir(directory)
    os.mkdir(directory + "/lopower")
    told = {"version": version, "files": dict(manifest["files"])}
    for name, content in files.items():
        if name in changes:
            content = changes[name]
            told["files"][name] = "".join(["%02x" % byte for byte in hashlib.sha256(content).digest()])
        write(directory + "/" + name, content)
    write(directory + "/manifest.json", json.dumps(told))

said = []

def boot(cause=1):
    \"\"\"Power, boot.py, and the REPL; the module that it has started, or None. A reset on the way is an error.\"\"\"
    board.boot(cause)
    virtual_net.install(with_wifi=True)
    for path in sys.path[:]:
        if "lopower_" in path or path == SET:
            sys.path.remove(path)
    said.clear()
    exec(boot_source, {"__name__": "__main__", "print": lambda *words: said.append(" ".join(map(str, words)))})
    return sys.modules.get("lopower")

def runs(lopower, seconds):
    for _ in range(seconds * 10):
        board.pass_time(100)
        lopower.pump()

def directory(lopower):
    return lopower.__file__.split("/")[1]
"""

BAD = """
install("lopower_a", 1)
half = SETTINGS[: len(SETTINGS) // 2]
content = json.loads(SETTINGS)
content["private_key"] = "AAAA"
short_key = json.dumps(content)
content["private_key"] = ["a", 1]
list_key = json.dumps(content)
for bad in (None, "", "{", half, short_key, list_key, "[]", "5", "null", '"text"', "\\x00" * 100, "x" * 20000):
    try:
        os.remove("lopower.json")
    except OSError:
        pass
    if bad is not None:
        write("lopower.json", bad)
    for _ in range(5):  # starts: none ends in a reset, none gives up the set
        lopower = boot()
        assert directory(lopower) == "lopower_a"
        assert lopower.status()["cause"] == "settings", (bad, lopower.status())
        assert "/lopower.json" in lopower.status()["state"]
        lopower.pump()
        assert not lopower.wait(0)
write("lopower.json", SETTINGS)
lopower = boot()
runs(lopower, 20)
assert lopower.status()["state"] == "up", lopower.status()
print("done")
"""


def test_bad_settings_at_boot(tmp_path: Path) -> None:
    """Words, and the REPL: no reset, and no set given up, however often it starts; then right ones."""
    assert _run(BAD, tmp_path).splitlines()[-1] == "done"


TRIAL = """
write("lopower.json", SETTINGS)
install("lopower_a", 1)
lopower = boot()
runs(lopower, 20)
assert lopower.status()["state"] == "up"

# An update whose handshakes are not answered: two minutes, of Wi-Fi or not, then back to the old set, for good.
install("lopower_b", 2)
proxy.answers = False
lopower = boot()
assert directory(lopower) == "lopower_b"
del WLAN.air["home"]  # as if the update had other networks
runs(lopower, 60)
WLAN.air["home"] = (None, True)
waited = 60
try:
    while True:
        runs(lopower, 1)
        waited += 1
        assert waited < 300
except Reset:
    pass
assert 119 <= waited <= 150, waited
proxy.answers = True
for _ in range(4):
    lopower = boot(2)
    assert directory(lopower) == "lopower_a"
runs(lopower, 20)
assert lopower.status()["state"] == "up", lopower.status()

# The next one works: confirmed by its handshake, it stays even when the proxy is away for long.
def remove(path):
    for name in os.listdir(path):
        try:
            os.remove(path + "/" + name)
        except OSError:
            remove(path + "/" + name)
    os.rmdir(path)

remove("lopower_b")
install("lopower_b", 3)
try:
    lopower.deepsleep(1000)
except Reset:
    pass
board.pass_time(1000)
assert board.rtc_length > 0
lopower = boot(4)  # a wake: but the session of the old set must not confirm the new one
assert not lopower.status()["counters"] and board.rtc_length == 0
assert directory(lopower) == "lopower_b"
runs(lopower, 20)
assert lopower.status()["state"] == "up", lopower.status()
assert lopower.status()["counters"]["handshakes_completed"] == 1
proxy.answers = False
for _ in range(5):
    lopower = boot()
    assert directory(lopower) == "lopower_b"
runs(lopower, 400)
proxy.answers = True

# One that does not import, one whose start raises: the other runs in the same boot; if neither does, words.
for broken in ("__init__", "tunnel"):
    remove("lopower_a")
    install("lopower_a", 4, {"lopower/%s.mpy" % broken: b"of another version"})
    lopower = boot()
    assert directory(lopower) == "lopower_b", said
remove("lopower_b")
assert boot() is None
assert "does not start" in said[0], said
remove("lopower_a")
assert boot() is None
assert "no complete set" in said[0], said
print("done")
"""


def test_an_update_on_trial(tmp_path: Path) -> None:
    """Back by itself after 120 s of Wi-Fi without a handshake; confirmed by one; never without words."""
    assert _run(TRIAL, tmp_path).splitlines()[-1] == "done"


def _run(program: str, directory: Path) -> str:
    paths = f"SET, BOOT = {str(built('x64'))!r}, {str(FIRMWARE / 'boot.py')!r}\n"
    return run_micropython(paths + BOARD + program, directory, heap="32M", timeout=60)
