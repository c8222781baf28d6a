"""`lopower up` as a process, in a network namespace, as a user would run it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.netns import Namespace

LOPOWER = Path(sys.executable).with_name("lopower")
START_SECONDS = 20.0


class LopowerDaemon:
    """One daemon with a state directory; may be started again after `stop` or `kill`."""

    def __init__(
        self,
        space: Namespace,
        directory: Path,
        *flags: str,
        endpoint: str,
        profile: Path | None = None,
    ) -> None:
        self.space = space
        self.state_dir = directory / "state"
        self.log = directory / "daemon.log"
        self._profile = profile
        self._flags = ["--state-dir", str(self.state_dir), "--endpoint", endpoint, *flags]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    @property
    def gateway_ipv4(self) -> str:
        """The gateway's IPv4 address."""
        address: str = self.json("server", "show")["gateway_ipv4"]
        return address

    @property
    def gateway_ipv6(self) -> str:
        """The gateway's IPv6 address."""
        address: str = self.json("server", "show")["gateway_ipv6"]
        return address

    def start(self) -> None:
        """Start, and wait until it answers."""
        python = [sys.executable, "-m", "cProfile", "-o", str(self._profile)] if self._profile else [sys.executable]
        with self.log.open("a") as log:
            self._process = self.space.popen(*python, LOPOWER, "up", *self._flags, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while self._call("status").returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not start:\n{self.log.read_text()}")
            time.sleep(0.05)

    def lopower(self, *arguments: str) -> str:
        """`lopower …`; its standard output."""
        done = self._call(*arguments)
        if done.returncode:
            raise AssertionError(f"lopower {shlex.join(arguments)}: {done.stderr}\n{self.log.read_text()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """`lopower … --json`."""
        return json.loads(self.lopower(*arguments, "--json"))

    def stop(self) -> int:
        """SIGTERM; the exit code. Harmless when it does not run."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        code = self._process.wait(30)
        self._process = None
        return code

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LOPOWER, *arguments, "--state-dir", str(self.state_dir)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
