"""A fleet of WireGuard initiators that do nothing but get a session, thousands to a process, an address each.

`make DIRECTORY COUNT PROCESSES` draws keys: `devices.csv` to enrol them, and `keysN` for each process.
`run KEYS SERVER_PUBLIC_KEY NUMBER [ADDRESS]` opens a socket for each, at an address of 127.0.0.0/8 of its own or all at
ADDRESS, as behind one NAT; says so, waits for a line, then has all initiate at once, as after a power cut: each again
after five seconds and jitter while nobody answers, with the cookie that it was sent (whitepaper sections 5.4.7 and
6.4). Prints how many have sessions, and when.
"""

from __future__ import annotations

import base64
import csv
import heapq
import itertools
import json
import os
import random
import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult_base

from lopower.daemon.tai64n import to_tai64n
from lopower.wire.wireguard import TYPE_COOKIE_REPLY, TYPE_RESPONSE, CookieReply
from lopower.wireguard import noise
from lopower.wireguard.constants import REKEY_TIMEOUT
from lopower.wireguard.cookie import CookieGenerator
from lopower.wireguard.handshake import NO_PRESHARED_KEY, CreatedInitiation, LocalIdentity, consume_response

SERVER: Final = ("127.0.0.1", 51820)
GIVE_UP_SECONDS: Final = 60.0
_JITTER: Final = 0.334
_PREPARED: Final = 2


class Initiator:
    """One device."""

    def __init__(self, private_key: bytes, server: bytes, address: str) -> None:
        self.identity = LocalIdentity(private_key)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.connect(SERVER)
        self.socket.setblocking(False)
        self.has_session = False
        self._server = server
        self._static_static = noise.diffie_hellman(private_key, server)
        self._cookies = CookieGenerator(server)
        self._indices = itertools.count(random.randrange(1 << 31))
        self._created: CreatedInitiation | None = None
        self._prepared: deque[tuple[bytes, CreatedInitiation]] = deque()

    def prepare(self) -> None:
        """Work out an initiation that is sent later: ten thousand devices have processors of their own for that."""
        self._prepared.append(
            self.identity.create_initiation(
                remote_static=self._server,
                static_static=self._static_static,
                ephemeral_private=os.urandom(32),
                local_index=next(self._indices),
                timestamp=to_tai64n(time.time_ns()),
                now=0.0,
            )
        )

    def initiate(self, now: float) -> None:
        """Send an initiation."""
        if not self._prepared:
            self.prepare()
        message, self._created = self._prepared.popleft()
        self.socket.send(self._cookies.add_macs(message, now))

    def receive(self, now: float) -> None:
        """An answer: a cookie for the next try, or a response, which is confirmed with a keepalive."""
        message = self.socket.recv(2048)
        if message[0] == TYPE_COOKIE_REPLY:
            self._cookies.consume_reply(CookieReply.parse(message), now)
        elif message[0] == TYPE_RESPONSE and self._created is not None and not self.has_session:
            if int.from_bytes(message[8:12], "little") != self._created.local_index:
                return  # too late: it answers the try before
            index, keys = consume_response(message, self._created, NO_PRESHARED_KEY)
            sealed = ChaCha20Poly1305(keys.send).encrypt(bytes(12), b"", None)
            self.socket.send(struct.pack("<IIQ", 4, index, 0) + sealed)
            self.has_session = True


def run(keys: Path, server: bytes, number: int, shared_address: str | None = None) -> None:
    """See the module."""
    private_keys = keys.read_text().split()
    devices = {}
    poller = select.epoll()
    for index, text in enumerate(private_keys):
        address = shared_address or f"127.{number + 1}.{index // 250}.{index % 250 + 1}"
        device = Initiator(base64.b64decode(text), server, address)
        devices[device.socket.fileno()] = device
        poller.register(device.socket, select.EPOLLIN)
        for _ in range(_PREPARED):
            device.prepare()
    print("open", flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    retries: list[tuple[float, int]] = [(began, descriptor) for descriptor in devices]
    missing = len(devices)
    ended = began
    while missing and time.monotonic() < began + GIVE_UP_SECONDS:
        now = time.monotonic()
        for _ in range(64):
            if not retries or retries[0][0] > now:
                break
            _, descriptor = heapq.heappop(retries)
            if not devices[descriptor].has_session:
                devices[descriptor].initiate(now)
                heapq.heappush(retries, (now + REKEY_TIMEOUT + random.uniform(0, _JITTER), descriptor))
        wait = max(retries[0][0] - now, 0) if retries else 1.0
        for descriptor, _ in poller.poll(wait):
            device = devices[descriptor]
            had = device.has_session
            device.receive(now)
            if device.has_session and not had:
                missing -= 1
                ended = time.monotonic()
    print(json.dumps({"sessions": len(devices) - missing, "seconds": ended - began}))


def make(directory: Path, count: int, processes: int) -> None:
    """See the module."""
    private_keys = [os.urandom(32) for _ in range(count)]
    with (directory / "devices.csv").open("w", newline="") as listed:
        writer = csv.writer(listed)
        writer.writerow(("name", "public_key", "preshared_key"))
        for number, key in enumerate(private_keys):
            writer.writerow((f"fleet{number}", base64.b64encode(crypto_scalarmult_base(key)).decode(), "none"))
    for process in range(processes):
        texts = (base64.b64encode(key).decode() for key in private_keys[process::processes])
        path = directory / f"keys{process}"
        path.touch(0o600)
        path.write_text("\n".join(texts) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        run(Path(sys.argv[2]), base64.b64decode(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
