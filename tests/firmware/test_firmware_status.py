"""What `status` tells of what is missing, over a Wi-Fi that behaves as the ESP32's port is written; and the clock."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

from lopower.bridge.sntp import ClockState
from tests.support.micropython import micropython, run_micropython, write_settings
from tests.support.proxy import Proxy, free_udp_port, running_proxy
from tests.support.requirements import require_root

WORLD = """
import virtual
virtual.install()
import virtual_net
from virtual import board
from virtual_net import internet, WLAN
station = virtual_net.install(with_wifi=True)
import json
from binascii import b2a_base64
from lopower import counters as c
from lopower.noise import public_key

DEVICE, OTHER = bytes(range(32)), bytes(range(1, 33))

def text(key):
    return b2a_base64(key).decode().strip()

def write(wifi, **changes):
    proxy = {
        "public_key": text(public_key(OTHER)), "addresses": ["10.0.0.2"], "endpoints": ["proxy.example:51820"],
        "allowed_ips": ["10.0.0.0/24"], "persistent_keepalive": 0, "dns": [], "preshared_key": None,
    }
    content = {"private_key": text(DEVICE), "written": 1_700_000_000, "timer": None, "wifi": wifi, "proxies": [proxy],
               "sntp": False}
    for name, value in changes.items():
        (proxy if name in proxy else content)[name] = value
    with open("lopower.json", "w") as file:
        json.dump(content, file)

def start(wifi, **changes):
    global lopower
    lopower.stop()
    del WLAN.log[:]
    write(wifi, **changes)
    assert lopower.start("lopower.json", counter="count"), lopower.status()

def after(seconds):
    \"\"\"The cause that is told after some time; each turn is bounded and raises nothing.\"\"\"
    for _ in range(seconds * 10):
        board.pass_time(100)
        lopower.pump()
    status = lopower.status()
    return status["cause"]

def said():
    return lopower.status()["state"]

import lopower
HOME = {"ssid": "home", "password": "the right one", "priority": 1}
internet.names["proxy.example"] = "192.0.2.1"
proxy = virtual_net.Proxy("192.0.2.1", OTHER, public_key(DEVICE))
"""

CAUSES = """
assert lopower.status() == {"state": "not started", "cause": "not started"}
start([HOME])
assert after(1) == "connecting"
assert after(9) == "no access point" and said() == "no access point in reach has the name home", said()
WLAN.air["home"] = ("another", True)
assert after(30) == "wrong password", lopower.status()
assert said() == "the password of home is wrong"
WLAN.air["home"] = (None, True)  # open
assert after(30) == "no access point" and "security" in said(), lopower.status()
WLAN.air["home"] = ("the right one", False)
assert after(10) == "no lease", lopower.status()
WLAN.air["home"] = ("the right one", True)
assert after(20) is None, lopower.status()
assert said() == "up"
status = lopower.status()
assert status["endpoint"] == ("proxy.example", 51820) and status["rtt_ms"] is not None and status["tx_bytes"] > 0
assert status["heap_free"] > 0 and status["handshake_age"] >= 0 and "handshakes_completed" in status["counters"]

# It was up: that tells that the key is known.
assert after(200) == "idle", lopower.status()
proxy.answers = False
import socket
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.sendto(b"x", ("10.0.0.1", 9))
assert after(60) == "lost", lopower.status()
proxy.answers = True
assert after(20) is None

# From the start on: a name, then silence.
internet.names.clear()
start([HOME])
assert after(5) == "name" and "proxy.example" in said()
internet.names["proxy.example"] = "192.0.2.9"  # a firewall, or nobody
assert after(30) == "silent", lopower.status()
assert "firewall" in said() and "key" in said()
internet.names["proxy.example"] = "192.168.1.1"
assert after(40) == "captive portal", lopower.status()
internet.names["proxy.example"] = "192.0.2.1"
assert after(40) is None, lopower.status()

# A key that the proxy does not know is answered with silence, which is what is said.
start([HOME], private_key=text(bytes(32 * [9])))
assert after(30) == "silent", lopower.status()
assert proxy.peer.counters[c.NOT_AUTHENTIC] > 0

# Another preshared key is answered, with something that does not open.
start([HOME], preshared_key=text(bytes(32 * [9])))
assert after(30) == "preshared key", lopower.status()

# Nobody listens: the host says so.
def refuse(datagram, answer):
    raise OSError(111)
internet.hosts["192.0.2.1"], taken = refuse, internet.hosts["192.0.2.1"]
start([HOME])
assert after(12) == "nobody listens" and "192.0.2.1" not in said(), lopower.status()
internet.hosts["192.0.2.1"] = taken
start([HOME], endpoints=["192.0.2.1:51820"])
assert after(12) is None
internet.is_up = False
start([HOME], endpoints=["192.0.2.1:51820"])
assert after(12) == "no network", lopower.status()
internet.is_up = True
assert after(12) is None
# What a handshake needs is not loaded.
import sys
peers = sys.modules["lopower.peer"]
real = peers._load
for error, cause in ((MemoryError("none"), "heap"), (OSError(5), "flash")):
    def failing(name):
        raise error
    peers._load = failing
    start([HOME], endpoints=["192.0.2.1:51820"])
    assert after(12) == cause, lopower.status()
    peers._load = real
    assert after(12) is None, lopower.status()
lopower.stop()

with open("lopower.json", "w") as file:
    file.write("{")
assert not lopower.start("lopower.json", counter="count")
assert lopower.status()["cause"] == "settings", lopower.status()
print("done")
"""


def test_the_causes(tmp_path: Path) -> None:
    """Each one by itself, and that it ends when what is missing comes."""
    assert run_micropython(WORLD + CAUSES, tmp_path, heap="2M").splitlines()[-1] == "done"


NETWORKS = """
def connects():
    return [entry[1] for entry in WLAN.log if entry[0] == "connect"]

OFFICE = {"ssid": "office", "password": "another password", "priority": 5}
HIDDEN = {"ssid": "hidden", "password": None}
WLAN.air["home"] = ("the right one", True)
start([HOME, OFFICE, HIDDEN], country="DE", hostname="sensor")
assert WLAN.log[:2] == [("country", "DE"), ("hostname", "sensor")], WLAN.log
assert after(40) is None, lopower.status()
assert connects() == ["office", "home"]
# The preferred one, once this one is lost; a hidden one is found by its name alone.
WLAN.air["office"] = ("another password", True)
del WLAN.air["home"]
assert after(60) is None
assert connects()[2:] == ["office"], connects()
WLAN.air["hidden"] = (None, True)
del WLAN.air["office"]
assert after(90) is None, lopower.status()
assert connects()[3:] == ["office", "home", "hidden"], connects()
# All that fails is told.
WLAN.air.clear()
WLAN.air["office"] = ("changed", True)
assert after(90) in ("wrong password", "no access point")
assert "office" in said() and "home" in said() and "hidden" in said(), said()

# A fixed address, and DHCP again for the network that has none; DNS alone, once there is a lease.
WLAN.air.clear()
WLAN.air["dhcp"] = (None, True)
fixed = {"ssid": "fixed", "priority": 2, "address": "10.1.0.7", "netmask": "255.255.255.0", "gateway": "10.1.0.1"}
start([fixed, {"ssid": "dhcp", "dns": "9.9.9.9"}])
assert after(60) is None, lopower.status()
calls = [entry for entry in WLAN.log if entry[0] in ("ifconfig", "ipconfig")]
assert calls == [
    ("ifconfig", ("10.1.0.7", "255.255.255.0", "10.1.0.1", "10.1.0.1")), ("ifconfig", "dhcp"),
    ("ipconfig", {"dns": "9.9.9.9"}),
], calls
WLAN.air["fixed"] = (None, False)  # needs no DHCP
del WLAN.air["dhcp"]
assert after(60) is None, lopower.status()

# Still connected after a soft reset: it stays so.
start([fixed, {"ssid": "dhcp"}])
assert connects() == []
assert after(12) is None

# A driver that refuses raises nothing.
station.disconnect()
start([{"ssid": "home"}], country="DE")
station.active(False)
station.is_active = False
assert after(60) == "connecting" and "Wi-Fi does not start" in said(), lopower.status()
print("done")
"""


def test_several_networks(tmp_path: Path) -> None:
    """By priority, the preferred one again after a loss; fixed addresses, DNS, host name, country."""
    assert run_micropython(WORLD + NETWORKS, tmp_path, heap="2M").splitlines()[-1] == "done"


TIMER = """
WLAN.air["home"] = ("the right one", True)
import micropython
real = micropython.schedule
class Micropython:
    full = False
    def schedule(self, function, argument):
        if self.full:
            raise RuntimeError("schedule queue full")
        function(argument)
    def __getattr__(self, name):
        import sys
        return getattr(real_module, name)
import sys
real_module = sys.modules["micropython"] if "micropython" in sys.modules else micropython
sys.modules["micropython"] = shim = Micropython()

def passes(seconds):
    \"\"\"Time passes, and nobody calls the package.\"\"\"
    for _ in range(seconds * 50):
        board.pass_time(20)

start([HOME], timer=2)
assert [timer.number for timer in board.timers] == [2]
shim.full = True
passes(10)
assert lopower.status()["cause"] == "keys"
shim.full = False
passes(10)
assert lopower.status()["cause"] is None, lopower.status()
completed = lopower.status()["counters"]["handshakes_completed"]
# A rekey without any call.
import socket
port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
port.sendto(b"x", ("10.0.0.1", 9))
passes(121)
port.sendto(b"x", ("10.0.0.1", 9))
passes(10)
assert lopower.status()["counters"]["handshakes_completed"] == completed + 1
# A timer that comes while the program is within a turn lets it be.
tunnel = lopower._running
assert tunnel.lock.acquire(0)
sent = len(internet.sent)
passes(30)
assert len(internet.sent) == sent
tunnel.lock.release()
lopower.stop()
assert not board.timers[-1].period
for number, expected in ((None, []), (True, [0]), (3, [3])):
    board.timers.clear()
    start([HOME], timer=number)
    assert [timer.number for timer in board.timers] == expected
board.timers.clear()
start([HOME], timer=9)
assert board.timers == []
print("done")
"""


def test_the_timer(tmp_path: Path) -> None:
    """`machine.Timer` and `micropython.schedule` pump; the number is the settings'; without one, programs do."""
    output = run_micropython(WORLD + TIMER, tmp_path, heap="2M")
    assert output.splitlines() == ["lopower: there is no timer 9", "done"]


CLOCK = """
import sys, time, json
real = time
told = []

class RTC:
    def memory(self, content=None):
        return b""
    def datetime(self, value):
        told.append(value)

class Machine:
    RTC = RTC
    DEEPSLEEP_RESET = 4
    def reset_cause(self):
        return 1

class Time:
    offset = -2_000_000_000
    def time(self):
        return real.time() + self.offset
    def __getattr__(self, name):
        return getattr(real, name)

sys.modules["machine"], sys.modules["time"] = Machine(), Time()
import lopower
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert lopower.wait(10), lopower.status()
end = real.ticks_add(real.ticks_ms(), 1500)
while not told and real.ticks_diff(end, real.ticks_ms()) > 0:
    lopower.pump()
    real.sleep_ms(5)
if told:
    year, month, day, weekday, hour, minute, second, _ = told[0]
    set_to = real.mktime((year, month, day, hour, minute, second, 0, 0))
    assert weekday == real.gmtime()[6]
    print(abs(set_to - real.time()) < 60, len(told))
else:
    print("not set")
"""


async def test_the_clock_from_the_proxy(tmp_path: Path) -> None:
    """Set once from the gateway if its host's clock is synchronised; else, and if the settings say so, not at all."""
    async with running_proxy(tmp_path) as proxy:
        proxy.enrol("sensor")
        write_settings(tmp_path, proxy.configuration("sensor"))
        server = _server(proxy)
        for synchronized, expected in ((True, "True 1"), (False, "not set")):
            server._clock_state = lambda known=synchronized: ClockState(synchronized=known)
            assert (await micropython(CLOCK, tmp_path)).strip() == expected
        server._clock_state = lambda: ClockState(synchronized=True)
        write_settings(tmp_path, proxy.configuration("sensor"), sntp=False)
        assert (await micropython(CLOCK, tmp_path)).strip() == "not set"


def _server(proxy: Proxy) -> Any:
    service: Any = proxy.runtime.bridge.gateway.udp[123]
    return service._server


DIAGNOSE = """
import lopower
print(lopower.diagnose())
import lopower.peer
lopower.peer.REKEY_TIMEOUT, lopower.peer.REKEY_JITTER = 150, 5
assert lopower.start("lopower.json", network=lambda: None, counter="count")
assert not lopower.wait(1)
assert lopower.status()["cause"] == "silent", lopower.status()
print(lopower.diagnose())
"""


async def test_diagnose(tmp_path: Path) -> None:
    """A proxy that does not know the key, and a portal that answers for everybody: told apart by what else answers."""
    require_root()  # a portal answers at port 80

    async def portal(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 302 Found\r\nLocation: http://login.portal.example/\r\n\r\n")
        writer.close()

    port = free_udp_port()
    async with running_proxy(tmp_path, listen=f"0.0.0.0:{port}") as proxy:
        proxy.enrol("sensor")
        configuration = proxy.configuration("sensor")
        server = await asyncio.start_server(portal, "127.0.0.77", 80)
        async with server:
            for address, expected in (
                ("127.0.0.78", "its host answers. WireGuard"),
                ("127.0.0.77", "a captive portal"),
            ):
                changes = {"private_key": base64.b64encode(bytes(range(32))).decode()}
                write_settings(tmp_path, configuration, endpoints=[f"{address}:{port}"], sntp=False, **changes)
                lines = (await micropython(DIAGNOSE, tmp_path)).splitlines()
                assert lines[0] == "not started"
                assert expected in lines[1]
