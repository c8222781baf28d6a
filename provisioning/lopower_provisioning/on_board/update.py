"""What a board is sent, and runs in its raw REPL, to be updated there (lopower_provisioning.serial_update).

MicroPython. It needs hardly more of lopower than boot.py, so that it works with any version. The set of files that runs
stays as it is: the other one is removed, written anew, and counts once its manifest has its name, at the very end.
"""

import hashlib
import json
import os
import sys
from binascii import a2b_base64, b2a_base64

SETS = ("lopower_a", "lopower_b")
MAX_PATH, MAX_DEPTH = 120, 6
MARK = "lopower-update "
WATCHDOG = 60_000
"""Milliseconds without a word from the host, whose cable may be gone, after which the board starts anew."""


class Refused(Exception):
    pass


class Update:
    def __init__(self):
        boot = {"__name__": "boot"}
        try:
            os.chdir("/")
            execfile("/boot.py", boot)
            found = [(boot["whole"]("/" + name) or 0, name) for name in SETS]
            with open("/lopower.json") as file:
                self._key = a2b_base64(json.load(file)["private_key"])
        except (OSError, KeyError, ValueError, TypeError):
            raise Refused("no device of lopower's")
        self.state = boot["load"]("/")
        found = [pair for pair in found if pair[0]]
        if not found:
            raise Refused("no complete set of files")
        lopower = sys.modules.get("lopower")
        running = getattr(lopower, "__file__", "").split("/")
        version, name = max([pair for pair in found if pair[0] != self.state["rejected"]] or found)
        if len(running) > 1:
            version, name = ([pair for pair in found if pair[1] == running[1]] or [(version, name)])[0]
        self.version, self._running, self._target = version, "/" + name, "/" + SETS[name == SETS[0]]
        if hasattr(lopower, "stop"):
            lopower.stop()  # or the gateway could begin an update as well
        if "/" + name not in sys.path:
            sys.path.insert(0, "/" + name)
        try:
            import machine

            self._dog = machine.WDT(timeout=WATCHDOG)
        except (ImportError, AttributeError, ValueError):
            self._dog = None  # a port without
        self._file = None

    def _feed(self):
        if self._dog is not None:
            self._dog.feed()

    def facts(self):
        from lopower.noise import public_key

        with open(self._running + "/manifest.json") as file:
            manifest = json.load(file)
        state, space = self.state, os.statvfs("/")
        return {
            "name": self._settings("hostname"), "public_key": b2a_base64(public_key(self._key)).decode().strip(),
            "set": self.version, "package": manifest.get("package", ""), "arch": manifest.get("arch", ""),
            "image": sys.version.partition("; ")[2] + "; " + getattr(sys.implementation, "_machine", ""),
            "trial": self.version == state["trial"] and self.version not in (state["confirmed"], state["rejected"]),
            "free": space[0] * space[3] + self._size(self._target), "block": space[0],
        }  # fmt: skip

    def _settings(self, name):
        with open("/lopower.json") as file:
            return json.load(file).get(name)

    def _size(self, path):
        """Bytes that come free when it is removed."""
        try:
            mode, size = os.stat(path)[0], os.stat(path)[6]
            if mode & 0x4000:
                return sum([self._size(path + "/" + name) for name in os.listdir(path)])
            return size
        except OSError:
            return 0

    def begin(self):
        try:
            os.remove(self._target + "/manifest.json")
        except OSError:
            pass  # it was not whole
        self._remove(self._target)
        os.mkdir(self._target)
        self._digests = 0
        self._append('{"files": {')

    def _remove(self, path):
        self._feed()
        try:
            names = os.listdir(path)
        except OSError:
            return
        for name in names:
            inner = path + "/" + name
            if os.stat(inner)[0] & 0x4000:
                self._remove(inner)
            else:
                os.remove(inner)
        os.rmdir(path)

    def has(self, path, digest):
        """Copy a file that the running set has just so; whether it has it."""
        self._open(path)
        try:
            if self._hash(self._running + "/" + path) != digest:
                return False
            self._copy("/" + path, 0)
        except OSError:
            return False
        self._written(path, digest)
        return True

    def file(self, path):
        """What `add` is to write to."""
        self._open(path)
        self._file = open(self._target + "/" + path, "wb")

    def add(self, piece):
        self._feed()
        self._file.write(a2b_base64(piece))

    def end(self, path, digest):
        self._file.close()
        self._written(path, digest)

    def _open(self, path):
        parts = path.split("/")
        if len(path) > MAX_PATH or len(parts) > MAX_DEPTH:
            raise Refused("a path that is too long: " + path[:MAX_PATH])
        for n in range(1, len(parts)):
            try:
                os.mkdir(self._target + "/" + "/".join(parts[:n]))
            except OSError:
                pass  # it is there; what is not a directory is found when the file is opened

    def _written(self, path, digest):
        target = self._target + "/" + path
        if self._hash(target) != digest:
            raise Refused("%s is not in flash as it came" % path)
        if path == "lopower.json":  # the running set's settings, as far as the new ones do not say otherwise
            try:
                with open(self._running + "/" + path) as file:
                    content = json.load(file)
            except OSError:
                content = {}
            with open(target) as file:
                content.update(json.load(file))
            with open(target, "w") as file:
                json.dump(content, file)
            digest = self._hash(target)
        if not path.startswith("files/"):  # those are the program's, which may change them
            self._append('%s"%s": "%s"' % (", " if self._digests else "", path, digest))
            self._digests += 1

    def keep(self):
        self._copy("/files", 0)

    def _copy(self, path, depth):
        """A file or directory of the running set into the new one."""
        self._feed()
        old, new = self._running + path, self._target + path
        try:
            mode = os.stat(old)[0]
        except OSError:
            return
        if depth > MAX_DEPTH:
            raise Refused(old + " lies too deep")
        if mode & 0x4000:
            try:
                os.mkdir(new)
            except OSError:
                pass
            for name in os.listdir(old):
                self._copy(path + "/" + name, depth + 1)
            return
        with open(old, "rb") as source, open(new, "wb") as file:
            while True:
                block = source.read(512)
                if not block:
                    break
                file.write(block)

    def commit(self, package, arch, limit):
        """The switch; the number of the set."""
        state = self.state
        version = max(self.version, state["confirmed"], state["rejected"], state["trial"]) + 1
        state["limit"], state["trial"], state["tries"] = limit, 0, 0
        state.pop("reason", None)
        with open("/lopower.sets.new", "w") as file:
            json.dump(state, file)
        os.rename("/lopower.sets.new", "/lopower.sets")
        self._append('}, "version": %d, "package": %s, "arch": %s}' % (version, json.dumps(package), json.dumps(arch)))
        try:
            __import__("lopower").log("update: set %d, %s, over the serial port" % (version, package))
        except (AttributeError, MemoryError, OSError):
            pass
        os.rename(self._target + "/manifest.new", self._target + "/manifest.json")
        return version

    def _append(self, text):
        with open(self._target + "/manifest.new", "a") as file:
            file.write(text)

    def _hash(self, path):
        self._feed()
        state, block = hashlib.sha256(), bytearray(512)
        with open(path, "rb") as file:
            while True:
                n = file.readinto(block)
                if not n:
                    return "".join(["%02x" % byte for byte in state.digest()])
                state.update(memoryview(block)[:n])


def answer(what, *arguments):
    """Print what a method of the one update has to say, in words if it cannot be done."""
    global update
    try:
        if what == "start":
            update = Update()
            said = {"ok": True}
        else:
            said = {"ok": getattr(update, what)(*arguments)}
    except Refused as error:
        said = {"error": str(error)}
    except OSError as error:
        full = error.errno in (28, 36)  # ENOSPC; littlefs says 36 where no entry fits
        said = {"error": "the flash is full" if full else "the flash: %s" % error}
    except MemoryError:
        said = {"error": "no memory is left for this"}
    print(MARK + json.dumps(said))
