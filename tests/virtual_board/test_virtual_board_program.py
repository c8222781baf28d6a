"""What programs find on a virtual board: clock, sleep, timers, watchdog, storage, radio; and power that is cut."""

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lopower_hil.virtual_board.radio import AccessPoint
from lopower_provisioning import filesystem
from tests.support.dns_certificates import make_certificates
from tests.support.micropython import device_settings
from tests.support.proxy import running_proxy
from tests.support.virtual_boards import chip_named, esptool, mpremote, virtual_board


def program(text: str) -> dict[str, bytes]:
    """A main.py that says when it is done."""
    return {"main.py": text.encode() + b"\nprint('done')\n"}


def test_clock_sleep_and_power(tmp_path: Path) -> None:
    """2000-01-01 when power comes; deep sleep keeps clock and RTC memory, a cut does not."""
    text = (
        "import machine, time\nrtc = machine.RTC()\n"
        "print('cause', machine.reset_cause(), 'memory', rtc.memory(), 'year', time.localtime()[0])\n"
        "if machine.reset_cause() == machine.PWRON_RESET:\n"
        "    assert time.time() < 60 and rtc.datetime()[:4] == (2000, 1, 1, 5)\n"
        "    rtc.datetime((2031, 5, 6, 0, 7, 8, 9, 0))\n"
        "    assert time.localtime()[:5] == (2031, 5, 6, 7, 8)\n"
        "    assert time.gmtime(time.mktime((2031, 5, 6, 7, 8, 9, 0, 0))) == (2031, 5, 6, 7, 8, 9, 1, 126)\n"
        "    rtc.memory(b'kept')\n    machine.deepsleep(300)\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        printed = board.wait_for("done")
        assert "cause 1 memory b'' year 2000" in printed
        assert "DEEPSLEEP_RESET" in printed
        assert "cause 4 memory b'kept' year 2031" in printed
        mark = len(board.serial_text())
        board.cut_power()
        board.power_on()
        assert "cause 1 memory b'' year 2000" in board.wait_for("done", since=mark)


def test_ports_that_the_host_has(tmp_path: Path) -> None:
    """They are the board's all the same, each once."""
    with socket.create_server(("", 0)) as taken:
        text = (
            "import socket\nfirst = socket.socket()\n"
            f"first.bind(('', {taken.getsockname()[1]}))\nfirst.listen(1)\nprint('bound')\n"
            f"second = socket.socket()\ntry: second.bind(('', {taken.getsockname()[1]}))\n"
            "except OSError as error: print('errno', error.errno)\nfirst.close()\n"
            f"second.bind(('', {taken.getsockname()[1]}))\n"
        )
        with virtual_board(tmp_path, program(text)) as board:
            printed = board.wait_for("done")
    assert "bound\r\n" in printed
    assert "errno 98" in printed


def test_watchdog_and_reset_causes(tmp_path: Path) -> None:
    text = (
        "import machine, time\ncause = machine.reset_cause()\nprint('cause', cause)\n"
        "if cause == machine.PWRON_RESET: machine.reset()\n"
        "if cause == machine.HARD_RESET:\n"
        "    w = machine.WDT(timeout=400)\n"
        "    for _ in range(8):\n        time.sleep_ms(100)\n        w.feed()\n"
        "    print('fed')\n"
        "    while True: pass\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        printed = board.wait_for("done")
        assert [line for line in printed.splitlines() if line in ("cause 1", "cause 2", "fed", "cause 3", "done")] == [
            "cause 1", "cause 2", "fed", "cause 3", "done",
        ]  # fmt: skip


def test_soft_reset_out_of_main(tmp_path: Path) -> None:
    """sys.exit() and machine.soft_reset() begin anew; what is wrong with a program leads to the REPL."""
    text = (
        "import machine, sys\nrtc = machine.RTC()\nn = len(rtc.memory())\nprint('start', n, machine.reset_cause())\n"
        "rtc.memory(b'x' * (n + 1))\n"
        "if n == 0: machine.soft_reset()\nif n == 1: sys.exit(3)\nraise ValueError('wrong')\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        printed = board.wait_for(">>> ")
        assert "start 0 1\r\nMPY: soft reboot\r\nstart 1 5\r\nMPY: soft reboot\r\nstart 2 5\r\nTraceback" in printed
        assert "ValueError: wrong" in printed
        assert "done" not in printed


def test_timers_run_beside_the_program_and_at_the_prompt(tmp_path: Path) -> None:
    text = (
        "import machine, time\nticks = []\n"
        "timer = machine.Timer(-1)\ntimer.init(period=20, callback=lambda t: ticks.append(t is timer))\n"
        "once = []\nmachine.Timer(1, mode=machine.Timer.ONE_SHOT, period=30, callback=lambda t: once.append(1))\n"
        "time.sleep_ms(600)\ncount = len(ticks)\nassert count > 5 and all(ticks) and once == [1], (count, once)\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        board.wait_for("done")
        said = mpremote(
            board, "resume", "exec", "print(len(ticks) > count)\ntimer.deinit()\nn = len(ticks)",
            "exec", "import time; time.sleep_ms(100); print(len(ticks) - n)",
        )  # fmt: skip
        assert said.split() == ["True", "0"]


def test_a_stream_beside_the_serial_line(tmp_path: Path) -> None:
    """os.dupterm: it gets what is printed, its Ctrl-C ends a program, the REPL reads from it until its end."""
    text = (
        "import io, os\n"
        "class Stream(io.IOBase):\n"
        "    typed, got = [b'\\x03'], bytearray()\n"
        "    def readinto(self, buffer):\n"
        "        if not self.typed: return None\n"
        "        data = self.typed.pop(0)\n        buffer[:len(data)] = data\n        return len(data)\n"
        "    def write(self, data):\n        self.got += data\n        return len(data)\n"
        "assert os.dupterm(Stream()) is None\nprint('hello')\n"
        "try:\n    while True: pass\nexcept KeyboardInterrupt: print('interrupted')\n"
        "Stream.typed += [b'print(6 *', b' 7, Stream.got[:7])\\r', b'', b'nobody reads this']\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        printed = board.wait_for("dupterm: EOF received, deactivating")
        assert "hello\r\ninterrupted\r\ndone\r\n" in printed
        assert "42 bytearray(b'hello\\r\\n')" in printed
        assert "nobody" not in printed


def test_storage_survives(tmp_path: Path) -> None:
    """esp32.NVS is in the flash, and Partition shows the table that was flashed."""
    text = (
        "import esp32\nnvs = esp32.NVS('app')\n"
        "try: n = nvs.get_i32('starts')\nexcept OSError: n = 0\n"
        "nvs.set_i32('starts', n + 1)\nnvs.set_blob('b', b'\\x00\\xff')\nnvs.commit()\n"
        "buffer = bytearray(2)\nassert esp32.NVS('app').get_blob('b', buffer) == 2 and buffer == b'\\x00\\xff'\n"
        "print('starts', n, [p.info()[4] for p in esp32.Partition.find(esp32.Partition.TYPE_DATA)],"
        " esp32.Partition(esp32.Partition.RUNNING).info()[4])\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        assert "starts 0 ['nvs', 'phy_init', 'vfs'] factory" in board.wait_for("done")
        mark = len(board.serial_text())
        board.cut_power()
        board.power_on()
        assert "starts 1 " in board.wait_for("done", since=mark)


def test_radio(tmp_path: Path) -> None:
    """Scan, wrong password, no such network, joined; the link goes and comes back; statuses as documented."""
    text = (
        "import network, socket, time\nw = network.WLAN(network.STA_IF)\nw.active(True)\n"
        "def until(status):\n"
        "    end = time.ticks_add(time.ticks_ms(), 20000)\n"
        "    while w.status() != status and time.ticks_diff(end, time.ticks_ms()) > 0: time.sleep_ms(20)\n"
        "    assert w.status() == status, w.status()\n"
        "assert w.status() == network.STAT_IDLE\n"
        "print('scan', [(n[0], n[3], n[4]) for n in w.scan()])\n"
        "w.connect('Nowhere', 'password')\nuntil(network.STAT_NO_AP_FOUND)\n"
        "w.connect('Home', 'wrong password')\nuntil(network.STAT_WRONG_PASSWORD)\nassert not w.isconnected()\n"
        "try: socket.getaddrinfo('127.0.0.1', 80)\nexcept OSError as error: print('no link', error.errno)\n"
        "w.connect('Home', 'right password')\nassert w.status() == network.STAT_CONNECTING\n"
        "until(network.STAT_GOT_IP)\nassert w.isconnected() and w.status('rssi') == -40\n"
        "print('joined', w.ifconfig(), w.ipconfig('addr4'), w.config('mac'))\n"
        "print('named', socket.getaddrinfo('printer.example', 80)[0][-1])\n"
        "print('radio off now')\nuntil(network.STAT_BEACON_TIMEOUT)\nassert w.ifconfig()[0] == '0.0.0.0'\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "try: s.sendto(b'x', ('127.0.0.1', 9))\nexcept OSError as error: print('refused')\n"
        "print('radio on now')\nuntil(network.STAT_GOT_IP)\n"
        "print('access points gone now')\nuntil(network.STAT_BEACON_TIMEOUT)\n"
    )
    points = [
        AccessPoint("Far", rssi=-85),
        AccessPoint(
            "Home",
            "right password",
            rssi=-40,
            address=("127.0.0.1", "255.0.0.0", "127.0.0.1", "127.0.0.53"),
            names={"printer.example": "127.0.0.9"},
        ),
    ]
    with virtual_board(tmp_path, program(text), access_points=points, join_ms=100) as board:
        printed = board.wait_for("radio off now")
        assert "scan [(b'Home', -40, 3), (b'Far', -85, 0)]" in printed
        assert "no link -202" in printed
        assert "joined ('127.0.0.1', '255.0.0.0', '127.0.0.1', '127.0.0.53')" in printed
        assert "named ('127.0.0.9', 80)" in printed
        board.radio(on=False)
        assert "refused" in board.wait_for("radio on now")
        board.radio(on=True)
        board.wait_for("access points gone now")
        board.set_access_points([])
        board.wait_for("done")


def test_sockets(tmp_path: Path) -> None:
    """TCP and UDP of the host through the radio: tuples as addresses, poll, streams; lost and slowed as it is told."""
    server = socket.create_server(("127.0.0.1", 0))
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"line\n" + connection.recv(100).upper())
        while True:
            data, source = datagrams.recvfrom(2048)
            if data == b"end":
                return
            datagrams.sendto(data[::-1], source)

    thread = threading.Thread(target=serve)
    thread.start()
    text = (
        "import network, select, socket, time, asyncio\nw = network.WLAN(network.STA_IF)\nw.active(True)\n"
        "w.connect('virtual')\nwhile not w.isconnected(): time.sleep_ms(10)\n"
        f"tcp, udp = {server.getsockname()[1]}, {datagrams.getsockname()[1]}\n"
        "async def talk():\n"
        "    reader, writer = await asyncio.open_connection('127.0.0.1', tcp)\n"
        "    writer.write(b'shout')\n    await writer.drain()\n"
        "    print('tcp', await reader.readline(), await reader.read(100))\n    writer.close()\n"
        "asyncio.run(talk())\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "p = select.poll()\np.register(s, select.POLLIN)\nassert p.poll(0) == []\n"
        "s.sendto(b'abc', ('127.0.0.1', udp))\nassert p.poll(5000)[0][0] is s\n"
        "print('udp', s.recvfrom(100) == (b'cba', ('127.0.0.1', udp)))\n"
        "s.settimeout(0.05)\n"
        "try: s.recv(10)\nexcept OSError as error: print('timeout', error.errno)\n"
        "print('make it slow')\nwhile True:\n"
        "    t = time.ticks_ms()\n    s.sendto(b'x' * 1000, ('127.0.0.1', udp))\n"
        "    if time.ticks_diff(time.ticks_ms(), t) >= 150: break\n    time.sleep_ms(10)\n"
        "print('lose all')\nlost = 0\nwhile lost < 3:\n    time.sleep_ms(20)\n    s.setblocking(False)\n    try:\n"
        "        while True: s.recv(2000)\n    except OSError: pass\n"
        "    s.settimeout(0.2)\n    s.sendto(b'y', ('127.0.0.1', udp))\n"
        "    try:\n        s.recv(10)\n        lost = 0\n    except OSError: lost += 1\n"
        "print('good again')\ntime.sleep(1)\ns.sendto(b'end', ('127.0.0.1', udp))\n"
    )
    try:
        with virtual_board(tmp_path, program(text)) as board:
            printed = board.wait_for("make it slow")
            assert "tcp b'line\\n' b'SHOUT'" in printed
            assert "udp True" in printed
            assert "timeout 110" in printed
            board.slow_radio(bytes_per_second=5000)  # a packet of 1,000 bytes takes 200 ms
            board.wait_for("lose all")
            board.slow_radio(loss=1.0)
            board.wait_for("good again")
            board.slow_radio()
            board.wait_for("done")
    finally:
        datagrams.sendto(b"end", datagrams.getsockname())
        thread.join(10)
        server.close()
        datagrams.close()


def test_tls_servers_and_timeouts(tmp_path: Path) -> None:
    """requests over TLS, a server on the board, select.select, and dials that end in time while a timer runs."""
    _, certificate = make_certificates(tmp_path, ("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with context.wrap_socket(connection, server_side=True) as stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += stream.recv(1000)
            stream.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"y" * 50_000)

    full = socket.create_server(("127.0.0.1", 0), backlog=0)  # what it does not accept is not answered
    waiting = [socket.socket() for _ in range(3)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(full.getsockname())
    with free_port() as closed:
        pass
    thread = threading.Thread(target=serve)
    thread.start()
    text = (
        "import machine, network, requests, select, socket, time\nw = network.WLAN(network.STA_IF)\nw.active(True)\n"
        "w.connect('virtual')\nwhile not w.isconnected(): time.sleep_ms(10)\n"
        "timer = machine.Timer(0, period=20, callback=lambda t: None)\n"
        f"response = requests.get('https://127.0.0.1:{server.getsockname()[1]}/')\n"
        "print('tls', response.status_code, len(response.content))\n"
        "def dial(port):\n    s = socket.socket()\n    s.settimeout(0.3)\n"
        "    try: s.connect(('127.0.0.1', port))\n    except OSError as error: return error.errno\n"
        f"print('closed', dial({closed}), 'silent', dial({full.getsockname()[1]}))\n"
        "s = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen(1)\n"
        f"knock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.settimeout(0.2)\n"
        "try: s.accept()\nexcept OSError as error: print('nobody', error.errno)\n"
        "print(select.select([s], [], [], 0.1), len(select.select([], [knock], [], 0)[1]))\n"
    )
    try:
        with virtual_board(tmp_path, program(text)) as board:
            printed = board.wait_for("done")
            assert "tls 200 50000" in printed
            assert "closed 111 silent 110" in printed
            assert "nobody 110\r\n([], [], []) 1" in printed
    finally:
        thread.join(10)
        for one in (server, full, *waiting):
            one.close()


async def test_a_server_on_the_board(tmp_path: Path) -> None:
    with free_port() as port:
        pass
    text = (
        "import asyncio, network, time\nw = network.WLAN(network.STA_IF)\nw.active(True)\n"
        "w.connect('virtual')\nwhile not w.isconnected(): time.sleep_ms(10)\n"
        "async def main():\n    end = asyncio.Event()\n    async def handle(reader, writer):\n"
        "        writer.write(b'hello ' + await reader.readline())\n        await writer.drain()\n"
        "        writer.close()\n        await writer.wait_closed()\n        end.set()\n"
        f"    await asyncio.start_server(handle, '127.0.0.1', {port})\n    print('listening')\n    await end.wait()\n"
        "asyncio.run(main())\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        await asyncio.to_thread(board.wait_for, "listening")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"there\n")
        assert await reader.read() == b"hello there\n"
        writer.close()
        await asyncio.to_thread(board.wait_for, "done")


@contextmanager
def free_port() -> Iterator[int]:
    """A port on which nobody listens once this is left."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        yield probe.getsockname()[1]


@pytest.mark.parametrize("after", [1, 37, 4096, 5000, 9001, 20_000])
def test_power_cut_while_a_program_writes(tmp_path: Path, after: int) -> None:
    """littlefs keeps its promise on this flash: what was closed before is whole, and the board boots."""
    text = (
        "import os\nif 'counter' not in os.listdir():\n"
        "    with open('counter', 'w') as f: f.write('0')\n"
        "print('counter', open('counter').read())\nprint('ready')\nif input() == 'write':\n"
        "    for n in range(1, 100):\n"
        "        with open('new', 'w') as f: f.write(str(n) * 500)\n"
        "        os.rename('new', 'counter')\n"
    )
    with virtual_board(tmp_path, program(text)) as board:
        board.wait_for("ready")
        board.cut_power(after_flash_bytes=after)
        _type(board, b"write\r")
        for _ in range(500):
            if board.state.name == "OFF":
                break
            threading.Event().wait(0.02)
        assert board.state.name == "OFF"
        mark = len(board.serial_text())
        board.power_on()
        printed = board.wait_for("ready", since=mark)
        value = printed.partition("counter ")[2].split()[0]
        assert value == "0" or (len(value) % 500 == 0 and value == value[: len(value) // 500] * 500)


async def test_lopower_on_a_board(tmp_path: Path) -> None:
    """The files that `lopower flash` writes, compiled for the board's chip: Wi-Fi, handshake, a page."""
    (tmp_path / "proxy").mkdir()
    text = (
        "import lopower, requests, time\nfrom lopower import kernels\nprint('native', kernels.__name__ == 'kernels')\n"
        "print('waited', lopower.wait(30), lopower.status()['state'])\n"
        "print(requests.get('http://10.90.0.1/').text)\nprint('first')\n"
        "input()\nstate = None\nwhile not state or 'Home is lost' not in state:\n"
        "    lopower.pump()\n    time.sleep_ms(20)\n    state = lopower.status()['state']\nprint(state)\n"
        "while True:\n    try:\n        print(requests.get('http://10.90.0.1/').text)\n        break\n"
        "    except OSError as error: print('failed', error)\n"
    )
    async with running_proxy(tmp_path / "proxy") as proxy:
        proxy.enrol("sensor")
        settings = device_settings(
            proxy.configuration("sensor"),
            wifi=[{"ssid": "Home", "password": "right password", "priority": 1}],
        )
        files = {
            **filesystem.device_files(chip_named("ESP32").architecture),
            **program(text),
            "lopower.json": json.dumps(settings).encode(),
        }
        points = [AccessPoint("Home", "right password")]
        with virtual_board(tmp_path, files, access_points=points) as board:
            printed = await asyncio.to_thread(board.wait_for, "first")
            assert "native True" in printed
            assert "waited True up" in printed
            assert "sensor, connected" in printed
            mark = len(board.serial_text())
            board.radio(on=False)
            _type(board, b"\r")
            await asyncio.to_thread(board.wait_for, "Home is lost: its beacons are not heard", since=mark)
            board.radio(on=True)
            assert "sensor, connected" in await asyncio.to_thread(board.wait_for, "done", since=mark)


def test_download_mode_by_button_and_by_program(tmp_path: Path) -> None:
    with virtual_board(tmp_path, program("")) as board:
        board.wait_for("done")
        board.hold_boot()
        board.press_reset()
        board.wait_for("waiting for download")
        board.hold_boot(False)
        assert board.state.name == "DOWNLOAD"
        assert "ESP32" in esptool(board, "chip-id")
        mark = len(board.serial_text())
        board.press_reset()
        board.wait_for("done", since=mark)


def _type(board: object, text: bytes) -> None:
    from serial import Serial

    with Serial(board.port) as port:  # type: ignore[attr-defined]
        port.write(text)
        port.flush()
