"""Settings, time stamps and the choice between two sets of files: what happens before there is a tunnel."""

import hashlib
import json
import os
from binascii import b2a_base64

from lopower_device import settings, stamps, trial

DIRECTORY = "start_cases.tmp/"
KEY = b2a_base64(bytes(range(32))).decode().strip()


def _clean():
    try:
        os.mkdir(DIRECTORY[:-1])
    except OSError:
        pass
    _remove(DIRECTORY[:-1])


def _remove(directory):
    for name in os.listdir(directory):
        path = directory + "/" + name
        try:
            os.remove(path)
        except OSError:
            _remove(path)
            os.rmdir(path)


def _write(name, content):
    with open(DIRECTORY + name, "w") as file:
        file.write(content)


def _valid():
    return {
        "private_key": KEY,
        "written": 1700000000,
        "proxies": [
            {
                "public_key": KEY,
                "addresses": ["10.90.0.2/32", "fd7a:115c:a1e0:9909::2/128"],
                "endpoints": ["home.example:51820", "192.0.2.1", "[2001:db8::1]:4000", "2001:db8::2"],
                "allowed_ips": ["10.90.0.0/24", "::/0"],
            }
        ],
    }


def test_settings():
    """All forms of endpoints; what is not given has its default."""
    _clean()
    _write("lopower.json", json.dumps(_valid()))
    read = settings.load(DIRECTORY + "lopower.json")
    proxy = read.proxies[0]
    hosts = ("home.example", 51820), ("192.0.2.1", 51820), ("2001:db8::1", 4000), ("2001:db8::2", 51820)
    assert proxy.endpoints == list(hosts)
    assert proxy.addresses[0] == bytes((10, 90, 0, 2))
    assert proxy.allowed.has(bytes((10, 90, 0, 77)))
    assert not proxy.allowed.has(bytes((10, 90, 1, 77)))
    assert proxy.allowed.has(bytes(16))
    assert proxy.mtu == 1420
    assert not read.everything


def test_bad_settings():
    """Each fault is told in words; none raises anything else."""
    _clean()
    path = DIRECTORY + "lopower.json"
    changes = (
        ("private_key", "AAAA"), ("private_key", 5), ("private_key", None), ("proxies", []), ("proxies", {}),
        ("proxies", [1]), ("tunnel", "some"), ("wifi", "home"), ("wifi", [{"password": "x"}]), ("written", "now"),
        ("public_key", None), ("public_key", KEY[:-4]), ("addresses", []), ("addresses", ["10.0.0"]),
        ("addresses", "10.0.0.1"), ("endpoints", []), ("endpoints", [5]), ("endpoints", ["host:99999"]),
        ("allowed_ips", ["10.0.0.0/33"]), ("allowed_ips", ["nonsense"]), ("mtu", 9000), ("mtu", "1420"),
        ("preshared_key", "x" * 44), ("hostname", 5), ("hostname", "x" * 33), ("country", "Germany"), ("sntp", 1),
        ("timer", "0"), ("wifi", [{"ssid": 5}]), ("wifi", [{"ssid": ""}]), ("wifi", [{"ssid": "x" * 33}]),
        ("wifi", [{"ssid": "a", "password": "short"}]), ("wifi", [{"ssid": "a", "password": 12345678}]),
        ("wifi", [{"ssid": "a", "priority": "high"}]), ("wifi", [{"ssid": "a", "address": "10.0.0.2"}]),
        ("wifi", [{"ssid": "a", "address": "10.0.0", "netmask": "255.0.0.0", "gateway": "10.0.0.1"}]),
        ("wifi", [{"ssid": "a", "dns": "::1"}]), ("persistent_keepalive", -1), ("dns", ["resolver"]),
    )  # fmt: skip
    for name, value in changes:
        content = _valid()
        outer = name in content or name in ("tunnel", "wifi", "hostname", "country", "sntp", "timer")
        (content if outer else content["proxies"][0])[name] = value
        _write("lopower.json", json.dumps(content))
        assert _problem(path), (name, value)
    text = json.dumps(_valid())
    for cut in (0, 1, len(text) // 2, len(text) - 1):
        _write("lopower.json", text[:cut])
        assert _problem(path)
    _write("lopower.json", "[]")
    assert _problem(path)
    _write("lopower.json", '{"proxies":' + "[" * 4000)
    assert _problem(path)
    _write("lopower.json", " " * 9000 + text)
    assert "too long" in _problem(path)
    content = _valid()
    content["unknown"] = {"of": ["a", "later", "version"]}
    content["wifi"] = [{"ssid": "a", "password": "", "priority": None, "dns": None}]
    _write("lopower.json", json.dumps(content))
    assert not _problem(path)
    assert "missing" in _problem(DIRECTORY + "nothing.json")


def _problem(path):
    try:
        settings.load(path)
    except settings.SettingsError as error:
        return str(error)
    return ""


class CutStore(stamps.FileStore):
    """Power fails within the write number `cut`, after `kept` bytes of it."""

    writes = cut = kept = 0

    def save(self, value):
        path = self._path(self._state.turn)
        CutStore.writes += 1
        if CutStore.writes != CutStore.cut:
            return super().save(value)
        super().save(value)
        with open(path, "rb") as file:
            content = file.read()
        with open(path, "wb") as file:
            file.write(content[: CutStore.kept])
        raise KeyboardInterrupt


def test_stamps_never_go_back():
    """Power is cut in every write, at every length of it: each stamp is greater than all that were given out before."""
    _clean()
    greatest = b""
    for cut in (1, 2, 3):
        for kept in range(33):
            try:
                CutStore.writes, CutStore.cut, CutStore.kept = 0, cut, kept
                state = stamps.begin(DIRECTORY + "count", 1_700_000_000)
                for i in range(stamps.RESERVE * 2 + 3 if kept == 8 else 3):
                    stamp = stamps.stamp(state, lambda: None, CutStore)
                    assert stamp > greatest, (cut, kept, i)
                    greatest = stamp
            except KeyboardInterrupt:
                pass
    assert greatest[:4] == b"\x40\x00\x00\x00"


def test_stamps_follow_the_clock():
    """They do once it is set, and stay beyond it when it goes back."""
    _clean()
    state = stamps.begin(DIRECTORY + "count", 1_700_000_000)
    first = stamps.stamp(state, lambda: None)
    second = stamps.stamp(state, lambda: 1_800_000_000)
    assert int.from_bytes(second[:8], "big") == (1 << 62) + 10 + 1_800_000_000
    assert first < second < stamps.stamp(state, lambda: 1_750_000_000)
    again = stamps.begin(DIRECTORY + "count", 1_700_000_000)
    assert stamps.stamp(again, lambda: None) > second


def test_no_stamp_without_room_in_flash():
    """What cannot be remembered is not used; as soon as there is room, it goes on."""

    class FullStore(stamps.FileStore):
        full = True

        def save(self, value):
            if FullStore.full:
                raise OSError(28)
            super().save(value)

    _clean()
    state = stamps.begin(DIRECTORY + "count", 1_700_000_000)
    assert stamps.stamp(state, lambda: None, FullStore) is None
    assert state.error is not None
    FullStore.full = False
    assert stamps.stamp(state, lambda: None, FullStore) is not None
    assert state.error is None


def test_one_write_per_reserve():
    """Flash wears: a start writes once, and then once per range."""
    _clean()

    class CountingStore(stamps.FileStore):
        saves = 0

        def save(self, value):
            CountingStore.saves += 1
            super().save(value)

    state = stamps.begin(DIRECTORY + "count", 1_700_000_000)
    for _ in range(stamps.RESERVE):
        stamps.stamp(state, lambda: None, CountingStore)
    assert CountingStore.saves == 1
    stamps.stamp(state, lambda: None, CountingStore)
    assert CountingStore.saves == 2


def _set(name, version, content="x = 1\n", damage=None):
    """A set of one file."""
    try:
        os.mkdir(DIRECTORY + name)
        os.mkdir(DIRECTORY + name + "/lopower")
    except OSError:
        pass
    _write(name + "/lopower/__init__.py", content)
    digest = "".join(["%02x" % byte for byte in hashlib.sha256(content.encode()).digest()])
    text = json.dumps({"version": version, "files": {"lopower/__init__.py": digest}})
    _write(name + "/manifest.json", text)
    if damage == "file":
        _write(name + "/lopower/__init__.py", content[:-1])
    elif damage == "manifest":
        _write(name + "/manifest.json", text[:-5])
    elif damage == "gone":
        os.remove(DIRECTORY + name + "/lopower/__init__.py")


def _boot():
    """boot.py's names, without its start."""
    with open(BOOT) as file:
        source = file.read()
    names = {"__name__": "boot"}
    exec(source, names)
    return names


BOOT = __file__.rpartition("/")[0] + "/../../../firmware/boot.py"


def test_the_newer_whole_set():
    """A damaged one is never chosen, whatever its version."""
    choose = _boot()["choose"]
    _clean()
    assert choose(DIRECTORY) is None
    _set("lopower_a", 1)
    assert choose(DIRECTORY) == DIRECTORY + "lopower_a"
    _set("lopower_b", 2)
    assert choose(DIRECTORY) == DIRECTORY + "lopower_b"
    for damage in ("file", "manifest", "gone"):
        _set("lopower_b", 2, damage=damage)
        assert choose(DIRECTORY) == DIRECTORY + "lopower_a"
    _set("lopower_a", 1, damage="file")
    assert choose(DIRECTORY) is None


def test_power_cut_in_every_write_of_an_update():
    """An update removes the manifest, writes the files, and the manifest last: there is always a whole set."""
    choose = _boot()["choose"]
    content = "y = 2\n"
    digest = "".join(["%02x" % byte for byte in hashlib.sha256(content.encode()).digest()])
    manifest = json.dumps({"version": 5, "files": {"lopower/__init__.py": digest}})
    for step in range(len(content) + len(manifest) + 2):
        _clean()
        _set("lopower_a", 4)
        _set("lopower_b", 3)
        os.remove(DIRECTORY + "lopower_b/manifest.json")
        if step:
            _write("lopower_b/lopower/__init__.py", content[: step - 1])
        if step > len(content) + 1:
            _write("lopower_b/manifest.json", manifest[: step - len(content) - 1])
        chosen = choose(DIRECTORY)
        done = step == len(content) + len(manifest) + 1
        assert chosen == DIRECTORY + ("lopower_b" if done else "lopower_a"), step


def test_a_set_that_never_confirms():
    """Three starts without a handshake, and the old one is back; for good."""
    choose = _boot()["choose"]
    _clean()
    _set("lopower_a", 1)
    _set("lopower_b", 2)
    for _ in range(3):
        assert choose(DIRECTORY) == DIRECTORY + "lopower_b"
    for _ in range(3):
        assert choose(DIRECTORY) == DIRECTORY + "lopower_a"
    _set("lopower_b", 3)
    assert choose(DIRECTORY) == DIRECTORY + "lopower_b"


def test_a_trial():
    """The first handshake confirms; two minutes without one reject, and restart."""
    choose = _boot()["choose"]
    for confirmed in (True, False):
        _clean()
        _set("lopower_a", 1)
        _set("lopower_b", 2)
        choose(DIRECTORY)
        resets = []
        watched = trial.pending(DIRECTORY, lambda: resets.append(1))
        assert not watched.watch(500_000, False)
        assert not watched.watch(500_000 + 1000 * trial.LIMIT - 1, False)
        assert watched.watch(500_000 + 1000 * trial.LIMIT, confirmed)
        assert len(resets) == (0 if confirmed else 1)
        assert trial.pending(DIRECTORY, lambda: None) is None
        for _ in range(5):
            assert choose(DIRECTORY) == DIRECTORY + ("lopower_b" if confirmed else "lopower_a")
