"""The program that updates a board at its serial port, on the real littlefs: power cuts at each write, in any order."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lopower_provisioning import on_board
from tests.firmware.test_firmware_flash import FLASH
from tests.support.micropython import FIRMWARE, built, run_micropython

CUTS = """
from binascii import b2a_base64
flash = Flash(bytearray(4096 * 100))
vfs.umount("/flash")
vfs.VfsLfs2.mkfs(flash)
vfs.umount("/")
MOUNT = "/"

def write(path, content):
    with open(path, "wb") as file:
        file.write(content)

def digest(content):
    return "".join(["%02x" % byte for byte in hashlib.sha256(content).digest()])

power_on()
write("/boot.py", BOOT_SOURCE)
write("/lopower.json", json.dumps({"private_key": b2a_base64(bytes(32)).decode().strip()}).encode())
os.mkdir("/lopower_a")
os.mkdir("/lopower_a/lopower")
os.mkdir("/lopower_a/files")
write("/lopower_a/files/main.py", b"print(1)")
for name, content in PACKAGE.items():
    write("/lopower_a/lopower/" + name, content)
write("/lopower_a/manifest.json", MANIFEST)
names = {"__name__": "boot"}
exec(BOOT_SOURCE, names)
whole, choose = names["whole"], names["choose"]
program = {"print": lambda text: said.append(text)}
exec(PROGRAM, program)
said = []

NEW = {"lopower/new.mpy": b"n" * 3000, "lopower/ring.mpy": PACKAGE["ring.mpy"], "lopower.json": b'{"wifi": []}'}

def answer(*words):
    said.clear()
    program["answer"](*words)
    assert len(said) == 1 and said[0].startswith("lopower-update "), said
    found = json.loads(said[0][15:])
    assert "ok" in found, found
    return found["ok"]

def update():
    answer("start")
    answer("begin")
    copied = []
    for path, content in NEW.items():
        if answer("has", path, digest(content)):
            copied.append(path)
            continue
        answer("file", path)
        for at in range(0, len(content), 768):
            answer("add", b2a_base64(content[at : at + 768]).decode())
        answer("end", path, digest(content))
    answer("keep")
    return copied, answer("commit", "2.0", "x64", 60)

number, before, after = 0, 0, 0
while True:
    number += 1
    cut_in(number)
    try:
        copied, version = update()
        flash.cut = -1
        break
    except PowerCut:
        pass
    power_on()
    assert whole("/lopower_a") == 1, number
    if whole("/lopower_b") is None:
        before += 1
        assert choose() == "/lopower_a"
    else:
        after += 1
        assert choose() == "/lopower_b" and whole("/lopower_b") == 2, number
        os.remove("/lopower.sets")
assert (copied, version) == (["lopower/ring.mpy"], 2)
assert choose() == "/lopower_b"
for path, content in NEW.items():
    with open("/lopower_b/" + path, "rb") as file:
        found = file.read()
    assert found == content or path == "lopower.json" and json.loads(found) == {"wifi": []}, path
assert open("/lopower_b/files/main.py").read() == "print(1)"
assert json.load(open("/lopower.sets"))["limit"] == 60
# What comes otherwise than it was sent is not taken.
answer("start")
answer("begin")
answer("file", "lopower/x.mpy")
answer("add", b2a_base64(b"x" * 100).decode())
said.clear()
program["answer"]("end", "lopower/x.mpy", digest(b"y"))
assert "is not in flash as it came" in said[0], said
print(before, after)
"""


def test_power_cuts_at_each_write(tmp_path: Path) -> None:
    """The old set is whole whatever is cut, and starts until the new one is."""
    package = {name: (built("x64") / "lopower" / name).read_bytes() for name in ("ring.mpy", "udp.mpy")}
    hashes = {f"lopower/{name}": hashlib.sha256(content).hexdigest() for name, content in package.items()}
    given = {
        "PACKAGE": package,
        "MANIFEST": json.dumps({"version": 1, "files": hashes}).encode(),
        "BOOT_SOURCE": (FIRMWARE / "boot.py").read_bytes(),
        "PROGRAM": on_board.source("update"),
    }
    names = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    printed = run_micropython(FLASH + names + CUTS, tmp_path, heap="16M", timeout=110)
    before, _ = map(int, printed.splitlines()[-1].split())
    assert before > 20
