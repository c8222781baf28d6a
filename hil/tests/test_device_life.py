"""What only a board can show of the firmware: radio, the RTC's memory over a deep sleep, cycles, the exact heap.

They need a board with the package, boot.py and a lopower.json whose Wi-Fi and proxy are in reach, and the fixture
`board`, an object with

    run(program: str, timeout: float = 30) -> str    # executes MicroPython code, as `mpremote exec`; its output
    reset() -> None                                  # a hard reset; returns once the REPL answers again
    wait_for_boot(timeout: float) -> None            # after a deep sleep: until the REPL answers again

Without `--board` the tests are skipped.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import pytest

UP = "import lopower, json\nlopower.start()\nassert lopower.wait(60), lopower.status()\n"


class Board(Protocol):
    """As above."""

    def run(self, program: str, timeout: float = 30) -> str:
        """Execute code; its output."""

    def reset(self) -> None:
        """Hard."""

    def wait_for_boot(self, timeout: float) -> None:
        """Until the REPL answers."""


@pytest.fixture(autouse=True)
def _needs_board(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--board", default=None):
        pytest.skip("needs a board: --board names its port")


def _status(board: Board) -> dict[str, Any]:
    status: dict[str, Any] = json.loads(board.run(UP + "print(json.dumps(lopower.status()))", 90).splitlines()[-1])
    return status


def test_the_tunnel_comes_up(board: Board) -> None:
    """Wi-Fi, DHCP, name, handshake, over the radio."""
    board.reset()
    status = _status(board)
    assert status["cause"] is None
    assert status["counters"]["handshakes_completed"] >= 1


def test_a_wake_needs_no_handshake(board: Board) -> None:
    """The RTC's memory and clock survive `machine.deepsleep`, and the session with them."""
    board.reset()
    assert _status(board)["counters"]["initiations_sent"] >= 1
    board.run("import lopower\nlopower.deepsleep(5000)", 10)
    board.wait_for_boot(30)
    status = _status(board)
    assert "initiations_sent" not in status["counters"]
    assert status["handshake_age"] >= 5


def test_a_hard_reset_needs_one(board: Board) -> None:
    """No record outlives its one use."""
    board.run("import lopower\nlopower.deepsleep(3000)", 10)
    board.wait_for_boot(30)
    _status(board)
    board.reset()
    assert _status(board)["counters"]["initiations_sent"] >= 1


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ('{"ssid": "no such network here"}', "no access point"),
        ('dict(networks[0], password="this is not the password")', "wrong password"),
    ],
    ids=["no-access-point", "wrong-password"],
)
def test_the_causes_of_wifi(board: Board, change: str, cause: str) -> None:
    """What the driver says is told in words: the settings in RAM are changed, not those in flash."""
    board.reset()
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
lopower.wait(25)
print(lopower.status()["cause"])
import os
os.remove("/lopower.test.json")
"""
    assert board.run(program, 60).splitlines()[-1] == cause


def test_the_timer_pumps(board: Board) -> None:
    """`machine.Timer` and `micropython.schedule`: a rekey while the program computes."""
    board.reset()
    program = (
        UP
        + """
import time
before = lopower.status()["counters"]["handshakes_completed"]
end = time.ticks_add(time.ticks_ms(), 140_000)
while time.ticks_diff(end, time.ticks_ms()) > 0:
    pass
print(lopower.status()["counters"]["handshakes_completed"] - before)
"""
    )
    assert int(board.run(program, 240).splitlines()[-1]) >= 1


def test_threads(board: Board) -> None:
    """Two threads with sockets of their own, and the timer."""
    board.reset()
    program = (
        UP
        + """
import _thread, requests, time
done = []
def fetch():
    for _ in range(5):
        assert requests.get("http://10.90.0.1/").status_code == 200
    done.append(1)
for _ in range(2):
    _thread.start_new_thread(fetch, ())
end = time.ticks_add(time.ticks_ms(), 60_000)
while len(done) < 2 and time.ticks_diff(end, time.ticks_ms()) > 0:
    time.sleep_ms(50)
print(len(done), lopower.status()["counters"].get("not_authentic", 0))
"""
    )
    assert board.run(program, 120).splitlines()[-1] == "2 0"


def test_what_a_board_measures(board: Board, record_property: Any) -> None:
    """Figures for firmware/README.md: free heap, the longest turn, the handshake's round trip, the signal."""
    board.reset()
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
    status = json.loads(board.run(program, 120).splitlines()[-1])
    for name in ("heap_free", "heap_used", "rtt_ms", "rssi"):
        record_property(name, status[name])
    record_property("longest_turn_ms", status["counters"]["longest_turn"])
    assert status["heap_free"] > 0
