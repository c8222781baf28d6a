"""What the gateway asks of a board through the tunnel: questions, updates, the log, a console (docs/updates.md).

Each request is a line of JSON, and so is each answer. An update goes into the other set of files than the one that runs;
nothing that the running one needs is touched, and it counts once its manifest has its name, at the very end.
"""

import hashlib
import json
import os

from . import _once, ticks
from .tcp import CLOSED
from .tunnel import clock

MAX_LINE = 512
BLOCK = 1024
MAX_PATH = 120
MAX_DEPTH = 6
IDLE = 30_000
"""Milliseconds after which a visitor who says nothing is sent away: there is one place."""
RESTART_AFTER = 1_000
TURN = 10
"""Milliseconds of a turn within which another step is begun."""
SETS = ("lopower_a", "lopower_b")


class Refused(Exception):
    """A text for whoever asked."""


class Visit:
    """One connection. The tunnel's lock is held whenever it does something."""

    def __init__(self, tunnel, connection, now):
        self._tunnel, self._connection = tunnel, connection
        self._now = self._latest = now
        self._buffer = bytearray(BLOCK)
        self._trial = _once("trial")
        self._root, self._running = self._trial.directory()
        self._target = None
        self._is_first = True
        self._job = self._serve()
        self._console = None
        self._restart_at = None

    def watch(self, now):
        """Called each turn: a step of the work; true once it is done."""
        self._now = now
        connection = self._connection
        if self._restart_at is not None:
            if connection.state == CLOSED or not connection.outgoing.length or ticks.diff(now, self._restart_at) >= 0:
                from machine import reset

                reset()
            return False
        if self._console is not None:
            if connection.state != CLOSED and self._console.watch():
                return False
            self._console.close()
        else:
            try:
                if connection.state != CLOSED and ticks.diff(now, self._latest) < IDLE:
                    while not next(self._job) and ticks.diff(clock(), now) < TURN:
                        pass
                    return False
            except StopIteration:
                if self._restart_at is not None:
                    return False
            except Refused as error:
                self._refuse(str(error))
            except OSError as error:
                full = error.errno in (28, 36)  # ENOSPC; littlefs says 36 where no entry fits
                self._refuse("the flash is full" if full else "the flash: %s" % error)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self._refuse("not understood: %s" % error)
            except MemoryError:
                self._refuse("no memory is left for this")
        self._job.close()
        connection.received.drop(connection.received.length)  # an RST for it would take the answer along
        connection.close(now)
        return True

    def _refuse(self, text):
        line = json.dumps({"error": text}).encode() + b"\n"
        self._connection.write(line, 0, len(line), self._now)

    def _serve(self):
        """All requests; what yields True waits for the other end, what yields None has more to do."""
        while True:
            request = yield from self._request()
            if request is None:
                return
            kind = request["do"]
            if kind == "facts":
                yield from self._answer(_once("announce").facts(self._tunnel))
            elif kind == "log":
                yield from self._log()
            elif kind == "repl":
                yield from self._open_console()
            elif kind == "begin":
                yield from self._begin(request)
            elif self._target is None:
                raise Refused("no update has begun")
            elif kind == "file":
                yield from self._file(request)
            elif kind == "keep":
                yield from self._copy("/files", 0)
                yield from self._answer({"kept": True})
            elif kind == "commit":
                yield from self._commit(request)
                return
            else:
                raise Refused("no such request")

    # --- lines

    def _request(self):
        """The next request; None at the end."""
        received = self._connection.received
        while True:
            at = received.find(10)
            if at > MAX_LINE or (at < 0 and received.length > MAX_LINE):
                raise Refused("a line is too long")
            if at >= 0:
                break
            if self._connection.peer_closed:
                return None
            yield True
        view = memoryview(self._buffer)[: at + 1]
        self._read(view)
        return json.loads(bytes(view[:at]))

    def _read(self, to):
        self._latest = self._now
        self._connection.read(to, len(to), self._now)

    def _answer(self, content):
        yield from self._write(json.dumps(content).encode() + b"\n")

    def _write(self, data):
        sent = 0
        while True:
            sent += self._connection.write(data, sent, len(data) - sent, self._now)
            if sent == len(data):
                self._latest = self._now
                return
            yield True

    # --- the log and the console

    def _log(self):
        for path in _once("journal").files():
            try:
                file = open(path, "rb")
            except OSError:
                continue
            last = 10
            try:
                while True:
                    n = file.readinto(self._buffer)
                    if not n:
                        break
                    last = self._buffer[n - 1]
                    yield from self._write(bytes(memoryview(self._buffer)[:n]))
            finally:
                file.close()
            if last != 10:  # a file system that is no littlefs may keep a part of a line
                yield from self._write(b"\n")
        yield from self._answer({"end": True})

    def _open_console(self):
        if not self._tunnel.settings.remote_repl:
            raise Refused("this board was not flashed with --remote-repl")
        if not hasattr(os, "dupterm"):
            raise Refused("this port's console cannot be led elsewhere")
        console = _once("console").Console(self._tunnel, self._connection)
        yield from self._answer({"repl": True})
        console.open()
        self._console = console
        yield

    # --- an update

    def _begin(self, request):
        """Make room: the set that does not run goes, its manifest first."""
        if self._running not in SETS:
            raise Refused("lopower is not installed in two sets of files here")
        if self._tunnel.trial is not None:
            raise Refused("the set of files that runs is on trial itself")
        try:
            from machine import reset  # noqa: F401
        except ImportError:
            raise Refused("this port cannot restart") from None
        target = self._root + SETS[self._running == SETS[0]]
        try:
            os.remove(target + "/manifest.json")
        except OSError:
            pass  # it was not whole
        yield from self._remove(target, 0)
        os.mkdir(target)
        self._target = target
        self._is_first = True
        self._append('{"files": {')
        space = os.statvfs(self._root)
        yield from self._answer({"free": space[0] * space[3], "block": space[0]})

    def _append(self, text):
        with open(self._target + "/manifest.new", "a") as file:
            file.write(text)

    def _remove(self, path, depth):
        """A directory and all that is in it, one entry at a turn."""
        try:
            names = os.listdir(path)
        except OSError:
            return
        if depth > MAX_DEPTH:
            raise Refused(path + " lies too deep")
        for name in names:
            inner = path + "/" + name
            if os.stat(inner)[0] & 0x4000:
                yield from self._remove(inner, depth + 1)
            else:
                os.remove(inner)
            self._latest = self._now
            yield
        os.rmdir(path)

    def _make_directories(self, path):
        parts = path.split("/")[:-1]
        made = self._target
        for part in parts:
            made += "/" + part
            try:
                os.mkdir(made)
            except OSError:
                pass  # it is there; what is not a directory is found when the file is opened

    def _file(self, request):
        """One file: taken in, written, read again."""
        path, size, digest = request["path"], request["size"], request["sha256"]
        parts = path.split("/")
        if (
            len(path) > MAX_PATH
            or "\\" in path
            or any(part in ("", ".", "..") for part in parts)
            or len(parts) > MAX_DEPTH
            or not (parts[0] in ("lopower", "files") and len(parts) > 1 or path == "lopower.json")
            or not all(32 <= ord(letter) != 127 and letter != '"' for letter in path)
        ):
            raise Refused("not a path for a file: " + path[:MAX_PATH])
        if not isinstance(size, int) or size < 0:
            raise Refused("not a size")
        self._make_directories(path)
        target, left, block = self._target + "/" + path, size, memoryview(self._buffer)
        received = self._connection.received
        state = hashlib.sha256()
        file = open(target, "wb")
        try:
            while left:
                n = min(left, received.length, BLOCK)
                if n:
                    self._read(block[:n])
                    state.update(block[:n])
                    file.write(block[:n])
                    left -= n
                elif self._connection.peer_closed:
                    raise Refused("the file %s ended early" % path)
                yield not n
        finally:
            file.close()
        if _hexadecimal(state) != digest:
            raise Refused("the hash of %s is wrong" % path)
        state = yield from self._hash(target)
        if state != digest:
            raise Refused("%s is not in flash as it came" % path)
        if path == "lopower.json":
            digest = yield from self._merge(path)
        if parts[0] != "files":  # those are the program's, which may change them
            self._append('%s"%s": "%s"' % ("" if self._is_first else ", ", path, digest))
            self._is_first = False
        yield from self._answer({"path": path})

    def _merge(self, path):
        """The settings of the set that runs, as far as the new ones do not say otherwise; the hash of what came of it."""
        try:
            with open(self._root + self._running + "/" + path) as file:
                content = json.load(file)
        except OSError:
            content = {}
        target = self._target + "/" + path
        with open(target) as file:
            content.update(json.load(file))
        with open(target, "w") as file:
            json.dump(content, file)
        content = None
        return (yield from self._hash(target))

    def _hash(self, path):
        state, block = hashlib.sha256(), memoryview(self._buffer)
        with open(path, "rb") as file:
            while True:
                n = file.readinto(self._buffer)
                if not n:
                    return _hexadecimal(state)
                state.update(block[:n])
                self._latest = self._now
                yield

    def _copy(self, path, depth):
        """A file or directory of the running set into the new one."""
        old, new = self._root + self._running + path, self._target + path
        try:
            mode = os.stat(old)[0]
        except OSError:
            return
        if depth > MAX_DEPTH:
            raise Refused(old + " lies too deep")
        self._latest = self._now
        if mode & 0x4000:
            try:
                os.mkdir(new)
            except OSError:
                pass
            for name in os.listdir(old):
                yield from self._copy(path + "/" + name, depth + 1)
            return
        with open(old, "rb") as source:
            with open(new, "wb") as file:
                while True:
                    n = source.readinto(self._buffer)
                    if not n:
                        break
                    file.write(memoryview(self._buffer)[:n])
                    self._latest = self._now
                    yield

    def _commit(self, request):
        """The new set has a manifest from here on, and the board starts anew, with it on trial."""
        package, arch, limit = request["package"], request["arch"], request["limit"]
        if not (isinstance(package, str) and isinstance(arch, str) and len(package) + len(arch) < 200):
            raise Refused("not a version")
        if not self._trial.is_limit(limit):
            raise Refused("a trial does not last for %s s" % limit)
        state = self._trial.read_state(self._root)
        with open(self._root + self._running + "/manifest.json") as file:
            version = json.load(file)["version"]
        version = max(version, state["confirmed"], state["rejected"], state["trial"]) + 1
        state["limit"], state["trial"], state["tries"] = limit, 0, 0
        state.pop("reason", None)
        self._trial.write_state(self._root, state)
        self._append('}, "version": %d, "package": %s, "arch": %s}' % (version, json.dumps(package), json.dumps(arch)))
        _once("journal").note("update: set %d, %s" % (version, package))
        os.rename(self._target + "/manifest.new", self._target + "/manifest.json")
        yield from self._answer({"set": version})
        self._restart_at = ticks.add(self._now, RESTART_AFTER)


def _hexadecimal(state):
    return "".join(["%02x" % byte for byte in state.digest()])
