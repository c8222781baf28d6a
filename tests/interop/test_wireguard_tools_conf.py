"""Our conf, read by wireguard-tools: wg-quick's parser, and wg's, which hands it to an interface."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from lopower.devices.configurations import configuration_of, render
from lopower.devices.server_facts import ServerEndpoint
from tests.support.registries import SERVER_PUBLIC_KEY, device, server_facts
from tests.support.requirements import require_program, require_root

PRIVATE = bytes(range(8, 40))
PRESHARED = bytes(range(101, 133))


@pytest.mark.parametrize("rules", [(), ("internet", "[fd00::/16]:80")])
def test_wg_quick_and_wg_take_the_conf(tmp_path: Path, rules: tuple[str, ...]) -> None:
    """A socket stands in for the interface's side, which is the cross-platform protocol of WireGuard's user space."""
    require_root()
    wg, wg_quick = require_program("wg"), require_program("wg-quick")
    own = device("kitchen", 2, *rules, preshared_key=PRESHARED)
    server = server_facts(endpoints=[ServerEndpoint("192.0.2.7", 51820)])
    path = tmp_path / "lopowertest.conf"
    path.write_text(render(own, server, "conf", PRIVATE))
    path.chmod(0o600)
    stripped = subprocess.run([wg_quick, "strip", str(path)], capture_output=True, text=True, check=True)
    assert stripped.stderr == ""
    assert "Address" not in stripped.stdout
    (tmp_path / "stripped.conf").write_text(stripped.stdout)

    sockets = Path("/var/run/wireguard")
    sockets.mkdir(mode=0o755, exist_ok=True)
    name = f"lptest{os.getpid() % 100_000}"
    received: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(sockets / f"{name}.sock"))
        try:
            listener.listen()
            listener.settimeout(10)
            thread = threading.Thread(target=_answer, args=(listener, received))
            thread.start()
            command = [wg, "setconf", name, str(tmp_path / "stripped.conf")]
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
            thread.join()
        finally:
            (sockets / f"{name}.sock").unlink()
    assert result.returncode == 0, result.stderr
    lines = received[0].splitlines()
    assert f"private_key={PRIVATE.hex()}" in lines
    assert f"public_key={SERVER_PUBLIC_KEY.hex()}" in lines
    assert f"preshared_key={PRESHARED.hex()}" in lines
    assert "endpoint=192.0.2.7:51820" in lines
    assert "persistent_keepalive_interval=25" in lines
    assert [line.removeprefix("allowed_ip=") for line in lines if line.startswith("allowed_ip=")] == [
        str(network) for network in configuration_of(own, server).allowed_ips
    ]


def _answer(listener: socket.socket, received: list[str]) -> None:
    """Take one `set` operation; before it `wg` connects to see whether anybody is there, and may `get`."""
    while not received:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            request = b""
            while not request.endswith(b"\n\n") and (data := connection.recv(65536)):
                request += data
            if request.startswith(b"set=1\n"):
                received.append(request.decode("ascii"))
            if request:
                connection.sendall(b"errno=0\n\n")
