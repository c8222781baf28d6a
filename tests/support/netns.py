"""Network namespaces joined by veth pairs, for tests that run as root; nothing of them is left behind.

Three of them make a small world: the device, the host that runs the proxy, and a LAN behind it with a server.

    device 192.0.2.2 ── 192.0.2.1 host 198.51.100.1 ── 198.51.100.2 lan
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.support.requirements import require_program, require_root

T = TypeVar("T")

_numbers = itertools.count()
_CLONE_NEWNET: Final = 0x40000000


class Namespace:
    """One network namespace, with loopback up."""

    def __init__(self, label: str) -> None:
        self.name = f"lp{os.getpid()}x{next(_numbers)}{label}"
        _ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def command(self, *arguments: str | Path) -> list[str]:
        """What runs `arguments` inside."""
        return ["ip", "netns", "exec", self.name, *map(str, arguments)]

    def run(self, *arguments: str | Path, check: bool = True, timeout: float = 60, **options: Any) -> str:
        """Run to its end; standard output. Standard error goes to the exception if it fails."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=timeout, **options
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start and go on."""
        return subprocess.Popen(self.command(*arguments), text=True, **options)

    def ip(self, *arguments: str) -> None:
        """`ip` inside."""
        _ip("-n", self.name, *arguments)

    def sysctl(self, **values: int | str) -> None:
        """Set `net.ipv4` values of this namespace by name, such as `tcp_sack=0`."""
        for name, value in values.items():
            self.run("sh", "-c", f"echo '{value}' > /proc/sys/net/ipv4/{name}")

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in a thread that is inside; the sockets it opens stay there. What it raises is raised here."""
        results: list[T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                with open(f"/run/netns/{self.name}", "rb") as space:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(space.fileno(), _CLONE_NEWNET):  # os.setns came with Python 3.12
                        raise OSError(ctypes.get_errno(), f"setns to {self.name}")
                results.append(function())
            except BaseException as exc:
                errors.append(exc)

        thread = threading.Thread(target=work, name=f"in {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def wait_for_port(self, port: int, protocol: str = "tcp", timeout: float = 10.0) -> None:
        """Wait until something inside listens on a TCP port, or has bound a UDP port."""
        option = {"tcp": "-Htln", "udp": "-Huln"}[protocol]
        wait_until(
            lambda: bool(self.run("ss", option, f"sport = :{port}").strip()),
            timeout,
            f"{protocol} port {port} is bound",
        )

    @contextmanager
    def capture(self, link: str, *expression: str) -> Iterator[list[str]]:
        """tcpdump's lines of what passes a link, there to be read when the block has ended."""
        require_program("tcpdump")
        lines: list[str] = []
        command = ["tcpdump", "-n", "-l", "-U", "--immediate-mode", "-i", link, *expression]
        process = self.popen(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            assert process.stderr is not None
            for line in process.stderr:  # nothing is captured before it says so
                if "listening on" in line:
                    break
            yield lines
            time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=10)
            lines += filter(None, output.splitlines())  # the interrupt leaves an empty one

    def delete(self) -> None:
        """End what still runs inside, and remove it."""
        _delete(self.name)


class World:
    """The three namespaces, and what was started in them."""

    DEVICE_IPV4, HOST_IPV4 = "192.0.2.2", "192.0.2.1"
    DEVICE_IPV6, HOST_IPV6 = "2001:db8:1::2", "2001:db8:1::1"
    HOST_LAN_IPV4, LAN_IPV4 = "198.51.100.1", "198.51.100.2"
    HOST_LAN_IPV6, LAN_IPV6 = "2001:db8:2::1", "2001:db8:2::2"

    def __init__(self) -> None:
        self.namespaces: list[Namespace] = []
        self.processes: list[subprocess.Popen[str]] = []
        try:
            self.device, self.host, self.lan = (self._add(label) for label in ("dev", "host", "lan"))
            join(self.device, self.host, "out0", "dev0")
            join(self.host, self.lan, "lan0", "out0")
            for space, link, addresses in (
                (self.device, "out0", (f"{self.DEVICE_IPV4}/24", f"{self.DEVICE_IPV6}/64")),
                (self.host, "dev0", (f"{self.HOST_IPV4}/24", f"{self.HOST_IPV6}/64")),
                (self.host, "lan0", (f"{self.HOST_LAN_IPV4}/24", f"{self.HOST_LAN_IPV6}/64")),
                (self.lan, "out0", (f"{self.LAN_IPV4}/24", f"{self.LAN_IPV6}/64")),
            ):
                for address in addresses:
                    options = ("nodad",) if ":" in address else ()
                    space.ip("address", "add", address, "dev", link, *options)
        except BaseException:
            self.close()
            raise

    def start(self, space: Namespace, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program that ends with this world."""
        process = space.popen(*arguments, **options)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End everything."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for space in self.namespaces:
            space.delete()

    def _add(self, label: str) -> Namespace:
        space = Namespace(label)
        self.namespaces.append(space)
        return space


def join(one: Namespace, other: Namespace, one_link: str, other_link: str) -> None:
    """A veth pair between two namespaces."""
    _ip(
        "link", "add", one_link, "netns", one.name, "type", "veth", "peer", "name", other_link, "netns", other.name
    )  # fmt: skip
    one.ip("link", "set", one_link, "up")
    other.ip("link", "set", other_link, "up")


def wait_until(condition: Callable[[], object], timeout: float, what: str) -> float:
    """Wait for what nothing announces; seconds it took. Fails, naming `what`, after `timeout` seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - began


@contextmanager
def one_namespace(label: str) -> Iterator[Namespace]:
    """A namespace of its own, joined to nothing; skips the test by name where it cannot be had."""
    require_root()
    require_program("ip")
    remove_orphans()
    space = Namespace(label)
    try:
        yield space
    finally:
        space.delete()


def remove_orphans() -> None:
    """Delete namespaces of ours, with what runs inside, whose makers were killed before they could."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        name = line.split()[0]
        maker, cross, _ = name.removeprefix("lp").partition("x")
        if name.startswith("lp") and cross and maker.isdigit() and not Path(f"/proc/{maker}").exists():
            _delete(name)


@contextmanager
def network_world() -> Iterator[World]:
    """A world for one test; skips it by name where it cannot be had."""
    require_root()
    require_program("ip")
    remove_orphans()
    world = World()
    try:
        yield world
    finally:
        world.close()


def _delete(name: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    for pid in pids.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        ["ip", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise AssertionError(f"ip {_words(arguments)}: {done.stderr.strip()}")


def _words(arguments: Sequence[str]) -> str:
    return " ".join(arguments)
