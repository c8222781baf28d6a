"""`kill -9` while devices are being added: each is there with all that belongs to it, or not at all."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests.support.registries import open_registry

ROUNDS = 12

# Adds pairs of devices whose rules name each other, says which it was told are kept, and goes on until it is killed.
ADDER = """
import sys
from pathlib import Path
from tests.support.registries import new_device, open_registry
registry = open_registry(Path(sys.argv[1]))
for number in range(1000):
    name = f"r{sys.argv[2]}-{number}"
    registry.add_many([new_device(name + "-a", f"device:{name}-b", "lan"), new_device(name + "-b", f"device:{name}-a")])
    print(name, flush=True)
    if number % 3 == 2:
        registry.remove(name + "-a")
        print("-" + name, flush=True)
"""


def test_no_device_is_half_there(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    open_registry(tmp_path).close()
    # A range large enough for all rounds.
    registry = open_registry(tmp_path)
    registry.set_ranges(None, registry.ranges.ipv6)
    registry.close()
    acknowledged: list[str] = []
    for number in range(ROUNDS):
        command = [sys.executable, "-c", ADDER, str(tmp_path), str(number)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged.append(process.stdout.readline().strip())
            try:
                process.wait(moments.uniform(0, 0.05))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            acknowledged += process.stdout.read().split()
        connection = sqlite3.connect(tmp_path / "devices.db")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.close()
        registry = open_registry(tmp_path)
        devices = {device.name: device for device in registry.devices()}
        registry.close()
        for name in acknowledged:
            if not name.startswith("-"):
                assert f"{name}-b" in devices, f"an acknowledged device is lost (seed {seed})"
                assert f"-{name}" not in acknowledged or f"{name}-a" not in devices
        for name, device in devices.items():
            other = name[:-1] + ("a" if name.endswith("b") else "b")
            if other in devices:
                assert [rule.device for rule in device.rules if rule.device] == [other], f"seed {seed}"
                assert len(device.rules) == (2 if name.endswith("a") else 1)
            else:
                assert name.endswith("b")
                assert device.rules == (), f"a rule outlives the device it names (seed {seed})"
        addresses = [device.ipv6 for device in devices.values()]
        assert len(set(addresses)) == len(addresses)
