"""wireguard-go in a network namespace: the peer that we did not write. Its own release, and Debian's older one."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.netns import Namespace
from tests.support.requirements import require_program

VERSION = "v0.0.0-20260522210424-ecfc5a8d5446"
LINK = "wg0"


def upstream() -> Path:
    """The pinned release, built once per environment."""
    place = Path(sys.prefix) / "wireguard-go" / VERSION
    program = place / "wireguard"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # tests run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            require_program("go")
            subprocess.run(
                ["go", "install", f"golang.zx2c4.com/wireguard@{VERSION}"],
                env={**os.environ, "GOBIN": str(place)},
                check=True,
                capture_output=True,
                timeout=300,
            )
    return program


def debian() -> Path:
    """The distribution's, some years older."""
    require_program("wireguard-go")
    found = shutil.which("wireguard-go")
    assert found is not None
    return Path(found)


class WireguardGo:
    """One interface `wg0`."""

    def __init__(self, space: Namespace, program: Path) -> None:
        require_program("wg")
        self.space = space
        # Each has its configuration socket in /var/run/wireguard under the link's name, which all namespaces share: a
        # mount namespace of its own keeps them apart.
        self._directory = tempfile.TemporaryDirectory(prefix="lopower-wg-")
        self._process = subprocess.Popen(
            self._command(str(program), "-f", LINK), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while not (Path(self._directory.name) / f"{LINK}.sock").exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"{program} did not start (exit code {self._process.poll()})")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def configure(self, configuration: str, mtu: int = 1420) -> None:
        """Apply a wg-quick configuration: keys, addresses, routes."""
        plain = []
        addresses: list[str] = []
        networks: list[str] = []
        for line in configuration.splitlines():
            key, _, value = (part.strip() for part in line.partition("="))
            if key == "Address":
                addresses += [item.strip() for item in value.split(",")]
            elif key == "MTU":
                mtu = int(value)
            elif key != "DNS":
                plain.append(line)
                if key == "AllowedIPs":
                    networks += [item.strip() for item in value.split(",")]
        self.wg("setconf", LINK, "/dev/stdin", text="\n".join(plain) + "\n")
        for address in addresses:
            # The prefix of the configuration would make the whole range on-link; routes follow AllowedIPs alone.
            host = address.partition("/")[0]
            options = ("nodad",) if ":" in host else ()
            self.space.ip("address", "add", host + ("/128" if ":" in host else "/32"), "dev", LINK, *options)
        self.space.ip("link", "set", LINK, "mtu", str(mtu), "up")
        own = {address.partition("/")[0] for address in addresses}
        for network in networks:
            if network.partition("/")[0] not in own:
                self.space.ip("route", "add", network, "dev", LINK)

    def wg(self, *arguments: str, text: str = "") -> str:
        """`wg` for this interface."""
        done = subprocess.run(
            self._command("wg", *arguments), input=text, capture_output=True, text=True, check=False, timeout=10
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def latest_handshake(self) -> int:
        """Seconds since 1970 of the only peer's latest handshake; 0 without one."""
        words = self.wg("show", LINK, "latest-handshakes").split()
        return int(words[1]) if len(words) > 1 else 0

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._directory.cleanup()

    def _command(self, *arguments: str) -> list[str]:
        script = 'mkdir -p /var/run/wireguard && mount --bind "$0" /var/run/wireguard && exec "$@"'
        return self.space.command(
            "unshare", "--mount", "--propagation", "private", "sh", "-c", script, self._directory.name, *arguments
        )  # fmt: skip


@contextmanager
def wireguard_go(space: Namespace, program: Path | None = None) -> Iterator[WireguardGo]:
    """A running wireguard-go, not configured yet."""
    running = WireguardGo(space, program or upstream())
    try:
        yield running
    finally:
        running.stop()


if __name__ == "__main__":
    print(upstream())
