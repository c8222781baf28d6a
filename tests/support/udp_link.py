"""A bad link, for UDP: a relay that loses, delays, reorders and duplicates datagrams by a seed.

    python -m tests.support.udp_link LISTEN_PORT TO_HOST TO_PORT [--loss 0.01] [--delay 0.02] [--jitter 0.01] …

The first sender is the near side. `SIGUSR1` gives the relay a new socket on the far side, which is what a NAT does to a
device when it forgets its binding.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import socket
from dataclasses import dataclass

BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class Impairment:
    """Shares are from 0 to 1, times in seconds; `reorder` is the share that skips the delay."""

    loss: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0


class Relay:
    """Between one near side and one far side."""

    def __init__(self, port: int, far: tuple[str, int], impairment: Impairment, seed: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._impairment = impairment
        self._dice = random.Random(seed)
        self._far = far
        self._near_address: tuple[str, int] | None = None
        self._latest = 0.0
        self._near = self._socket()
        self._near.bind(("127.0.0.1", port))
        self._far_socket = self._socket()
        self._loop.add_reader(self._near.fileno(), self._from_near)
        self._loop.add_reader(self._far_socket.fileno(), self._from_far)

    def rebind(self) -> None:
        """A new source port towards the far side."""
        self._loop.remove_reader(self._far_socket.fileno())
        self._far_socket.close()
        self._far_socket = self._socket()
        self._loop.add_reader(self._far_socket.fileno(), self._from_far)

    def _socket(self) -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        return made

    def _from_near(self) -> None:
        for _ in range(64):
            try:
                data, self._near_address = self._near.recvfrom(65_535)
            except OSError:
                return
            self._impair(data, True)

    def _from_far(self) -> None:
        for _ in range(64):
            try:
                data = self._far_socket.recv(65_535)
            except OSError:
                return
            self._impair(data, False)

    def _impair(self, data: bytes, to_far: bool) -> None:
        link, dice = self._impairment, self._dice
        if dice.random() < link.loss:
            return
        copies = 2 if dice.random() < link.duplicate else 1
        for _ in range(copies):
            delay = link.delay + dice.random() * link.jitter
            if dice.random() < link.reorder:
                delay = 0.0
            if delay:
                self._loop.call_later(delay, self._send, data, to_far)
            else:
                self._send(data, to_far)

    def _send(self, data: bytes, to_far: bool) -> None:
        try:
            if to_far:
                self._far_socket.sendto(data, self._far)
            elif self._near_address is not None:
                self._near.sendto(data, self._near_address)
        except OSError:
            pass  # a full buffer loses, as a link does


async def relay(arguments: argparse.Namespace) -> None:
    """Run until terminated."""
    impairment = Impairment(
        arguments.loss, arguments.delay, arguments.jitter, arguments.reorder, arguments.duplicate
    )  # fmt: skip
    running = Relay(arguments.port, (arguments.host, arguments.to), impairment, arguments.seed)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, running.rebind)
    print("ready", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("host")
    parser.add_argument("to", type=int)
    for name in ("loss", "delay", "jitter", "reorder", "duplicate"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(relay(parser.parse_args()))


if __name__ == "__main__":
    main()
