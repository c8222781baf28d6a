"""The file system that is flashed, mounted by the real MicroPython's VfsLfs2 from a flash full of something else."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from lopower_provisioning import filesystem, settings_file
from lopower_provisioning.partitions import Region
from lopower_provisioning.settings_file import Wifi
from tests.support.micropython import interpreter, renamed
from tests.support.requirements import require_module
from tests.unit.provisioning.test_settings_file import CONF

MOUNT = """
import os, sys, vfs

class Flash:  # what esp32.Partition is to VfsLfs2
    def __init__(self, path, offset, size):
        self.file, self.offset, self.count = open(path, "r+b"), offset, size // 4096
    def readblocks(self, block, buffer, offset=0):
        self.file.seek(self.offset + block * 4096 + offset)
        self.file.readinto(buffer)
    def writeblocks(self, block, buffer, offset=None):
        self.file.seek(self.offset + block * 4096 + (offset or 0))
        self.file.write(buffer)
        self.file.flush()
    def ioctl(self, operation, block):
        if operation == 4:
            return self.count
        if operation == 5:
            return 4096
        if operation == 6:
            self.file.seek(self.offset + block * 4096)
            self.file.write(b"\\xff" * 4096)
        return 0

flash = Flash({path!r}, {offset}, {size})
vfs.umount("/")
vfs.mount(flash, "/")  # finds out itself which file system it is, as at a board's start
os.chdir("/")
sys.path[:] = ["", ".frozen", "/lib"]
"""


def run(program: str, flash: Path, offset: int, size: int) -> str:
    """Run a program with `/` on a part of a flash; its output."""
    script = flash.with_suffix(".py")
    script.write_text(MOUNT.format(path=str(flash), offset=offset, size=size) + program)
    done = subprocess.run([*interpreter(), str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0x200000, 0x200000), (0x310000, 0xF0000), (0x170000, 0x90000), (0x4F0000, 0x310000)],
    ids=["4MB", "4MB-OTA", "2MB", "8MB-OTA"],
)
def test_mounted_and_used(tmp_path: Path, offset: int, size: int) -> None:
    """All files are there; boot.py finds its set whole and starts it; blocks that were not flashed can be written."""
    require_module("littlefs")
    wifi = [Wifi("Home", "correct horse")]
    settings = settings_file.from_conf(CONF, wifi=wifi, written=1_700_000_000, hostname="kitchen")
    user = {"main.py": b"print('main')\n", "lib/deep/module.py": b"VALUE = 7\n", "data.bin": bytes(range(256)) * 40}
    image = filesystem.build(size, architecture="x64", settings=settings, user=user)
    flash = tmp_path / "flash"
    content = bytearray(random.Random(3).randbytes(offset + size))
    content[offset : offset + len(image)] = image
    flash.write_bytes(content)
    inside = """
wanted = lopower._once("settings").load("/lopower.json")
assert wanted.wifi == [{"ssid": "Home", "password": "correct horse", "priority": 1}]
assert wanted.hostname == "kitchen" and wanted.written == 1_700_000_000 and len(wanted.proxies) == 1
"""
    program = """
import json
assert os.statvfs("/")[2] * 4096 == SIZE, os.statvfs("/")
assert open("data.bin", "rb").read() == bytes(range(256)) * 40
from deep.module import VALUE
boot = {"__name__": "boot"}
exec(open("boot.py").read(), boot)
assert boot["whole"]("/lopower_a") == 1
assert boot["choose"]("/") == "/lopower_a"
sys.path.insert(0, "/lopower_a")
import lopower
INSIDE
assert lopower.start(network=lambda: None)
print(lopower.status()["state"])
lopower.stop()
with open("new", "wb") as file:
    file.write(b"f" * 50_000)
assert open("new", "rb").read() == b"f" * 50_000
os.remove("new")
assert boot["whole"]("/lopower_a") == 1
print(sorted(os.listdir("/")))
""".replace("SIZE", str(size)).replace("INSIDE", renamed(inside))
    state, listing = run(program, flash, offset, size).strip().splitlines()
    assert state
    expected = {"boot.py", "data.bin", "lib", "lopower.json", "lopower_a", "main.py"}
    assert expected <= set(json.loads(listing.replace("'", '"')))
    assert flash.read_bytes()[:offset] == content[:offset]


def test_written_over_an_older_file_system(tmp_path: Path) -> None:
    """What has to be written is a small part; nothing that an older and busier file system left looks newer."""
    require_module("littlefs")
    offset, size = 0x200000, 0x200000
    flash = tmp_path / "flash"
    old = filesystem.littlefs({f"d{number}/old{number}.py": b"old" * 900 for number in range(30)}, size)
    content = bytearray(random.Random(5).randbytes(offset + size))
    content[offset : offset + len(old)] = old
    flash.write_bytes(content)
    busy = """
for turn in range(40):
    for name in ("lopower_a", "lib", "d0", "d1"):
        try:
            os.mkdir(name)
        except OSError:
            pass
        with open(name + "/f%d" % turn, "w") as file:
            file.write("stale" * 300)
"""
    run(busy, flash, offset, size)
    content = bytearray(flash.read_bytes())
    files = {f"lib/d{number}/new{number}.py": b"new" * 700 for number in range(30)}
    new = filesystem.littlefs(files, size)
    pieces = filesystem.pieces(new, Region(offset, size))
    assert sum(len(piece) for _, piece in pieces) < size // 3
    for start, piece in pieces:
        assert start % 4096 == len(piece) % 4096 == 0
        content[start : start + len(piece)] = piece
    flash.write_bytes(content)
    check = """
assert os.listdir("/") == ["lib"], os.listdir("/")
for number in range(30):
    assert os.listdir("lib/d%d" % number) == ["new%d.py" % number]
    with open("lib/d%d/new%d.py" % (number, number)) as file:
        assert file.read() == "new" * 700
for turn in range(20):
    with open("lib/more%d" % turn, "w") as file:
        file.write("more" * 2000)
print(len(os.listdir("lib")))
"""
    assert run(check, flash, offset, size).strip() == "50"
