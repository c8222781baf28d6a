"""sd_notify, against a socket in the service manager's place."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lopower.daemon.notify import Notifier


def test_says_what_the_manager_wants_to_hear(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "30000000",
            "WATCHDOG_PID": str(os.getpid()),
            "HOME": "/",
        }
        notifier = Notifier(environment)
        assert environment == {"HOME": "/"}, "children must not talk to our manager"
        assert notifier.watchdog_interval == 30.0
        notifier.ready("2 devices")
        notifier.alive()
        notifier.status("3 devices")
        notifier.reloading(1.5)
        notifier.stopping()
        assert [manager.recv(200) for _ in range(5)] == [
            b"READY=1\nSTATUS=2 devices",
            b"WATCHDOG=1",
            b"STATUS=3 devices",
            b"RELOADING=1\nMONOTONIC_USEC=1500000",
            b"STOPPING=1",
        ]


def test_abstract_sockets() -> None:
    name = f"lopower-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(5)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert manager.recv(100) == b"WATCHDOG=1"


def test_silent_without_a_manager_and_when_it_is_gone(tmp_path: Path) -> None:
    Notifier({}).ready("up")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("up")


def test_a_watchdog_for_another_process_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier(environment).watchdog_interval is None
