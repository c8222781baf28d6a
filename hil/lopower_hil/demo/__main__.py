"""The demonstration: a daemon on loopback with a temporary state directory, two virtual devices, and what they can do.

Exit code 0 if every step ended as it should. With `--keep` the daemon stays up until Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import qrcode

from lopower_hil.demo.servers import HOST
from lopower_hil.demo.steps import STEPS, Gateway, StepFailedError
from lopower_hil.virtual_device import DeviceConfiguration, VirtualDevice

LOPOWER = str(Path(sys.executable).with_name("lopower"))
START_SECONDS = 20.0


class Demonstration:
    """The processes of one demonstration, and the temporary directory they live in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.began = time.monotonic()
        self.processes: list[subprocess.Popen[str]] = []

    def say(self, text: str = "") -> None:
        """One line, now."""
        print(text, flush=True)

    def lopower(self, *arguments: str) -> str:
        """Run `lopower …` against this demonstration's daemon; its standard output."""
        done = subprocess.run(
            [LOPOWER, *arguments, "--state-dir", str(self.state)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StepFailedError(f"lopower {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def start_servers(self) -> dict[str, int]:
        """Start what the devices will talk to; the ports."""
        servers = subprocess.Popen(
            [sys.executable, "-m", "lopower_hil.demo.servers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(servers)
        assert servers.stdout is not None
        ports: dict[str, int] = json.loads(servers.stdout.readline())
        return ports

    def start_daemon(self, resolver_port: int) -> int:
        """Start `lopower up` and wait until it answers; its UDP port."""
        port = free_udp_port()
        log = (self.directory / "daemon.log").open("w")
        command = [
            LOPOWER, "up", "--state-dir", str(self.state), "--listen", f"{HOST}:{port}",
            "--endpoint", f"{HOST}:{port}", "--dns-route", f"demo.example={HOST}:{resolver_port}",
        ]  # fmt: skip
        self.say(f"$ {shlex.join(['lopower', *command[1:]])} &")
        daemon = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        log.close()
        self.processes.append(daemon)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.lopower("status")
                return port
            except StepFailedError as error:
                if daemon.poll() is not None or time.monotonic() > deadline:
                    said = (self.directory / "daemon.log").read_text().strip()
                    raise StepFailedError(f"the daemon did not start: {said or error}") from None
            time.sleep(0.05)

    def stop(self) -> None:
        """End all processes, in order, and wait for them."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def free_udp_port() -> int:
    """A UDP port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def free_tcp_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def show_qr(text: str) -> None:
    """The QR code of a configuration, in half blocks."""
    code = qrcode.QRCode(border=2, error_correction=qrcode.ERROR_CORRECT_L)
    code.add_data(text)
    code.print_ascii(out=sys.stdout, invert=True)


async def run_steps(demonstration: Demonstration, configurations: dict[str, str], gateway: Gateway) -> int:
    """All steps with the first device, the first few with the others; how many failed."""
    failed = 0
    for position, (name, text) in enumerate(configurations.items()):
        demonstration.say(f"\n{name}")
        async with VirtualDevice(DeviceConfiguration.parse(text)) as device:
            for title, step in STEPS if position == 0 else STEPS[:3]:
                began = time.monotonic()
                try:
                    result = await step(device, gateway)
                    mark = "ok  "
                except (StepFailedError, OSError, EOFError, TimeoutError) as error:
                    failed += 1
                    result, mark = f"{type(error).__name__}: {error}", "FAIL"
                demonstration.say(f"  {mark} {title:<28} {(time.monotonic() - began) * 1e3:8.1f} ms   {result}")
                if mark == "FAIL" and title == "handshake":
                    break  # without a session nothing else can succeed
    return failed


def demonstrate(demonstration: Demonstration, keep: bool) -> int:
    """Run it all; the exit code."""
    say = demonstration.say
    demonstration.state.mkdir(mode=0o700)
    ports = demonstration.start_servers()
    demonstration.start_daemon(ports["resolver"])
    configurations: dict[str, str] = {}
    for name in ("kitchen", "garden"):
        say(f"$ lopower device add {name}")
        configurations[name] = demonstration.lopower("device", "add", name)
    say()
    say(configurations["kitchen"].rstrip())
    say()
    show_qr(configurations["kitchen"])
    closed = free_tcp_port()
    for port in (ports["web"], ports["bulk"], closed):
        say(f"$ lopower serve {port}")
        demonstration.lopower("serve", str(port))
    server: dict[str, Any] = json.loads(demonstration.lopower("server", "show", "--json"))
    gateway = Gateway(
        ipv4=server["gateway_ipv4"],
        ipv6=server["gateway_ipv6"],
        web_port=ports["web"],
        bulk_port=ports["bulk"],
        closed_port=closed,
    )
    failed = asyncio.run(run_steps(demonstration, configurations, gateway))
    say("\n$ lopower device list")
    say(demonstration.lopower("device", "list").rstrip())
    seconds = time.monotonic() - demonstration.began
    say(f"\n{'all steps ended as they should' if not failed else f'{failed} steps failed'}, after {seconds:.1f} s")
    if keep:
        state = demonstration.state
        say(f"The daemon stays up: try `lopower status --state-dir {state}`. Ctrl-C ends it.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            say()
    return 1 if failed else 0


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the daemon up until Ctrl-C")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory(prefix="lopower-demo-") as directory:
        os.chmod(directory, 0o700)
        demonstration = Demonstration(Path(directory))
        try:
            return demonstrate(demonstration, keep)
        except StepFailedError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        finally:
            demonstration.stop()


if __name__ == "__main__":
    sys.exit(main())
