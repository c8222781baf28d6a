"""A lopower daemon for a test, as a process, with its state in a directory of the test's."""

from __future__ import annotations

import ipaddress
import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from lopower.control.client import ControlClient
from lopower.control.errors import ControlError
from lopower_hil.bench.errors import BenchError
from lopower_hil.bench.recorder import Heard
from lopower_hil.loopback import HOST, free_port

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 15.0
_POLL: Final = 0.05

_LOPOWER: Final = (sys.executable, "-m", "lopower.cli.main")
# Nothing of a test leaves this host: the tailnet's library asks no router for a port, and must not reach the control
# server that it takes by default.
_SAFE: Final = {"TS_DISABLE_PORTMAPPER": "1", "TS_PANIC_IF_HIT_MAIN_CONTROL": "1"}


class Proxy:
    """One daemon; may be stopped and started again, with the same state or at another address.

    Attributes:
        client: of its control API.
        address: of this host, as boards reach it; "" to leave it to the daemon, which takes that of the default route.
        name: what devices dial in its place; "" for the address.
        port: UDP.
    """

    def __init__(self, directory: Path, heard: Heard, *, address: str = HOST, flags: tuple[str, ...] = ()) -> None:
        """`flags`: more settings of `lopower up`."""
        self.state_dir = directory / "state"
        self.address = address
        self.name = ""
        self.port = free_port(socket.SOCK_DGRAM)
        self.client = ControlClient([self.state_dir / "lopower.sock"])
        self._flags = flags
        self._heard = heard
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LOPOWER_")}
        self._environment = {**kept, **_SAFE, "LOPOWER_STATE_DIR": str(self.state_dir)}
        self.state_dir.mkdir(parents=True, mode=0o700)

    @property
    def endpoint(self) -> str:
        """What devices dial: address and port."""
        return str(self.client.get("server")["endpoints"][0])

    @property
    def gateway(self) -> str:
        """The gateway's IPv4 address inside the tunnel."""
        return str(self.client.get("server")["gateway_ipv4"])

    def start(self) -> None:
        """Start, and wait until it answers. Raises BenchError with what it said."""
        if self._process is not None:
            return
        where = [f"{self.address if _is_loopback(self.address) else ''}:{self.port}"]
        dialled = self.name or self.address
        endpoint = ["--endpoint", f"{dialled}:{self.port}"] if dialled else []
        self._process = subprocess.Popen(
            [*_LOPOWER, "up", "--listen", *where, *endpoint, *self._flags],
            env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._listen, args=(self._process,), name="proxy's log", daemon=True)
        self._reader.start()
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise BenchError("the proxy does not start: " + " / ".join(self._lines[-10:]))
            time.sleep(_POLL)

    def stop(self) -> None:
        """End it in order; its state stays. Harmless if it does not run."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._reader is not None:
            self._reader.join()

    def restart(self) -> None:
        """End it in order, and start it again."""
        self.stop()
        self.start()

    def lopower(self, *arguments: str) -> str:
        """`lopower …` for this daemon; what it printed. Raises BenchError if it fails."""
        done = subprocess.run(
            [*_LOPOWER, *arguments],
            env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        if done.returncode:
            raise BenchError(f"lopower {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """`lopower … --json`. Raises BenchError if it fails."""
        return json.loads(self.lopower(*arguments, "--json"))

    def serve(self, port: int, target: int | None = None) -> None:
        """Devices reach a TCP port of this host at the gateway's. Raises ControlError."""
        body = {"port": port, "protocol": "tcp", "target": f"{HOST}:{target or port}"}
        self.client.request("POST", ["served"], body)

    def serve_udp(self, port: int, target: int | None = None) -> None:
        """The same of UDP. Raises ControlError."""
        body = {"port": port, "protocol": "udp", "target": f"{HOST}:{target or port}"}
        self.client.request("POST", ["served"], body)

    def device(self, name: str) -> dict[str, Any]:
        """What the proxy knows of a device. Raises ControlError."""
        found: dict[str, Any] = self.client.get("devices", name)
        return found

    def wait_connected(self, name: str, timeout: float = 90.0, *, since: float = 0.0) -> None:
        """Wait until the proxy has seen a handshake of a device.

        Args:
            since: no older one counts; as `time.monotonic` has it.

        Raises BenchError with what the proxy says of the device instead.
        """

        def is_new(found: dict[str, Any]) -> bool:
            age = found["latest_handshake"]
            return age is not None and time.monotonic() - age >= since

        self.wait_device(name, is_new, "connect", timeout)

    def wait_device(
        self, name: str, satisfied: Callable[[dict[str, Any]], bool], what: str, timeout: float = 90.0
    ) -> dict[str, Any]:
        """Wait until what the proxy knows of a device is as it should be; all of it.

        Raises BenchError: it did not do `what`.
        """
        deadline = time.monotonic() + timeout
        found: dict[str, Any] = {}
        with closing(self.client.watch("devices", name, interval=0.2)) as watch:
            for found in watch:
                if satisfied(found):
                    return found
                if time.monotonic() > deadline:
                    break
        findings = "; ".join(str(finding["text"]) for finding in found.get("findings", ()))
        raise BenchError(f"{name} did not {what} within {timeout:g} s; the proxy says: {findings or found}")

    def wait_for_tailnet(self, timeout: float = 60.0) -> None:
        """Wait until its node is up and knows the others. Raises BenchError."""
        deadline = time.monotonic() + timeout
        status: dict[str, Any] = {}
        with closing(self.client.watch("status", interval=0.2)) as watch:
            for status in watch:
                tailnet = status["data_plane"]["tailnet"]
                if tailnet["connected"] and tailnet["node"]["peers"]:
                    return
                if time.monotonic() > deadline:
                    break
        raise BenchError(f"the proxy is no node of the tailnet after {timeout:g} s: {status['data_plane']['tailnet']}")

    @property
    def tailnet_name(self) -> str:
        """The MagicDNS name of its node."""
        return str(self.client.get("status")["data_plane"]["tailnet"]["node"]["dns_name"])

    def wait_for_log(self, text: str, timeout: float = 30.0) -> None:
        """Wait until it has logged `text`. Raises BenchError."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not any(text in line for line in self._lines):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BenchError(f"the proxy did not log {text!r} within {timeout:g} s, but: {self._lines[-10:]}")
                self._changed.wait(left)

    def _answers(self) -> bool:
        try:
            self.client.get("server")
        except ControlError:
            return False
        return True

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Runs in a thread, until the process ends."""
        assert process.stdout is not None
        with process.stdout as log:
            for line in log:
                self._heard(line.rstrip("\n"))
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:  # a name, or none
        return False
