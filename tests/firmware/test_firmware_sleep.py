"""Deep sleep: a wake goes on with the session, and no counter is used twice, wherever a reset comes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.micropython import micropython, run_micropython, write_settings
from tests.support.proxy import running_proxy

LIFE = """
import virtual
virtual.install()
import virtual_net
from virtual import board, Reset
from virtual_net import internet
virtual_net.install()
import json, os
from lopower import counters as c
from lopower.noise import public_key

DEVICE, OTHER = bytes(range(32)), bytes(range(1, 33))
from binascii import b2a_base64

def text(key):
    return b2a_base64(key).decode().strip()

with open("lopower.json", "w") as file:
    json.dump({
        "private_key": text(DEVICE), "written": 1_700_000_000, "sntp": False, "timer": None,
        "proxies": [{
            "public_key": text(public_key(OTHER)), "addresses": ["10.0.0.2"], "endpoints": ["proxy.example:51820"],
            "allowed_ips": ["10.0.0.0/24"], "persistent_keepalive": 0,
        }],
    }, file)
internet.names["proxy.example"] = "192.0.2.1"
proxy = virtual_net.Proxy("192.0.2.1", OTHER, public_key(DEVICE))
proxy.stack.open_udp(4, 9)

def life(sleep_for=20_000):
    \"\"\"A start, three datagrams and their echo, and to sleep.\"\"\"
    import lopower
    assert lopower.start("lopower.json", network=lambda: None, counter="count")
    import socket
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    port.settimeout(12)  # after a reset within a second of a handshake, the next one is answered after five
    for i in range(3):
        port.sendto(b"datagram %d" % i, ("10.0.0.1", 9))
        assert port.recv(100) == b"datagram %d" % i
        board.pass_time(100)
    lopower.deepsleep(sleep_for)

def boot(cause):
    board.boot(cause)
    virtual_net.install()

def lives(count, sleep_for=20_000):
    \"\"\"Lives one after the other, each woken in time; whether a reset came between.\"\"\"
    for _ in range(count):
        asleep = False
        board.asleep = None
        try:
            life(sleep_for)
        except Reset:
            asleep = board.asleep is not None
        if asleep:
            board.pass_time(board.asleep)
            boot(CAUSE_OF_WAKE)
        else:
            board.reset_at = -1
            if clock_restarts:
                board.clock = 0
            boot(cause_of_reset)

CAUSE_OF_WAKE = 4
cause_of_reset, clock_restarts = 2, False

def kinds(datagrams):
    return [datagram[0] for datagram in datagrams]
"""


def test_a_wake_needs_no_handshake(tmp_path: Path) -> None:
    """Nor a name's resolution nor a write to flash, while the session lives; afterwards a handshake."""
    output = run_micropython(
        LIFE
        + """
lives(1)
assert kinds(internet.sent).count(1) == 1
stamp = os.stat("count.0")[6:], open("count.0", "rb").read()
initiations = internet.sent[:]
resolved = list(internet.resolved)
internet.sent.clear()
internet.resolved.clear()
lives(3)
assert kinds(internet.sent) == [4] * len(internet.sent), kinds(internet.sent)
assert len(internet.sent) >= 9
assert open("count.0", "rb").read() == stamp[1]
assert "proxy.example" in resolved and "proxy.example" not in internet.resolved, internet.resolved
# The board has slept for three minutes in all: 20 s each, so the session is two thirds through. Once more, for long:
internet.sent.clear()
lives(1, 170_000)
internet.sent.clear()
lives(1)
assert kinds(internet.sent)[0] == 1, kinds(internet.sent)
print("done")
""",
        tmp_path,
    )
    assert output == "done\n"


RESETS = """
# How many steps two lives have, and then one of the same lives for each: it is reset there.
before = board.steps
lives(2)
steps = board.steps - before
assert steps > 30, steps
for at in range(1, steps + 1):
    board.reset_at = board.steps + at
    lives(4)
    board.reset_at = -1
    seen = set()
    for datagram in internet.sent:
        if datagram[0] == 4:
            pair = datagram[4:16]
            assert pair not in seen, (at, steps)
            seen.add(pair)
stamps = [d for d in internet.sent if d[0] == 1]
assert len(set(stamps)) == len(stamps)
assert proxy.peer.counters[c.REPLAYED] == 0, proxy.peer.counters
assert proxy.peer.counters[c.TIMESTAMP_NOT_NEWER] == 0, proxy.peer.counters
print(steps, len(seen), len(stamps))
"""


@pytest.mark.parametrize(
    ("cause", "restarts"), [(2, "False"), (1, "True"), (4, "False")], ids=["reset", "power", "looks-like-a-wake"]
)
def test_a_reset_at_every_step(tmp_path: Path, cause: int, restarts: str) -> None:
    """Every write, every call, the middle of a write to the RTC's memory: no (session, counter) is seen twice.

    The proxy refuses none as replayed, and no time stamp as old, in thousands of messages.
    """
    program = LIFE + f"cause_of_reset, clock_restarts = {cause}, {restarts}\n" + RESETS
    steps, seen, stamps = map(int, run_micropython(program, tmp_path, heap="64M", timeout=110).split())
    assert seen > 3 * steps
    assert stamps > steps // 2


DAMAGE = """
import lopower.sleep as module
size = module.SIZE

def wakes(change):
    \"\"\"Whether a wake goes on with the session after a change of the RTC's memory.\"\"\"
    global CAUSE_OF_WAKE
    boot(2)
    board.rtc_length = 0
    lives(1)
    change()
    internet.sent.clear()
    lives(1)
    return kinds(internet.sent)[0] == 4

assert wakes(lambda: None)

def flip(at):
    board.rtc_memory[at] ^= 1
for at in range(0, size, 7):
    assert not wakes(lambda: flip(at)), at
def cut():
    board.rtc_length -= 1
assert not wakes(cut)
def empty():
    board.rtc_length = 0
assert not wakes(empty)
def back():
    board.clock -= 25_000
assert not wakes(back)
def ahead():
    board.clock += 200_000
assert not wakes(ahead)
def other_key():
    with open("lopower.json") as file:
        content = json.load(file)
    content["proxies"][0]["preshared_key"] = text(bytes(32 * [7]))
    with open("lopower.json", "w") as file:
        json.dump(content, file)
    proxy.peer.static.preshared_key = bytes(32 * [7])
assert not wakes(other_key)
assert wakes(lambda: None)

# Erased: nothing of a key is left anywhere in the memory while the session is in use.
lives(1)
record = bytes(board.rtc_memory[:size])
import lopower
lopower.start("lopower.json", network=lambda: None, counter="count")
assert record[50:150] not in bytes(board.rtc_memory)
assert bytes(board.rtc_memory[: size - 4]) == bytes(size - 4)

# A program's own content stays in front, and is seen alone after the start.
rtc = virtual.RTC()
rtc.memory(b"the program's")
boot(2)
lives(1)
assert bytes(board.rtc_memory[:13]) == b"the program's" and board.rtc_length == 13 + size
import lopower
lopower.start("lopower.json", network=lambda: None, counter="count")
assert rtc.memory() == b"the program's"
# Without room for the record it sleeps all the same.
rtc.memory(bytes(2000))
try:
    lopower.deepsleep(1000)
    assert False
except Reset:
    pass
assert board.asleep == 1000 and board.rtc_length == 2000
print("done")
"""


def test_what_is_no_record(tmp_path: Path) -> None:
    """Damaged, cut, of other keys, of a clock that went back or too far ahead: a handshake; the keys are erased."""
    output = run_micropython(LIFE + DAMAGE, tmp_path, heap="16M", timeout=100)
    assert output.splitlines()[-1] == "done"


REAL = """
import sys, time, json
import machine

class RTC:
    def memory(self, content=None):
        if content is None:
            try:
                return open("rtc", "rb").read()
            except OSError:
                return b""
        open("rtc", "wb").write(content)

class Machine:
    DEEPSLEEP_RESET = 4
    RTC = RTC
    def reset_cause(self):
        return 4
    def deepsleep(self, milliseconds):
        time.sleep_ms(milliseconds)
        print("asleep")
        sys.exit(0)

sys.modules["machine"] = Machine()
import lopower
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
import requests
assert requests.get("http://10.90.0.1/").text.startswith("sensor, connected")
status = lopower.status()
print(json.dumps([status["counters"].get("initiations_sent", 0), status["handshake_age"]]))
lopower.deepsleep(1500)
"""


async def test_against_the_proxy(tmp_path: Path) -> None:
    """The real proxy takes the woken device's messages: three processes of MicroPython, one handshake."""
    async with running_proxy(tmp_path) as proxy:
        proxy.enrol("sensor")
        write_settings(tmp_path, proxy.configuration("sensor"), sntp=False)
        results = []
        for _ in range(3):
            lines = (await micropython(REAL, tmp_path)).splitlines()
            assert lines[-1] == "asleep"
            results.append(json.loads(lines[-2]))
        peer = next(iter(proxy.runtime.interface.peers.values()))
        assert not peer.counters["replayed"]
    assert [sent for sent, _ in results] == [1, 0, 0]
    assert results[2][1] > results[1][1] > results[0][1]
