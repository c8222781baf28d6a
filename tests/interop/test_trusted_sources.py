"""A fleet behind one NAT: a daemon under load takes all of its handshakes once `trusted_sources` names the address."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import time
from collections import Counter
from pathlib import Path

from lopower.wire.wireguard import TYPE_COOKIE_REPLY, CookieReply
from lopower.wireguard.cookie import CookieGenerator
from tests.support.loopback_daemon import LoopbackDaemon, loopback_daemon

_FLOOD, _PROVEN = 600, 40


def counters(daemon: LoopbackDaemon) -> Counter[str]:
    said = json.loads(daemon.lopower("status", "--json").stdout)
    return Counter(said["counters"])


def burst(daemon: LoopbackDaemon, server: bytes) -> Counter[str]:
    """Bring the daemon under load, then send initiations that prove their address; what it counted of them."""
    before = counters(daemon)
    generator = CookieGenerator(server)
    initiation = bytes((1, 0, 0, 0)) + os.urandom(112)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.connect(("127.0.0.1", daemon.port))
        device.settimeout(10)
        for _ in range(_FLOOD):
            device.send(generator.add_macs(initiation, 0.0))
        answer = device.recv(2048)  # the last mac1 was the same as all others
        assert answer[0] == TYPE_COOKIE_REPLY
        assert generator.consume_reply(CookieReply.parse(answer), 0.0)
        proven = generator.add_macs(initiation, 0.0)
        for _ in range(_PROVEN):
            device.send(proven)
    deadline = time.monotonic() + 20
    while (spent := counters(daemon) - before)["handshake_not_authentic"] + spent["under_load_dropped"] + spent[
        "rate_limited"
    ] < _FLOOD + _PROVEN:
        assert time.monotonic() < deadline, spent
        time.sleep(0.05)
    return spent


def test_a_fleet_behind_one_nat(tmp_path: Path) -> None:
    settings = tmp_path / "lopower.toml"
    settings.write_text("")
    with loopback_daemon(tmp_path, LOPOWER_CONFIG=str(settings)) as daemon:
        server = base64.b64decode(json.loads(daemon.lopower("server", "show", "--json").stdout)["public_key"])
        spent = burst(daemon, server)
        assert spent["rate_limited"] >= _PROVEN - 5 - 20, "5 at once, 20 in a second"
        settings.write_text('trusted_sources = ["192.0.2.1", "127.0.0.0/8"]\n')
        daemon.send_signal(signal.SIGHUP)
        spent = burst(daemon, server)
        assert spent["cookie_replies_sent"] > 0, "it was under load"
        assert spent["rate_limited"] == 0
