"""A bad link, for UDP: a relay that loses, delays, reorders and duplicates datagrams by a seed.

    python -m tests.support.udp_link LISTEN_PORT TO_HOST TO_PORT [--loss 0.01] [--delay 0.02] [--jitter 0.01] …

The first sender is the near side. `SIGUSR1` gives the relay a new socket on the far side, which is what a NAT does to a
device when it forgets its binding.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket

from tests.support.link_emulator import Link, LinkConditions

BUFFER = 8 << 20
_SO_RCVBUFFORCE = 33


class Relay:
    """Between one near side and one far side."""

    def __init__(self, port: int, far: tuple[str, int], conditions: LinkConditions, seed: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._to_far, self._to_near = Link(conditions, seed), Link(conditions, seed + 1)
        self._timers: dict[Link, asyncio.TimerHandle] = {}
        self._far = far
        self._near_address: tuple[str, int] | None = None
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
        try:
            made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)  # a burst is for the link to lose, not for us
        except OSError:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        return made

    def _from_near(self) -> None:
        for _ in range(64):
            try:
                data, self._near_address = self._near.recvfrom(65_535)
            except OSError:
                return
            self._offer(data, True)

    def _from_far(self) -> None:
        for _ in range(64):
            try:
                data = self._far_socket.recv(65_535)
            except OSError:
                return
            self._offer(data, False)

    def _offer(self, data: bytes, to_far: bool) -> None:
        link = self._to_far if to_far else self._to_near
        link.offer(data, self._loop.time())
        self._deliver(link)

    def _deliver(self, link: Link) -> None:
        for data in link.due(self._loop.time()):
            try:
                if link is self._to_far:
                    self._far_socket.sendto(data, self._far)
                elif self._near_address is not None:
                    self._near.sendto(data, self._near_address)
            except OSError:
                pass  # a full buffer loses, as a link does
        due, armed = link.next_due(), self._timers.get(link)
        if due is not None and (armed is None or due < armed.when()):
            if armed is not None:
                armed.cancel()
            self._timers[link] = self._loop.call_at(due, self._timer_due, link)

    def _timer_due(self, link: Link) -> None:
        del self._timers[link]
        self._deliver(link)


async def relay(arguments: argparse.Namespace) -> None:
    """Run until terminated."""
    conditions = LinkConditions(
        loss=arguments.loss,
        delay=arguments.delay,
        jitter=arguments.jitter,
        reordering=arguments.reorder,
        duplication=arguments.duplicate,
        rate=arguments.rate,
    )
    running = Relay(arguments.port, (arguments.host, arguments.to), conditions, arguments.seed)
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
    parser.add_argument("--rate", type=float, help="bytes per second")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(relay(parser.parse_args()))


if __name__ == "__main__":
    main()
