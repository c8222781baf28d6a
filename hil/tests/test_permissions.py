"""What a proxy's owner decides while a board is talking."""

from __future__ import annotations

import time

import pytest

from lopower_hil.bench import Board, Proxy
from tests.support.bench_programs import TALK


def test_disabled_and_enabled_while_talking(device: Board, proxy: Proxy) -> None:
    device.start(TALK.format(proxy.gateway))
    device.wait_for("answer 200")
    proxy.lopower("device", "disable", device.device)
    assert proxy.device(device.device)["state"] == "disabled"
    before = proxy.device(device.device)["rx_bytes"]
    time.sleep(1.0)
    assert proxy.device(device.device)["rx_bytes"] == before
    began = time.monotonic()
    proxy.lopower("device", "enable", device.device)
    device.reset()
    proxy.wait_connected(device.device, since=began)


def test_removed_while_talking(device: Board, proxy: Proxy) -> None:
    """It is nobody any more, and what it goes on sending disturbs nobody."""
    device.start(TALK.format(proxy.gateway))
    device.wait_for("answer 200")
    proxy.lopower("device", "remove", device.device)
    assert proxy.json("device", "list")["devices"] == []
    device.reset()  # it says hello again, with a key that nobody knows
    device.wait_for(">>> ")
    assert device.run("import lopower; print(lopower.wait(3))", 30) == "False\n"
    assert proxy.json("device", "list")["devices"] == []


@pytest.mark.two_boards
def test_two_boards_talk_if_they_may(boards: list[Board], proxy: Proxy) -> None:
    one, two = boards
    for board in boards:
        board.join(proxy)
    rule = f"device:{two.device}"
    proxy.lopower("device", "allow", one.device, rule)
    for board in boards:
        board.join(proxy)  # their settings name the addresses behind the tunnel
    two.start(
        "import socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n"
        "s.bind(('0.0.0.0', 4000))\ns.listen(2)\nprint('listening')\n"
        "while True:\n    c, a = s.accept()\n    c.write(c.readline().upper())\n    c.close()\n"
    )
    two.wait_for("listening")
    program = f"""
import socket
sock = socket.socket()
sock.settimeout(10)
try:
    sock.connect(socket.getaddrinfo({two.device!r}, 4000)[0][-1])
    sock.write(b"hello from a board\\n")
    print(sock.readline().decode().strip())
except OSError as error:
    print("refused", error)
sock.close()
"""
    assert one.run(program, 60) == "HELLO FROM A BOARD\n"
    proxy.lopower("device", "allow", one.device, rule, "--remove")
    assert one.run(program, 60).startswith("refused")
