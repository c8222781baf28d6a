"""The firmware's life on a board: radio, the RTC's memory over a deep sleep, the timer, threads, and its figures."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lopower_hil.bench import Board
from tests.support.figures import Figure

UP = "import lopower, json\nlopower.start()\nassert lopower.wait(60), lopower.status()\n"


def _status(device: Board) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(device.run(UP + "print(json.dumps(lopower.status()))", 90).splitlines()[-1])
    return status


def test_the_tunnel_comes_up(device: Board) -> None:
    """Wi-Fi, DHCP, name, handshake, over the radio."""
    device.reset()
    status = _status(device)
    assert status["cause"] is None
    assert status["counters"]["handshakes_completed"] >= 1


def test_a_wake_needs_no_handshake(device: Board) -> None:
    """The RTC's memory and clock survive `machine.deepsleep`, and the session with them."""
    device.reset()
    assert _status(device)["counters"]["initiations_sent"] >= 1
    device.start("import lopower\nlopower.deepsleep(5000)")
    device.wait_for_boot(30)
    status = _status(device)
    assert "initiations_sent" not in status["counters"]
    assert status["handshake_age"] >= 5


def test_a_hard_reset_needs_one(device: Board) -> None:
    """No record outlives its one use."""
    device.start("import lopower\nlopower.deepsleep(3000)")
    device.wait_for_boot(30)
    _status(device)
    device.reset()
    assert _status(device)["counters"]["initiations_sent"] >= 1


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ('{"ssid": "no such network here"}', "no access point"),
        ('dict(networks[0], password="this is not the password")', "wrong password"),
    ],
    ids=["no-access-point", "wrong-password"],
)
def test_the_causes_of_wifi(device: Board, change: str, cause: str) -> None:
    """What the driver says is told in words: the settings in RAM are changed, not those in flash."""
    device.reset()
    program = f"""
import json, lopower, time
lopower.stop()
with open("/lopower.json") as file:
    content = json.load(file)
networks = content["wifi"]
content["wifi"] = [{change}]
with open("/lopower.test.json", "w") as file:
    json.dump(content, file)
import network
network.WLAN(network.STA_IF).disconnect()
lopower.start("/lopower.test.json")
for _ in range(100):
    if lopower.wait(0.25) or lopower.status()["cause"] == {cause!r}:
        break
print(lopower.status()["cause"])
import os
os.remove("/lopower.test.json")
"""
    assert device.run(program, 60).splitlines()[-1] == cause


@pytest.mark.long
def test_the_timer_pumps(device: Board) -> None:
    """`machine.Timer` and `micropython.schedule`: a rekey while the program computes.

    It comes with the first keepalive after 120 s (REKEY_AFTER_TIME), of which there is one every 25 s.
    """
    device.reset()
    program = (
        UP
        + """
import time
before = lopower.status()["counters"]["handshakes_completed"]
end = time.ticks_add(time.ticks_ms(), 160_000)
while time.ticks_diff(end, time.ticks_ms()) > 0:
    pass
print(lopower.status()["counters"]["handshakes_completed"] - before)
"""
    )
    assert int(device.run(program, 240).splitlines()[-1]) >= 1


def test_threads(device: Board) -> None:
    """Two threads with sockets of their own, and the timer.

    So few pages that virtual boards collect no garbage meanwhile: that does not stop threads there (docs/bench.md).
    """
    device.reset()
    program = (
        UP
        + """
import _thread, gc, requests, time
done = []
def fetch():
    for _ in range(2):
        assert requests.get("http://10.90.0.1/").status_code == 200
    done.append(1)
gc.collect()
for _ in range(2):
    _thread.start_new_thread(fetch, ())
end = time.ticks_add(time.ticks_ms(), 60_000)
while len(done) < 2 and time.ticks_diff(end, time.ticks_ms()) > 0:
    time.sleep_ms(50)
print(len(done), lopower.status()["counters"].get("not_authentic", 0))
"""
    )
    assert device.run(program, 120).splitlines()[-1] == "2 0"


def test_what_a_board_measures(device: Board, figure: Figure) -> None:
    """Figures for firmware/README.md: free heap, the longest turn, the handshake's round trip, the signal."""
    device.reset()
    program = (
        UP
        + """
import gc, network, requests
requests.get("http://10.90.0.1/")
gc.collect()
status = lopower.status()
status["rssi"] = network.WLAN(network.STA_IF).status("rssi")
print(json.dumps(status))
"""
    )
    status = json.loads(device.run(program, 120).splitlines()[-1])
    figure("heap free", status["heap_free"], "bytes")
    figure("heap used", status["heap_used"], "bytes")
    figure("round trip of the handshake", status["rtt_ms"], "ms")
    figure("signal", status["rssi"], "dBm")
    figure("longest turn", status["counters"]["longest_turn"], "ms")
    assert status["heap_free"] > 0
