"""`lopower up` as a process on loopback, without root, and the command line that finds it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.proxy import free_udp_port

LOPOWER = str(Path(sys.executable).with_name("lopower"))
START_SECONDS = 90.0


class LoopbackDaemon:
    """One daemon with its state in a directory; `environment` is that of a user with an empty home."""

    def __init__(self, directory: Path, **variables: str) -> None:
        self.directory = directory
        self.state_dir = directory / "state"
        self.log = directory / "daemon.log"
        self.port = free_udp_port()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("LOPOWER_", "XDG_"))}
        self.environment = {**kept, "HOME": str(directory), "LOPOWER_STATE_DIR": str(self.state_dir), **variables}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        endpoint = f"127.0.0.1:{self.port}"
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [LOPOWER, "up", "--listen", endpoint, "--endpoint", endpoint],
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while self.lopower("status").returncode:
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End it; harmless when it does not run."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def send_signal(self, number: int) -> None:
        """To the process."""
        assert self._process is not None
        self._process.send_signal(number)

    def lopower(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command, without a terminal."""
        return subprocess.run(
            [LOPOWER, *arguments],
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def devices(self) -> dict[str, dict[str, Any]]:
        """Summaries by name."""
        done = self.lopower("device", "list", "--json")
        assert done.returncode == 0, done.stderr
        return {entry["name"]: entry for entry in json.loads(done.stdout)["devices"]}


@contextmanager
def loopback_daemon(directory: Path, **variables: str) -> Iterator[LoopbackDaemon]:
    """One that runs, with these variables in its environment."""
    daemon = LoopbackDaemon(directory, **variables)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
