"""Power cuts on the real littlefs of MicroPython: updates, the choice of a set, the counter of the time stamps."""

from __future__ import annotations

from pathlib import Path

from tests.support.micropython import FIRMWARE, run_micropython

FLASH = """
import hashlib, json, os, sys, vfs

class PowerCut(BaseException):
    pass

class Flash:
    \"\"\"RAM as a block device of an ESP32's flash. In the write number `cut` power fails, after half of it.\"\"\"

    SIZE = 4096

    def __init__(self, data):
        self.data = data
        self.writes, self.cut = 0, -1
        self.is_gone = False  # files that were open when power failed are closed by the collector: of no effect

    def readblocks(self, block, buffer, offset=0):
        if self.is_gone:
            return -5
        at = block * self.SIZE + offset
        buffer[:] = self.data[at : at + len(buffer)]
        return 0

    def writeblocks(self, block, buffer, offset=None):
        if self.is_gone:
            return -5
        if offset is None:
            self.ioctl(6, block)
            offset = 0
        self._count()
        at = block * self.SIZE + offset
        length = len(buffer)
        if self.writes == self.cut:
            self.data[at : at + length // 2] = buffer[: length // 2]
            raise PowerCut
        self.data[at : at + length] = buffer
        return 0

    def _count(self):
        self.writes += 1
        if 0 <= self.cut < self.writes:
            raise PowerCut  # a driver that goes on after the cut writes nothing

    def ioctl(self, request, argument):
        if request == 4:
            return len(self.data) // self.SIZE
        if request == 5:
            return self.SIZE
        if self.is_gone:
            return -5
        if request == 6:
            self._count()
            at = argument * self.SIZE
            half = self.SIZE // 2 if self.writes == self.cut else self.SIZE
            self.data[at : at + half] = b"\\xff" * half
            if self.writes == self.cut:
                raise PowerCut
            return 0
        return 0

flash = Flash(bytearray(4096 * 24))
vfs.VfsLfs2.mkfs(flash)
MOUNT = "/flash"
ROOT = "/flash/"

def power_on():
    global flash
    flash.is_gone = True
    try:
        vfs.umount(MOUNT)
    except OSError:
        pass
    flash = Flash(flash.data)
    vfs.mount(vfs.VfsLfs2(flash), MOUNT)

def cut_in(number):
    flash.cut = flash.writes + number

power_on()
"""

UPDATE = """
names = {"__name__": "boot"}
exec(open(BOOT).read(), names)
choose, whole = names["choose"], names["whole"]

def digest(content):
    return "".join(["%02x" % byte for byte in hashlib.sha256(content).digest()])

def write(path, content):
    with open(path, "wb") as file:
        for at in range(0, len(content), 500):
            file.write(content[at : at + 500])

def install(directory, version):
    \"\"\"An update in the order that boot.py asks for.\"\"\"
    for path in (directory, directory + "/lopower"):
        try:
            os.mkdir(path)
        except OSError:
            pass
    try:
        os.remove(directory + "/manifest.json")
    except OSError:
        pass
    files = {"lopower/%s.mpy" % name: bytes([version]) * 3000 for name in ("a", "b")}
    for name, content in files.items():
        write(directory + "/" + name, content)
    manifest = {"version": version, "files": {name: digest(content) for name, content in files.items()}}
    write(directory + "/manifest.json", json.dumps(manifest).encode())

install(ROOT + "lopower_a", 1)
version, cuts = 1, 0
while version < 5:
    # Sets take turns; the other one always stays whole. Then the start, which counts the trial, is cut too.
    version += 1
    target, other = ROOT + "lopower_" + "ab"[(version - 1) % 2], ROOT + "lopower_" + "ab"[version % 2]
    number = 0
    while True:
        number += 1
        cut_in(number)
        try:
            install(target, version)
            flash.cut = -1
            break
        except PowerCut:
            cuts += 1
        power_on()
        assert whole(other) == version - 1, (version, number)
        # A newer manifest that is complete may stand already although the cut came before the file was closed
        assert choose(ROOT) in (other, target) and whole(choose(ROOT)) in (version - 1, version)
        if whole(target) is None:
            assert choose(ROOT) == other
        if "lopower.sets" in os.listdir(ROOT):
            os.remove(ROOT + "lopower.sets")
    assert choose(ROOT) == target
    os.remove(ROOT + "lopower.sets")
    # The count of starts: cut at each write of it, the new set is not tried for ever.
    starts = 0
    for number in range(1, 60):
        cut_in(number)
        try:
            starts += choose(ROOT) == target
            flash.cut = -1
        except PowerCut:
            pass
        power_on()
        assert choose(ROOT) in (target, other)
        if choose(ROOT) == other:
            break
    else:
        assert False, "tried for ever"
    assert starts <= 3
    # Its handshake confirms it, also in the midst of cuts; from then on it stays.
    os.remove(ROOT + "lopower.sets")
    import lopower
    trial = __import__("lopower.trial", None, None, ["x"])
    number = 0
    while True:
        number += 1
        power_on()
        chosen = choose(ROOT)
        watched = trial.pending(ROOT, lambda: None)
        if watched is None or chosen != target:
            break
        cut_in(number)
        try:
            watched.watch(0, True)
            flash.cut = -1
        except PowerCut:
            power_on()
            if number % 3 == 0:
                os.remove(ROOT + "lopower.sets")  # tries of its own for the next cut
    power_on()
    assert choose(ROOT) == target or json.load(open(ROOT + "lopower.sets"))["tries"] > 3
    names["save"](ROOT, {"confirmed": version, "rejected": 0, "trial": 0, "tries": 0})
    assert choose(ROOT) == target
print(cuts)
"""


def test_updates(tmp_path: Path) -> None:
    """Cut in each write and each erasure of an update and of the file that counts trials: a whole set every time."""
    program = FLASH + f"BOOT = {str(FIRMWARE / 'boot.py')!r}\n" + UPDATE
    cuts = int(run_micropython(program, tmp_path, heap="4M", timeout=100).splitlines()[-1])
    assert cuts > 40


STAMPS = """
import lopower
stamps = __import__("lopower.stamps", None, None, ["x"])
greatest, given, cuts = b"", 0, 0

def start():
    \"\"\"A start: some stamps, each greater than all before.\"\"\"
    global greatest, given
    state = stamps.begin(ROOT + "count", 1_700_000_000)
    for i in range(3):
        state.reserved = state.reserved if i else 0
        if i == 2:
            state.last = state.reserved - 1  # a reserve ends
        stamp = stamps.stamp(state, lambda: None)
        assert stamp is not None and stamp > greatest
        greatest = stamp
        given += 1

start()
for number in [1, 2, 3] * 150:  # littlefs erases, relocates and compacts on the way
    cut_in(number)
    try:
        start()
        flash.cut = -1
    except PowerCut:
        cuts += 1
    power_on()
    start()
print(cuts, given)
"""


def test_the_stamp_counter(tmp_path: Path) -> None:
    """Cut in each write and each erasure: the next start's stamps are greater than all that were given out."""
    cuts, given = map(int, run_micropython(FLASH + STAMPS, tmp_path, heap="4M", timeout=100).splitlines()[-1].split())
    assert cuts > 100
    assert given > 1000


FULL = """
import lopower
stamps = __import__("lopower.stamps", None, None, ["x"])
state = stamps.begin(ROOT + "count", 1_700_000_000)
greatest = stamps.stamp(state, lambda: None)

def fill():
    number = 0
    size = 4000
    while size:
        try:
            with open(ROOT + "fill%d" % number, "wb") as file:
                file.write(bytes(size))
            number += 1
        except OSError:
            size //= 4

fill()
refused = 0
for _ in range(5):  # starts, with a flash that is full
    state = stamps.begin(ROOT + "count", 1_700_000_000)
    for _ in range(3):
        stamp = stamps.stamp(state, lambda: None)
        if stamp is None:
            refused += 1
            assert state.error.errno in (28, 36), state.error  # littlefs says 36 where no entry fits
        else:
            assert stamp > greatest
            greatest = stamp
        state.last = max(state.last, state.reserved - 1)
    power_on()
for name in os.listdir(ROOT):
    if name.startswith("fill"):
        os.remove(ROOT + name)
state = stamps.begin(ROOT + "count", 1_700_000_000)
stamp = stamps.stamp(state, lambda: None)
assert stamp > greatest, (stamp, greatest)
print(refused)
"""


def test_a_full_flash(tmp_path: Path) -> None:
    """On the real file system: a stamp is newer than all before, or there is none; with room again it goes on."""
    assert int(run_micropython(FLASH + FULL, tmp_path, heap="4M", timeout=100).splitlines()[-1]) > 0
