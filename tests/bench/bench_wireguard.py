"""What sealing and opening cost in CPU time per packet, in one process and without sockets.

    python tests/bench/bench_wireguard.py

Two interfaces hand each other full GSO buffers of 1,420-byte packets, by rows, as the data plane does; then small
turns. The AEAD alone, through the same views, is measured in the same run: the difference is this package's own
share.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from itertools import repeat
from statistics import median

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lopower.wire.datagrams import DatagramBatch, Endpoint
from lopower.wire.rows import PacketRows
from lopower.wireguard.config import InterfaceConfig
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer

SLOT = 65_536
PACKET = 1420
PACKETS = 360
SERVER, DEVICE = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 40000)


class Wire:
    """Takes buffers into the slots of the other side's batch, as a socket with GSO and GRO would."""

    def __init__(self, source: Endpoint) -> None:
        self.batch = DatagramBatch(bytearray(16 * SLOT))
        self.source = source

    def __call__(self, datagrams: memoryview[int], segment_size: int, endpoint: Endpoint, /) -> None:
        offset = len(self.batch.offsets) * SLOT
        self.batch.view[offset : offset + len(datagrams)] = datagrams
        self.batch.append(offset, len(datagrams), segment_size, self.source)


def connected() -> tuple[Interface, Peer, Wire, Interface, Wire]:
    """A device with a session to a server, and what each has on the wire."""

    def interface(wire: Wire, private_key: bytes) -> Interface:
        stamps = iter(range(2**62, 2**63))
        return Interface(
            private_key=private_key,
            config=InterfaceConfig(),
            entropy=os.urandom,
            uniform=lambda a, _: a,
            timestamp=lambda: next(stamps).to_bytes(8, "big") + bytes(4),
            transmit=wire,
        )

    up, down = Wire(DEVICE), Wire(SERVER)
    device, server = interface(up, os.urandom(32)), interface(down, os.urandom(32))
    to_server = device.add_peer(server.public_key, allowed_ips=["0.0.0.0/0"], endpoint=SERVER)
    server.add_peer(device.public_key, allowed_ips=["10.90.0.2/32"])
    device.connect(to_server, 0.0)
    for wire, receiver in ((up, server), (down, device), (up, server)):
        receiver.receive(wire.batch, 0.0)
        for event in receiver.take_events():
            if token := getattr(event, "token", None):
                receiver.timestamps_stored(token, 0.0)
        wire.batch.clear()
    return device, to_server, up, server, down


class Aead:
    """The AEAD alone over as many packets, through views of the same kind, and the copy that stands for the socket."""

    def __init__(self, count: int, size: int) -> None:
        rows = PacketRows(count, 1424)
        message = size + 32
        self._wire = Wire(DEVICE)
        self._view = view = memoryview(bytearray(count * message))
        self._step = min(64, 65_507 // message) * message
        self._message = message
        cipher = ChaCha20Poly1305(os.urandom(32))
        self._encrypt_into, self._decrypt_into = cipher.encrypt_into, cipher.decrypt_into
        self._nonces = [view[at + 4 : at + 16] for at in range(0, count * message, message)]
        self._bodies = [view[at + 16 : at + message] for at in range(0, count * message, message)]
        self._packets = rows.slices(0, size)

    def seal(self) -> None:
        deque(map(self._encrypt_into, self._nonces, self._packets, repeat(None), self._bodies), 0)
        self._wire.batch.clear()
        for at in range(0, len(self._view), self._step):
            self._wire(self._view[at : at + self._step], self._message, SERVER)

    def open(self) -> None:
        deque(map(self._decrypt_into, self._nonces, self._bodies, repeat(None), self._packets), 0)


def timed(action: Callable[[], None]) -> int:
    """Nanoseconds of CPU."""
    started = time.process_time_ns()
    action()
    return time.process_time_ns() - started


def main() -> None:
    device, to_server, up, server, _ = connected()
    rows = PacketRows(PACKETS, 1424)

    def seal() -> None:
        up.batch.clear()
        device.send_rows(to_server, rows, 0, count, size, size, 1.0)

    def open_() -> None:
        received = server.receive(up.batch, 1.0)
        if received.count != count or not received.lengths[:count].all():
            raise SystemExit(f"{received.count} of {count} packets arrived: {server.counters}")

    print("CPU us per packet, medians; `own` is what is not the AEAD's")
    print("  bytes  a turn   seal   open   AEAD: seal   open    own")
    for size in (1420, 64):
        for row in range(PACKETS):
            packet = rows.packet(row, size)
            packet[:20] = bytes.fromhex("450000000000400040060000") + bytes((10, 90, 0, 2, 10, 90, 0, 1))
            packet[2:4] = size.to_bytes(2, "big")
        for count in (PACKETS, 45, 8, 1):
            aead = Aead(count, size)
            # One after the other in each repetition: a shared machine's clock moves within seconds.
            actions = (aead.seal, seal, open_, aead.open)
            samples = [[timed(action) for action in actions] for _ in range(2000 // (count // 8 + 1))]
            own = median(s + o - a - b for a, s, o, b in samples)
            columns = [median(column) / count / 1000 for column in zip(*samples, strict=True)]
            aead_seal, sealing, opening, aead_open = columns
            print(
                f"  {size:5}  {count:6}  {sealing:5.2f}  {opening:5.2f}        {aead_seal:5.2f}  {aead_open:5.2f}"
                f"  {own / count / 1000:5.2f}"
            )


if __name__ == "__main__":
    main()
