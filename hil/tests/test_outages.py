"""Power, Wi-Fi and proxies go and come back; nobody does anything for the board."""

from __future__ import annotations

import ipaddress
import json
import socket
import time

import pytest

from lopower_hil.bench import Board, Proxy
from lopower_hil.bench.pytest_plugin import MakeProxy
from lopower_hil.loopback import HOST, free_port
from lopower_provisioning.settings_file import tunnel_from_json
from tests.support.bench_programs import TALK
from tests.support.figures import Figure

UP = "import lopower; print(lopower.wait(60))"
NAME = "proxy.of-the-bench.example"
PAGE = "import requests; print(requests.get('http://{}/').status_code)"


@pytest.mark.power
def test_power_cycles(device: Board, proxy: Proxy, pytestconfig: pytest.Config, figure: Figure) -> None:
    """Each time the clock is back at 2000; a handshake whose stamp was older would be refused."""
    worst = 0.0
    device.install({"/main.py": "import machine, time\nprint('began', time.gmtime()[0], machine.reset_cause())\n"})
    power_on = device.run("import machine; print(machine.PWRON_RESET)").strip()
    for _ in range(pytestconfig.getoption("--power-cycles")):
        device.power_off()
        began = time.monotonic()
        device.power_on()
        device.wait_connected()
        worst = max(worst, time.monotonic() - began)
        device.wait_for(f"began 2000 {power_on}")
    device.run("import os; os.remove('/main.py')")
    assert "clock_went_back" not in json.dumps(proxy.device(device.device)["findings"])
    figure("power to handshake, the slowest", worst, "s")


@pytest.mark.wifi_ap
def test_wifi_gone_for_a_while(device: Board, proxy: Proxy, pytestconfig: pytest.Config, figure: Figure) -> None:
    """The same program goes on, with a connection of before and with new ones."""
    page = PAGE.format(proxy.gateway)
    assert device.run(page) == "200\n"
    device.wifi_off()
    device.run(f"import time; time.sleep({pytestconfig.getoption('--outage')})", 600)
    assert device.run("import network; print(network.WLAN(network.STA_IF).isconnected())") == "False\n"
    device.wifi_on()
    began = time.monotonic()
    program = f"""
import requests, time
deadline = time.ticks_add(time.ticks_ms(), 90_000)
while True:
    try:
        status = requests.get("http://{proxy.gateway}/").status_code
        break
    except OSError as error:
        if time.ticks_diff(deadline, time.ticks_ms()) < 0:
            raise
        time.sleep_ms(100)
print(status)
"""
    assert device.run(program, 120) == "200\n"
    figure("Wi-Fi back to the first page", time.monotonic() - began, "s")


def test_the_proxy_is_restarted(device: Board, proxy: Proxy, figure: Figure) -> None:
    """It knows the board's address, and speaks first."""
    proxy.stop()
    began = time.monotonic()
    proxy.start()
    proxy.wait_connected(device.device, since=began)
    figure("the proxy's start to the handshake", time.monotonic() - began, "s")
    assert device.run(PAGE.format(proxy.gateway), 60) == "200\n"


def test_the_proxys_address_changes(board: Board, make_proxy: MakeProxy, bench_address: str, figure: Figure) -> None:
    """The board knows two addresses of it, and goes on to the second one by itself."""
    second = free_port(socket.SOCK_DGRAM)
    proxy = make_proxy("proxy", "--endpoint", f"{bench_address}:{second}")
    board.join(proxy)
    board.start("import time\nwhile True:\n    time.sleep(1)\n")
    proxy.stop()
    proxy.port = second
    began = time.monotonic()
    proxy.start()
    board.reset()
    proxy.wait_connected(board.device, since=began)
    figure("the proxy's move to the handshake", time.monotonic() - began, "s")


@pytest.mark.long
@pytest.mark.wifi_names
def test_the_proxys_name_moves(board: Board, proxy: Proxy, figure: Figure) -> None:
    """To another address: the board, which runs on, resolves the name again once nobody answers its handshakes."""
    proxy.stop()
    proxy.name = NAME
    board.set_name(NAME, proxy.address)
    proxy.start()
    board.join(proxy)
    board.start(TALK.format(proxy.gateway))
    board.wait_for("answer 200")
    proxy.stop()
    proxy.address = str(ipaddress.ip_address(proxy.address) + 1)
    board.set_name(NAME, proxy.address)
    began = time.monotonic()
    proxy.start()
    proxy.wait_connected(board.device, since=began)
    figure("the name's move to the handshake", time.monotonic() - began, "s")
    assert board.run(PAGE.format(proxy.gateway), 60) == "200\n"


def test_a_second_proxy_takes_over(device: Board, proxy: Proxy, make_proxy: MakeProxy, figure: Figure) -> None:
    """The board is a device of both; it goes over when the first one is gone."""
    second = make_proxy("second")
    add = {"devices": [{"name": device.device, "public_key": proxy.device(device.device)["public_key"]}]}
    answer = second.client.request("POST", ["devices"], {**add, "format": "json", "qr": False})
    entry = tunnel_from_json(answer["devices"][0]["text"]).proxy
    device.run(
        "import json\nwith open('/lopower.json') as f: s = json.load(f)\n"
        f"s['proxies'].append(json.loads({json.dumps(entry)!r}))\n"
        "with open('/lopower.json', 'w') as f: json.dump(s, f)"
    )
    proxy.stop()
    began = time.monotonic()
    device.reset()
    second.wait_connected(device.device, since=began)
    figure("the first proxy's end to the second's handshake", time.monotonic() - began, "s")
    assert device.run(PAGE.format(second.gateway), 60) == "200\n"


@pytest.fixture
def bench_address(bench: object) -> str:
    """This host, as boards reach it."""
    return getattr(bench, "address", None) or HOST
